"""The monitor's own signs of life: schedulers, runs, the pool's size, the birth of the store, the snapshot file."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from shared.store import keys
from shared.store.scripts import read_script

DEFAULT_WORKERS, DEFAULT_QUEUE_SIZE = 5, 3
SCHEDULER_KEPT_MS = 60_000
LEASE_MS = 4_000
"""How long a run is believed to be alive without a sign; it gives one every second."""

_RENEW = read_script("vitals_renew")
_RELEASE = read_script("vitals_release")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """``worker_thread``: worker processes that the pool keeps; ``queue_size``: check batches that may wait for each."""

    worker_thread: int = DEFAULT_WORKERS
    queue_size: int = DEFAULT_QUEUE_SIZE


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """What is known of the snapshot file: digests of what we read or wrote, changes it holds, when, the last error."""

    digest: str | None
    writing: str | None
    changes: int
    at: int
    error: str | None


class Vitals:
    """Small facts that processes tell each other; every one expires or is overwritten."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    def now(self) -> float:
        """Redis's clock, seconds since the epoch: the one clock that all schedulers share."""
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)

    # --- schedulers ---

    def beat(self, name: str, *, now: int) -> None:
        """A scheduler is alive; asked for by ``/readyz`` and the page."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(keys.SCHEDULERS, {name: now})
            pipe.zremrangebyscore(keys.SCHEDULERS, "-inf", now - SCHEDULER_KEPT_MS)
            pipe.execute()

    def leave(self, name: str) -> None:
        """A scheduler has stopped in good order."""
        self._redis.zrem(keys.SCHEDULERS, name)

    def last_beat(self) -> int | None:
        """When the newest tick of any scheduler was (ms); None: none is known."""
        found = self._redis.zrange(keys.SCHEDULERS, 0, 0, desc=True, withscores=True)
        return int(found[0][1]) if found else None

    # --- runs ---

    def lease(self, work: str, owner: str) -> bool:
        """Take ``work`` (a slot) for the run ``owner``; False when another run holds it alive."""
        return bool(self._redis.set(keys.lease(work), owner, nx=True, px=LEASE_MS))

    def renew(self, work: Sequence[str], owner: str) -> None:
        """The run is alive and still has this work."""
        if work:
            self._renew(keys=[keys.lease(each) for each in work], args=[owner, LEASE_MS])

    def release(self, work: Sequence[str], owner: str) -> None:
        """The run is done with this work."""
        if work:
            self._release(keys=[keys.lease(each) for each in work], args=[owner])

    def is_leased(self, work: str) -> bool:
        return bool(self._redis.exists(keys.lease(work)))

    def straggle(self, slot: str, deadlines: Mapping[str, int]) -> None:
        """These targets of the slot (id -> deadline, ms) are still being checked while its next turn begins."""
        if deadlines:
            key = keys.straggling(slot)
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(key, dict(deadlines))
                pipe.pexpireat(key, max(deadlines.values()) + 1000)
                pipe.execute()

    def straggling(self, slot: str, *, now: int) -> set[str]:
        """The targets of the slot that another run still checks."""
        return {raw.decode() for raw in self._redis.zrange(keys.straggling(slot), now, "+inf", byscore=True)}

    def caught_up(self, slot: str, target_ids: Sequence[str]) -> None:
        if target_ids:
            self._redis.zrem(keys.straggling(slot), *target_ids)

    def batch_began(self, run: str, *, now: int) -> None:
        """The run is the latest check batch."""
        self._redis.hset(keys.BATCH, mapping={"run": run, "started_at": now, "ended_at": 0})

    def batch_ended(self, run: str, *, now: int) -> None:
        """The run is over; forgotten when another has begun since."""
        if self._redis.hget(keys.BATCH, "run") == run.encode():
            self._redis.hset(keys.BATCH, "ended_at", now)

    def batch(self) -> tuple[int | None, int | None]:
        """When the latest check batch began and ended (ms); the end is None while it runs, both before the first."""
        started, ended = self._redis.hmget(keys.BATCH, "started_at", "ended_at")
        return int(started) if started else None, int(ended or 0) or None

    def wait_seconds(self, name: str, *, limit: int, seconds: int) -> int:
        """Counts one more of ``name``; 0 when it is within ``limit`` in a window of ``seconds``, else its rest.

        One who is refused counts, too, and lengthens nothing.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.limit(name), 0, nx=True, ex=seconds)
            pipe.incr(keys.limit(name))
            pipe.pttl(keys.limit(name))
            _, count, left_ms = pipe.execute()
        return 0 if count <= limit else max(1, math.ceil(left_ms / 1000))

    # --- the pool ---

    def queue_settings(self) -> QueueSettings:
        workers, size = self._redis.hmget(keys.QUEUE, "worker_thread", "queue_size")
        return QueueSettings(int(workers or 0) or DEFAULT_WORKERS, int(size or 0) or DEFAULT_QUEUE_SIZE)

    def set_queue_settings(self, worker_thread: int, queue_size: int) -> QueueSettings:
        """0 means the default. The pool and the scheduler follow within about a second."""
        self._redis.hset(keys.QUEUE, mapping={"worker_thread": worker_thread, "queue_size": queue_size})
        return self.queue_settings()

    # --- the store itself ---

    def link_secret(self) -> bytes:
        """The 32 bytes that sign the links of mails, made by whoever needs them first; they die with the store."""
        found = self._redis.get(keys.SIGNING)
        if found is None:
            self._redis.set(keys.SIGNING, secrets.token_bytes(32), nx=True)
            found = self._redis.get(keys.SIGNING)
        return bytes(found)

    def orders(self) -> int:
        """A number that changes whenever other slots are needed."""
        return int(self._redis.get(keys.ORDERS) or 0)

    def changes(self) -> int:
        """A number that changes whenever the snapshot is worth writing."""
        return int(self._redis.get(keys.CHANGES) or 0)

    def is_born(self) -> bool:
        """False after Redis was emptied, until the snapshot was read."""
        return bool(self._redis.exists(keys.BORN))

    def birth(self) -> str | None:
        """A token that stays the same until Redis is emptied; None then."""
        raw = self._redis.get(keys.BORN)
        return raw.decode() if raw else None

    def bear(self) -> None:
        """The snapshot was read, or there is none: from now on an empty list of targets is what people want."""
        self._redis.set(keys.BORN, secrets.token_hex(8), nx=True)

    def snapshot(self) -> SnapshotRecord:
        fields = self._redis.hmget(keys.SNAPSHOT, "digest", "writing", "changes", "at", "error")
        digest, writing, changes, at, error = (raw.decode() if raw else None for raw in fields)
        return SnapshotRecord(digest, writing, int(changes or -1), int(at or 0), error)

    def set_snapshot(self, **fields: str | int) -> None:
        """Update the record: digest, writing, changes, at, error."""
        self._redis.hset(keys.SNAPSHOT, mapping=dict(fields))
