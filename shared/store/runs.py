"""What every run of check jobs works on, so that others take it up when the run vanishes without a goodbye.

A run writes down each piece of its work before it begins with it, gives a sign every second, and takes its name out
when all is recorded. A scheduler that finds a sign overdue enqueues what has no result, in the same transaction that
takes the name out: killed before it, the next scheduler does it; killed after it, it is done.

All stamps of signs are of the one clock of Redis. Set forward, it makes runs look overdue, whose checks are then made
twice; set back, a run that vanishes then is noticed later by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from shared.store import keys
from shared.store.scripts import read_script

SIGN_MS = 8_000
"""How long a run is believed to be alive without a sign; a machine that is busy may hold one up for a while."""
KEPT_MS = 3_600_000
"""How long it is known of a run that it has begun: longer than RQ lists the job of a worker that has vanished."""

HOLD = read_script("functions/hold")
"""A Lua function for whoever gives a run its work in the same atomic step as it is taken from elsewhere."""
_SIGN = read_script("runs_sign")
_HOLD = read_script("runs_hold", HOLD)


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work: the job that would do it, and when the run began with it (ms, the run's own clock)."""

    began: int
    function: str
    args: tuple[Any, ...]

    def packed(self) -> bytes:
        """As it stands in Redis: a JSON list of the three."""
        return orjson.dumps([self.began, self.function, list(self.args)])

    @classmethod
    def parse(cls, raw: bytes) -> Work:
        began, function, args = orjson.loads(raw)
        return cls(began, function, tuple(args))


def holding(run: str, number: int, work: Work) -> tuple[list[str], list[Any]]:
    """The keys and arguments of HOLD."""
    return [keys.RUNS, keys.run(run)], [run, SIGN_MS, KEPT_MS, number, work.packed()]


class Runs:
    """The runs that are alive, by their signs; a run is named by the id of the job that it began with."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._sign = redis.register_script(_SIGN)
        self._hold = redis.register_script(_HOLD)

    # --- for the run ---

    def hold(self, run: str, number: int, work: Work) -> None:
        """The run has this piece of work in hand, and is alive; the number is its own choice."""
        names, arguments = holding(run, number, work)
        self._hold(keys=names, args=arguments)

    def sign(self, run: str, done: Collection[int] = ()) -> bool:
        """The run is alive, and done with these pieces; False when nobody knows it, and it has to hold all again.

        So it is after Redis was emptied, or when the run was away for so long that its work was given to others.
        """
        return bool(self._sign(keys=[keys.RUNS, keys.run(run)], args=[run, SIGN_MS, KEPT_MS, *done]))

    def held(self, run: str, number: int) -> Work | None:
        raw = self._redis.hget(keys.run(run), number)
        return Work.parse(raw) if raw else None

    def end(self, run: str) -> None:
        """Everything is recorded."""
        with self._redis.pipeline(transaction=True) as pipe:
            _forget(pipe, run)
            pipe.execute()

    # --- for the scheduler ---

    def overdue(self, *, now: int) -> list[str]:
        """The runs whose sign is overdue at ``now`` (ms, Redis' clock)."""
        return [raw.decode() for raw in self._redis.zrange(keys.RUNS, "-inf", now, byscore=True)]

    def have_begun(self, runs: Collection[str]) -> set[str]:
        """Those of these runs that have held any work within the last hour."""
        if not runs:
            return set()
        with self._redis.pipeline(transaction=False) as pipe:
            for run in runs:
                pipe.exists(keys.run(run))
            return {run for run, is_known in zip(runs, pipe.execute(), strict=True) if is_known}

    def take_up(self, run: str, plan: Callable[[list[Work]], Callable[[Pipeline], None]], *, now: int) -> bool:
        """Give the work of a run that is overdue to others, all or nothing; False when it has given a sign meanwhile.

        ``plan`` says, from what the run held, how it is enqueued: a function that is called after MULTI.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            try:
                # Every sign touches it, and so does another scheduler that takes the same run up.
                pipe.watch(keys.run(run))
                due = pipe.zscore(keys.RUNS, run)
                if due is None or due > now:
                    return False
                found = pipe.hgetall(keys.run(run))
                enqueue = plan([Work.parse(raw) for name, raw in sorted(found.items()) if name.isdigit()])
                pipe.multi()
                enqueue(pipe)
                _forget(pipe, run)
                pipe.execute()
            except WatchError:
                return False
        return True


def _forget(pipe: Any, run: str) -> None:
    """No work and no sign any more; that there was one stays known for a while."""
    pipe.zrem(keys.RUNS, run)
    pipe.delete(keys.run(run))
    pipe.hset(keys.run(run), "begun", 1)
    pipe.pexpire(keys.run(run), KEPT_MS)
