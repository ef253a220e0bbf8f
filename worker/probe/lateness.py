"""What the loop was late with: a moment ago it had its hands full with others."""

from __future__ import annotations

import time

from worker.probe.witness import Witness


class Lateness:
    """The account of one exchange: when something was handed over, and by how much that was late."""

    __slots__ = ("_began", "_noted", "_open", "is_known", "sockets")

    def __init__(self) -> None:
        self.is_known = False
        """Whether something has been noted."""
        self.sockets = 0
        """How many are watched: with several, of which one will do, nobody knows which a phase waited for."""
        self._open: tuple[Witness | None, float, float] | None = None
        """What is being handed over: who sees what comes in meanwhile, when that began, and by how much it was late."""
        self._began: float | None = None
        self._noted: list[tuple[float, float]] = []

    def begin(self) -> None:
        """The first socket is asked for, a moment after libcurl began to count; later calls do nothing."""
        if self._began is None:
            self._began = time.monotonic()

    def note(self, now: float, seconds: float) -> None:
        """The latest of what is handed over ``now``, monotonic, came so many seconds ago.

        Once something has been noted all that follows is to be, late or not.
        """
        self.is_known = True
        self._noted.append((now, seconds))

    def open(self, witness: Witness | None, now: float, seconds: float) -> None:
        """Something is handed over ``now``, monotonic, so many seconds late if the witness says so in the end."""
        self._open = witness, now, seconds

    def read(self, *, is_whole: bool = False) -> None:
        """What was read goes to us, the end of the answer with it if it ``is_whole``.

        By its clock libcurl reads, too, what nobody has handed over.
        """
        if self._open is None:
            if self.is_known:
                self.note(time.monotonic(), 0.0)
        elif is_whole and (witness := self._open[0]) is not None:
            witness.look()

    def answered(self) -> None:
        """We answer what was read: what is read from now on is nothing that we were late with."""
        if self._open is None:
            self.read()
        else:
            self.close()

    def close(self) -> None:
        """It has been handed over."""
        if self._open is None:
            return
        (witness, now, seconds), self._open = self._open, None
        if witness is not None and witness.leave():
            self.note(now, seconds)
        elif self.is_known:
            self.note(now, 0.0)

    @property
    def last_ms(self) -> float:
        """By how much the loop was late with what was handed over last."""
        return self._noted[-1][1] * 1000 if self._noted else 0.0

    def milliseconds(self, begun: int, end: int) -> float:
        """By how much the loop was late with what ended a phase; 0 where nothing was handed over in it.

        ``begun`` and ``end`` are microseconds of libcurl's count. All before the end was late, too, but the phase
        waited for something else meanwhile.
        """
        if self._began is not None:
            for now, seconds in reversed(self._noted):
                at = (now - self._began) * 1e6
                if at <= end:
                    return seconds * 1000 if at > begun else 0.0
        return 0.0
