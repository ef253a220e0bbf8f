"""What checks cost, measured by the runs themselves: sums of the last minutes."""

from __future__ import annotations

from typing import Any

from redis import Redis

from shared.capacity import Load
from shared.store import keys

MINUTES = 5
_MINUTE_MS = 60_000


class Loads:
    """One hash of sums a minute, each of which expires by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes

    def add(self, load: Load, *, now: int) -> None:
        """A run that ended at ``now`` (ms) did this; seven commands in one round trip, however many checks it made."""
        key = keys.load(now // _MINUTE_MS)
        with self._redis.pipeline(transaction=True) as pipe:
            for name, value in (
                ("checks", load.checks),
                ("cpu_us", load.cpu_seconds * 1e6),
                ("flight_ms", load.flight_seconds * 1e3),
                ("run_ms", load.run_seconds * 1e3),
                ("open_ms", load.open_seconds * 1e3),
            ):
                pipe.hincrby(key, name, round(value))
            pipe.expire(key, (MINUTES + 2) * 60)
            pipe.execute()

    def recent(self, *, now: int) -> Load:
        """The sums of the present minute and the five before it."""
        with self._redis.pipeline(transaction=False) as pipe:
            for ago in range(MINUTES + 1):
                pipe.hmget(keys.load(now // _MINUTE_MS - ago), "checks", "cpu_us", "flight_ms", "run_ms", "open_ms")
            rows = pipe.execute()
        columns = zip(*rows, strict=True)
        checks, cpu_us, flight_ms, run_ms, open_ms = (sum(int(value or 0) for value in column) for column in columns)
        return Load(checks, cpu_us / 1e6, flight_ms / 1e3, run_ms / 1e3, open_ms / 1e3)
