"""What one run works on, as it is written down in Redis, so that others take it up should the run vanish."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.queues import CHECK_AGAIN, CHECK_TARGETS, Queues, Taken
from shared.store import Runs, Work


class Ledger:
    """The pieces of work of one run. Redis hears of a piece before it is begun, and once a second of all together."""

    def __init__(self, runs: Runs, run: str) -> None:
        self._runs = runs
        self._run = run
        self._pieces: dict[int, tuple[Sequence[str], Work]] = {}
        self._unsure: set[int] = set()
        self._count = 0

    def hold_targets(self, target_ids: Sequence[str], scheduled_at: int | None, again: int, number: int | None) -> None:
        """Targets that are about to be checked; ``number`` is that of a job that was taken for them, if one was."""
        self._hold(target_ids, Work(_now(), CHECK_TARGETS, (list(target_ids), scheduled_at, again)), number)

    def hold_opinions(self, target_ids: Sequence[str], again: int, number: int | None) -> None:
        """Targets that are about to be checked once more."""
        self._hold(target_ids, Work(_now(), CHECK_AGAIN, (list(target_ids), again)), number)

    def _hold(self, target_ids: Sequence[str], work: Work, number: int | None) -> None:
        if target_ids:
            number = self._next() if number is None else number
            self._pieces[number] = (target_ids, work)
            self._runs.hold(self._run, number, work)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def take_job(self, queues: Queues) -> tuple[int, Taken] | None:
        """Take a job that waits, if one does, and its number. It is to be begun under :meth:`doubting`, too."""
        number = self._next()
        with self.doubting(number):
            taken = queues.take_waiting_check(self._run, number)
        if taken is None:
            return None
        # Until it is held by its targets; a slot that has none, or that another run works on, never is.
        self._pieces[number] = ((), Work(0, taken.function, taken.args))
        return number, taken

    @contextmanager
    def doubting(self, number: int) -> Iterator[None]:
        """Where Redis goes away in here, it is not known whether the run has this piece; :meth:`sign` tells later."""
        try:
            yield
        except (RedisConnectionError, RedisTimeoutError):
            self._unsure.add(number)
            raise

    def sign(self, in_hand: Container[str]) -> list[tuple[int, Work]]:
        """The run is alive, and has the targets ``in_hand`` before it; the others are recorded, or not to be checked.

        Returns what it has taken without hearing of it, and did not begin.
        """
        done = [number for number, piece in self._pieces.items() if not self._is_left(number, piece[0], in_hand)]
        if not self._runs.sign(self._run, done):
            for number in self._pieces.keys() - done:
                self._runs.hold(self._run, number, self._pieces[number][1])
        for number in done:
            del self._pieces[number]
        held = [(number, self._runs.held(self._run, number)) for number in sorted(self._unsure)]
        self._unsure.clear()
        return [(number, work) for number, work in held if work is not None]

    def _is_left(self, number: int, target_ids: Sequence[str], in_hand: Container[str]) -> bool:
        return number in self._unsure or any(each in in_hand for each in target_ids)

    def end(self) -> None:
        """All is recorded. Where this is lost, a scheduler finds nothing that is left to do.

        A run that does not know what else it has leaves that to the scheduler, too.
        """
        if self._count and not self._unsure:
            self._runs.end(self._run)


def _now() -> int:
    return int(time.time() * 1000)
