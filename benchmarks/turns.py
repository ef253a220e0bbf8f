"""One turn of a system that is measured: how many checks, in what time, for what CPU and what memory.

A system is some processes under names of our choice, its parts. What they cost while nothing is to be done is measured
first, and taken off.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from benchmarks.accounts import cpu_seconds, memory_bytes
from benchmarks.waiting import wait_until

_SAMPLE_SECONDS = 0.1
_SETTLE_SECONDS = 60.0
_STEP_SECONDS = 0.02
_WRONG_SHARE = 0.1
"""With more of them than this nothing was measured."""


@dataclass(frozen=True, slots=True)
class Turn:
    """``cpu_ms``: of one check, by part; ``memory_mb``: the most that a part has held, PSS.

    ``wrong``: checks that found a target otherwise than it is, as on a machine that is too busy for their timeout.
    """

    checks: int
    wrong: int
    seconds: float
    cpu_ms: Mapping[str, float]
    memory_mb: Mapping[str, float]

    @property
    def total_cpu_ms(self) -> float:
        return sum(self.cpu_ms.values())


class System(ABC):
    """Something that checks targets. A context: its processes run inside it."""

    idle_seconds: float = 3.0
    """How long is looked at what its processes cost while they have nothing to do."""

    def __init__(self) -> None:
        self._idle: Mapping[str, float] = {}

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[int]]:
        """The pids of the processes that live now, by part; always the same parts."""

    @abstractmethod
    def is_at_rest(self) -> bool:
        """Whether no child runs that its parent has not waited for yet."""

    @abstractmethod
    def work(self) -> tuple[int, int]:
        """Check all targets; how many checks that were, and how many of them were wrong."""

    def turn(self) -> Turn:
        """Measure one turn of the work."""
        if not self._idle:
            self._idle = self._learn_idle()
        before = self._cpu()
        with _watched_memory(self) as peaks:
            began = time.monotonic()
            checks, wrong = self.work()
            seconds = time.monotonic() - began
        after = self._cpu()
        lasted = time.monotonic() - began
        cpu = {name: after[name] - before[name] - self._idle[name] * lasted for name in before}
        assert wrong <= checks * _WRONG_SHARE, f"{type(self).__name__}: {wrong} of {checks} results are wrong"
        return Turn(
            checks,
            wrong,
            seconds,
            {name: max(0.0, 1000 * spent / checks) for name, spent in cpu.items()},
            {name: peak / 1e6 for name, peak in peaks.items()},
        )

    def _learn_idle(self) -> dict[str, float]:
        """CPU seconds a second, by part, while there is nothing to do."""
        before, began = self._cpu(), time.monotonic()
        time.sleep(self.idle_seconds)
        after, lasted = self._cpu(), time.monotonic() - began
        return {name: (after[name] - before[name]) / lasted for name in before}

    def _cpu(self) -> dict[str, float]:
        what = f"{type(self).__name__} at rest after its last result"
        wait_until(self.is_at_rest, _SETTLE_SECONDS, what, step_seconds=_STEP_SECONDS)
        return {name: cpu_seconds(pids) for name, pids in self.parts().items()}


@dataclass(slots=True)
class _Watching:
    over: threading.Event = field(default_factory=threading.Event)
    peaks: dict[str, int] = field(default_factory=dict)

    def look(self, system: System) -> None:
        for name, pids in system.parts().items():
            self.peaks[name] = max(self.peaks.get(name, 0), memory_bytes(pids))


@contextmanager
def _watched_memory(system: System) -> Iterator[dict[str, int]]:
    """The most that each part has held so far, looked at ten times a second, on our own account."""
    watching = _Watching()

    def watch() -> None:
        while not watching.over.wait(_SAMPLE_SECONDS):
            watching.look(system)

    thread = threading.Thread(target=watch, daemon=True)
    watching.look(system)
    thread.start()
    try:
        yield watching.peaks
    finally:
        watching.over.set()
        thread.join()
