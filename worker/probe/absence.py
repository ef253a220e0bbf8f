"""When the loop did not look: what was late meanwhile may have been in time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

ABSENT_SECONDS = 0.05
"""A loop that is away for less is not said to be: answers wait that long in a busy system, too."""
_KEPT = 8000
"""Some minutes of absences, more than any attempt takes."""


@dataclass(frozen=True, slots=True)
class _Span:
    began: float
    ended: float
    is_deaf: bool

    def within(self, since: float, until: float) -> float:
        return max(0.0, min(self.ended, until) - max(self.began, since))


class Absences:
    """All of one loop; times are monotonic seconds."""

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque(maxlen=_KEPT)

    def note(self, began: float, ended: float, *, is_deaf: bool) -> None:
        """Nobody looked. ``is_deaf``: nor did anybody hear the network, because the owner or the process was away."""
        if ended - began >= ABSENT_SECONDS:
            self._spans.append(_Span(began, ended, is_deaf))

    def lost_since(self, since: float) -> float:
        """Seconds in which nobody looked."""
        total = 0.0
        for span in reversed(self._spans):
            if span.ended <= since:
                break
            total += span.within(since, span.ended)
        return total

    def missed(self, since: float, alone_since: float, deadline: float) -> float:
        """Seconds by which an attempt that timed out at ``deadline`` may have been too late by our doing.

        Its steps before ``alone_since`` were late by all that nobody heard. Since then it waited for one thing alone:
        that is heard when somebody listens again, unless the deadline has passed meanwhile.
        """
        total = 0.0
        for span in reversed(self._spans):
            if span.ended <= since:
                break
            if span.is_deaf:
                is_at_end = span.ended >= deadline - ABSENT_SECONDS
                total += span.within(since, deadline if is_at_end else alone_since)
        return total
