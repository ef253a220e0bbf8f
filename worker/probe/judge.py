"""Assertions that may take long are judged in a thread, so that no pattern and no document holds up the loop.

RE2 lets go of Python's lock while it searches; what does not, JSON above all, pauses after each millisecond. There is
one thread, which has nothing to say about time: how long a judgement may take, ``shared.assertions`` knows.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import PriorityQueue

from shared.assertions import Answer, Assertion, Finding, finding, work_of
from worker.probe.failure import FAULTS

_PAUSE_SECONDS = 0.0002
"""Long enough for the loop to wake up and take Python's lock."""


@dataclass(slots=True, eq=False)
class Case:
    """What is to be judged, and what came of it."""

    assertions: Sequence[Assertion]
    answer: Answer | None
    """None once nobody wants to know any more."""
    finding: Finding = None
    fault: BaseException | None = None
    """What broke in the monitor itself meanwhile."""

    def drop(self) -> None:
        """Nobody wants to know any more: the body need not be kept."""
        self.answer = None


class Judge:
    """Judges one case after the other in a daemon thread, which is started with the first; the shortest come first.

    Short ones so wait for one long one at most. ``wake_fd`` becomes readable when there is something for
    :meth:`judged`. All methods belong to one thread, the engine's.
    """

    def __init__(self) -> None:
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._cases: PriorityQueue[tuple[int, int, Case | None]] = PriorityQueue()
        self._judged: deque[Case] = deque()
        self._thread: threading.Thread | None = None
        self._count = 0
        self._is_open = True
        self._closing = threading.Lock()

    def ask(self, case: Case) -> None:
        """Raises RuntimeError when there is no thread and none can be started."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="probe-judge", daemon=True)
            thread.start()
            self._thread = thread
        self._count += 1
        work = work_of(case.assertions, case.answer) if case.answer else 0
        self._cases.put((work, self._count, case))

    def judged(self) -> list[Case]:
        """All cases that were judged since the last call."""
        os.eventfd_read(self.wake_fd)
        return [self._judged.popleft() for _ in range(len(self._judged))]

    def close(self) -> None:
        """Ends the thread, now or when it is done with its case; waits for nobody. Closing twice is allowed."""
        with self._closing:
            if not self._is_open:
                return
            self._is_open = False
            os.close(self.wake_fd)
        self._cases.put((-1, 0, None))

    def _work(self) -> None:
        while self._is_open and (case := self._cases.get()[2]) is not None:
            _judge(case)
            with self._closing:  # A thread that was busy must not write to a descriptor that is another's now.
                if self._is_open:
                    self._judged.append(case)
                    os.eventfd_write(self.wake_fd, 1)
            del case  # Else its body would be kept until there is another.


def _judge(case: Case) -> None:
    answer = case.answer
    if answer is None:
        return
    try:
        case.finding = finding(case.assertions, answer, _pause)
    except FAULTS as fault:
        case.fault = fault
    case.answer = None


def _pause() -> None:
    time.sleep(_PAUSE_SECONDS)
