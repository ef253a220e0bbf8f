"""What the loop was late with: a moment ago it had its hands full with others."""

from __future__ import annotations

import time


class Lateness:
    """The account of one exchange: when something was handed over, and by how much that was late."""

    __slots__ = ("_began", "_noted", "is_encrypted", "is_known")

    def __init__(self) -> None:
        self.is_encrypted = False
        """Whether what comes in first may be of no matter to the phase that is under way."""
        self.is_known = False
        """Whether something has been noted."""
        self._began: float | None = None
        self._noted: list[tuple[float, float]] = []

    def begin(self) -> None:
        """The first socket is asked for, microseconds after libcurl began to count; later calls do nothing."""
        if self._began is None:
            self._began = time.monotonic()

    def note(self, now: float, seconds: float) -> None:
        """What is handed over ``now``, monotonic, has been there for so many seconds.

        Once something has been noted all that follows is to be, late or not.
        """
        self.is_known = True
        self._noted.append((now, seconds))

    def milliseconds(self, begun: int, end: int) -> float:
        """By how much a phase came too late to its end; ``begun`` and ``end`` are microseconds of libcurl's count.

        What counts is what ended it. All before was late, too, but the phase waited for something else meanwhile.
        """
        if not self._noted or self._began is None:
            return 0.0
        for now, seconds in reversed(self._noted):
            at = (now - self._began) * 1e6
            if at <= end:
                return seconds * 1000 if at > begun else 0.0
        return 0.0
