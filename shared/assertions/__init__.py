"""What must hold of an answer beside its status code: the schema of assertions, and their judgement. Pure.

No assertion holds a worker, whatever the answer: ``accepted`` refuses patterns and paths that multiply, ``reading``
keeps the work of all assertions of one answer within one budget of time. ``rules`` are the assertions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.assertions.reading import (
    LARGEST_BODY,
    LONGEST_FOUND,
    Answer,
    Reading,
    TooMuchError,
    UndecidedError,
    UnjudgedError,
)
from shared.assertions.rules import Assertion

__all__ = [
    "LARGEST_BODY",
    "Answer",
    "Assertion",
    "Broken",
    "Finding",
    "TooMuchError",
    "Undecided",
    "finding",
    "quick_finding",
    "work_of",
]


@dataclass(frozen=True, slots=True)
class Broken:
    """An assertion that does not hold, in plain words without any secret."""

    assertion: str
    expected: str
    found: str

    @property
    def sentence(self) -> str:
        return f"{self.assertion}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Undecided:
    """An assertion of which nobody knows whether it holds, for a limit of the monitor's own, and for none but that."""

    assertion: str
    why: str

    @property
    def sentence(self) -> str:
        return f"{self.assertion}: {self.why}"


Finding = Broken | Undecided | None
"""None when all assertions hold."""


def quick_finding(assertions: Sequence[Assertion], answer: Answer) -> Finding:
    """As :func:`finding`, but raises :class:`TooMuchError` when that may take more than a few milliseconds."""
    return _finding(assertions, Reading(answer))


def finding(assertions: Sequence[Assertion], answer: Answer, pause: Callable[[], None] = lambda: None) -> Finding:
    """The first assertion that does not hold, else the first that is undecided.

    Never raises for an answer, however broken it is. Takes two seconds of CPU at the very most, and microseconds as a
    rule; ``pause`` is called once a millisecond or so.
    """
    return _finding(assertions, Reading(answer, pause))


def work_of(assertions: Sequence[Assertion], answer: Answer) -> int:
    """About how much work the judgement is, to tell a long one from a short one before it begins."""
    return len(answer.body) * sum(assertion.weight for assertion in assertions)


def _finding(assertions: Sequence[Assertion], reading: Reading) -> Finding:
    undecided: Undecided | None = None
    conceal = reading.answer.conceal
    for assertion in assertions:
        try:
            found = assertion.judge(reading)
        except UnjudgedError as unjudged:
            found = str(unjudged)
        except UndecidedError as limit:
            undecided = undecided or Undecided(assertion.label(conceal), str(limit))
            continue
        if found is not None:
            return Broken(assertion.label(conceal), assertion.expected(conceal), found[:LONGEST_FOUND])
    return undecided
