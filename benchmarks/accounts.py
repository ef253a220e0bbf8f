"""The operating system's accounts of processes: the CPU that they have used, and the memory that they hold."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of the children that they have waited for, in ticks of 10 ms.

    A child counts from the moment on when it has ended: read this while no work horse runs.
    """
    return sum(map(_ticks, pids)) / _TICKS


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return sum(map(int, stat.rpartition(")")[2].split()[11:15]))


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes hold now: PSS, in which a page that several share counts once, in equal parts."""
    return sum(map(_pss, pids))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # It has ended meanwhile.
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """A process and all that descend from it and live."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def resident_mb(pid: int, *, peak: bool = False) -> float:
    """The resident memory of one process, with what it shares; with ``peak`` the most that it ever was."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


class Meter:
    """CPU of several families of processes between two moments, in percent of one core."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.begin()

    def begin(self) -> None:
        self._began_at = time.monotonic()
        self._before = {name: cpu_seconds(family(pid)) for name, pid in self._pids.items()}

    def percent(self) -> dict[str, float]:
        """By process, since the beginning."""
        seconds = time.monotonic() - self._began_at
        return {
            name: 100 * (cpu_seconds(family(pid)) - self._before[name]) / seconds for name, pid in self._pids.items()
        }


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not pass; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
