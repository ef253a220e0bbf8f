"""What processes have used, as the operating system accounts for it: CPU of whole families, and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """The process, what it has forked, and what these have forked, as far as they live."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """CPU that the process and its family have used, with those that have ended."""
    return sum(_cpu_seconds(each) for each in family(pid))


def _cpu_seconds(pid: int) -> float:
    """With the children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    """Resident memory now, or with ``VmHWM`` the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Meter:
    """CPU of several processes between two moments, in percent of one core."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.begin()

    def begin(self) -> None:
        self._began_at = time.monotonic()
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def percent(self) -> dict[str, float]:
        """By process, since the beginning."""
        seconds = time.monotonic() - self._began_at
        return {name: 100 * (cpu_seconds(pid) - self._before[name]) / seconds for name, pid in self._pids.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not pass; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
