"""The queues, the names of the jobs, and the verbs that enqueue them; who works on them, read from RQ's own keys.

Jobs are named by string, so that enqueueing imports no worker code; arguments are ids and numbers, never text that
came from outside.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Queue
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared.check import LONGEST_TIMEOUT_SECONDS
from shared.settings import Settings
from shared.store import keys
from shared.store.runs import HOLD, Work, holding

CHECKS = "checks"
EMAILS = "emails"
NOTIFICATIONS = "notifications"
HOUSEKEEPING = "housekeeping"
QUEUES = (CHECKS, EMAILS, NOTIFICATIONS, HOUSEKEEPING)

CHECK_SLOT = "worker.jobs.check_slot"
CHECK_TARGETS = "worker.jobs.check_targets"
CHECK_AGAIN = "worker.jobs.check_again"
CHECK_TRIAL = "worker.jobs.check_trial"
DELIVER = "worker.jobs.deliver"
NOTIFY = "worker.jobs.notify"
PING_HEARTBEAT = "worker.jobs.ping_heartbeat"
KEEP_SNAPSHOT = "worker.jobs.keep_snapshot"

_CHECKS = (CHECK_SLOT, CHECK_TARGETS, CHECK_AGAIN)
BATCH_SIZE = 500
"""Targets in one check job at the most."""
DELIVER_TIMEOUT_SECONDS = 100
"""RQ's timeout of a job that empties an outbox; shorter than the lease of what it has claimed."""
RESULT_TTL_SECONDS = 300
FAILURE_TTL_SECONDS = 86_400
_MISSED_HEARTBEAT_MS = 55_000
"""A worker's key lives 60 s longer than its heartbeat may take: with less than this left, a heartbeat was missed."""


_TAKE = """
-- KEYS: the queue's list, the job. ARGV: job id. The job goes with its place in the list, or not at all.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
return 1
"""

_TAKE_OVER = (
    HOLD
    + """
-- KEYS: the queue's list, the job, and those of HOLD; ARGV: job id, and those of HOLD. The run that takes a job holds
-- it as its work in the same moment.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
hold(KEYS[3], KEYS[4], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """One RQ worker as its own key in Redis tells."""

    name: str
    host: str
    pid: int
    state: str


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """One queue: jobs that wait, run and have failed, and the workers that are alive."""

    name: str
    waiting: int
    running: int
    failed: int
    workers: tuple[WorkerSeen, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a job was to do; ``enqueued_at`` in ms."""

    function: str
    args: tuple[Any, ...]
    enqueued_at: int | None


def enqueued_ms(job: Job) -> int | None:
    """When the job was put onto its queue; RQ keeps naive UTC."""
    if job.enqueued_at is None:
        return None
    when = job.enqueued_at if job.enqueued_at.tzinfo else job.enqueued_at.replace(tzinfo=UTC)
    return int(when.timestamp() * 1000)


def slot_name(interval: int, slot: int) -> str:
    """The name of a slot: ``check-300-017``."""
    return f"check-{interval}-{slot:03d}"


def batches(ids: Sequence[str]) -> Iterator[list[str]]:
    """So many ids at a time as one check job takes."""
    for start in range(0, len(ids), BATCH_SIZE):
        yield list(ids[start : start + BATCH_SIZE])


def check_timeout_seconds(settings: Settings) -> int:
    """RQ's timeout of a check job: more than four attempts and their waits can take; the probe ends long before."""
    return int(4 * max(LONGEST_TIMEOUT_SECONDS, settings.default_http_timeout)) + 600


class Queues:
    """The queues of one Redis."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis: Any = redis
        self._settings = settings
        self._take = redis.register_script(_TAKE)
        self._take_over = redis.register_script(_TAKE_OVER)

    def queue(self, name: str) -> Queue:
        return Queue(name, connection=self._redis)

    def enqueue_check(self, target_ids: Sequence[str], *, at_front: bool = True) -> None:
        """Check these targets now, outside the schedule; running it twice records nothing twice."""
        for batch in batches(target_ids):
            self.push(CHECKS, CHECK_TARGETS, (batch,), job_id=f"check-now-{uuid.uuid4().hex}", at_front=at_front)

    def enqueue_opinions(self, target_ids: Sequence[str]) -> None:
        """Check these targets, which have just failed, once more before they are believed to be down."""
        for batch in batches(list(dict.fromkeys(target_ids))):
            self.push(CHECKS, CHECK_AGAIN, (batch,), job_id=f"check-again-{uuid.uuid4().hex}", at_front=True)

    def enqueue_trial(self, trial_id: str) -> None:
        """Check what somebody tries out, before all others. Its result has a key of its own, so RQ keeps nothing."""
        job_id = _trial_job_id(trial_id)
        self.push(CHECKS, CHECK_TRIAL, (trial_id,), job_id=job_id, at_front=True, result_ttl=0)

    def withdraw_trial(self, trial_id: str) -> bool:
        """Take a trial that nobody waits for any more out of the queue; False when a worker has taken it already."""
        job_id = _trial_job_id(trial_id)
        return bool(self._take(keys=[self.queue(CHECKS).key, Job.key_for(job_id)], args=[job_id]))

    def enqueue_rest_of_slot(self, interval: int, target_ids: Sequence[str], scheduled_at: int) -> None:
        """The targets of a slot past the first batch, as further jobs that the pool shares."""
        for batch in batches(target_ids):
            job_id = f"check-rest-{interval}-{uuid.uuid4().hex}"
            self.push(CHECKS, CHECK_TARGETS, (batch, scheduled_at), job_id=job_id)

    def push(
        self,
        queue: str,
        function: str,
        args: tuple[Any, ...],
        *,
        job_id: str,
        at_front: bool = False,
        timeout: int | None = None,
        result_ttl: int = RESULT_TTL_SECONDS,
        pipeline: Pipeline | None = None,
    ) -> None:
        """Put one job onto a queue; with ``pipeline`` (after its MULTI) only when that is executed."""
        self.queue(queue).enqueue_call(
            function,
            args=args,
            timeout=timeout or check_timeout_seconds(self._settings),
            result_ttl=result_ttl,
            failure_ttl=FAILURE_TTL_SECONDS,
            description=job_id,
            job_id=job_id,
            at_front=at_front,
            pipeline=pipeline,
        )

    def take_waiting_check(self, run: str, number: int) -> Taken | None:
        """Take the first check job that waits out of its queue, for a run that has time.

        Whoever removes the id from the list has the job, so no worker runs it too; it is the run's work ``number``
        from then on (see :class:`shared.store.Runs`), so that a kill right after it loses nothing.
        """
        key = self.queue(CHECKS).key
        for raw in self._redis.lrange(key, 0, 3):
            job = self._readable(raw.decode())
            if job is None or job.func_name not in _CHECKS:
                continue
            work = Work(int(time.time() * 1000), job.func_name, tuple(job.args))
            names, arguments = holding(run, number, work)
            if self._take_over(keys=[key, job.key, *names], args=[job.id, *arguments]):
                return Taken(work.function, work.args, enqueued_ms(job))
        return None

    def _readable(self, job_id: str) -> Job | None:
        """The job, if it is there and can be read."""
        try:
            job = Job.fetch(job_id, connection=self._redis)
            _ = job.func_name, job.args  # decodes the payload
        except (NoSuchJobError, DeserializationError, ValueError, KeyError, TypeError):
            return None
        return job

    # --- what vanished with its worker ---

    def enqueue_work(self, work: Work, pipeline: Pipeline) -> None:
        """Enqueue the job that does this work, before all others, when the pipeline (after its MULTI) is executed."""
        job_id = f"check-lost-{uuid.uuid4().hex}"
        self.push(CHECKS, work.function, work.args, job_id=job_id, at_front=True, pipeline=pipeline)

    def in_hand(self) -> set[str]:
        """The ids of the check jobs that a worker has taken out of the queue and that have not ended."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lrange(self._intermediate, 0, -1)
            pipe.zrange(self._started, 0, -1)
            popped, started = pipe.execute()
        return {raw.decode() for raw in popped} | {_job_id_of(raw) for raw in started}

    def enqueue_again(self, job_id: str) -> bool:
        """Give a job to another worker that was taken by one of which nothing more was heard; all or nothing.

        False if it is no check, or has begun meanwhile. It gets a new id, so that it does not matter should the first
        worker turn up again.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            try:
                # Of two schedulers one does it, and none once the run has begun.
                pipe.watch(Job.key_for(job_id), keys.run(job_id))
                job = self._readable(job_id)
                if job is None or job.func_name not in _CHECKS or pipe.exists(keys.run(job_id)):
                    return False
                runs = [raw for raw in pipe.zrange(self._started, 0, -1) if _job_id_of(raw) == job_id]
                pipe.multi()
                self.enqueue_work(Work(0, job.func_name, tuple(job.args)), pipe)
                pipe.lrem(self._intermediate, 1, job_id)
                for raw in runs:
                    pipe.zrem(self._started, raw)
                pipe.delete(job.key)
                pipe.execute()
            except WatchError:
                return False
        return True

    @property
    def _intermediate(self) -> str:
        return str(self.queue(CHECKS).intermediate_queue_key)

    @property
    def _started(self) -> str:
        return str(StartedJobRegistry(CHECKS, connection=self._redis).key)

    # --- what RQ knows ---

    def is_waiting(self, queue: str, job_id: str) -> bool:
        """Whether the job stands in the queue's list; a linear search, for a job that should have begun."""
        return self._redis.lpos(self.queue(queue).key, job_id) is not None

    def status(self, job_id: str) -> tuple[JobStatus | None, float | None]:
        """A job's status and when it was started (seconds since the epoch); None for what is not known."""
        status, started_at = self._redis.hmget(Job.key_for(job_id), "status", "started_at")
        return _status(status) if status else None, _epoch(started_at.decode()) if started_at else None

    def is_abandoned(self, queue: str, job_id: str) -> bool:
        """Whether the worker that started the job is gone, as after a kill -9; RQ itself notices much later."""
        worker = self._redis.hget(Job.key_for(job_id), "worker_name")
        return bool(worker) and worker.decode() not in {seen.name for seen in self.workers(queue)}

    def waiting(self, name: str) -> int:
        return int(self._redis.llen(self.queue(name).key))

    def head_waits_ms(self, name: str, *, now: int) -> int:
        """How long the longest of the first 100 jobs of the queue has been waiting; 0 for an empty queue.

        The very first may have come a moment ago: some are put before all others.
        """
        ids = [raw.decode() for raw in self._redis.lrange(self.queue(name).key, 0, 99)]
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(Job.key_for(job_id), "enqueued_at")
            answers = pipe.execute() if ids else []
        enqueued = [since for raw in answers if raw and (since := _epoch(raw.decode())) is not None]
        return max(0, now - int(min(enqueued) * 1000)) if enqueued else 0

    def seen(self, *names: str) -> dict[str, QueueSeen]:
        """How the queues stand; runs none of RQ's clean-ups, and counts no run whose worker has gone."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(self.queue(name).key)
                pipe.zcount(StartedJobRegistry(name, connection=self._redis).key, time.time(), "+inf")
                pipe.zcard(FailedJobRegistry(name, connection=self._redis).key)
            counts = iter(pipe.execute())
        workers = self._workers(names)
        return {
            name: QueueSeen(name, int(next(counts)), int(next(counts)), int(next(counts)), tuple(workers[name]))
            for name in names
        }

    def workers(self, name: str) -> list[WorkerSeen]:
        """The workers of a queue that have not missed their heartbeat (and whose process is there, if visible)."""
        return self._workers([name])[name]

    def _workers(self, names: Sequence[str]) -> dict[str, list[WorkerSeen]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.smembers(WORKERS_BY_QUEUE_KEY % name)
            members = [sorted(raw.decode() for raw in found) for found in pipe.execute()]
        with self._redis.pipeline(transaction=False) as pipe:
            for key in chain.from_iterable(members):
                pipe.hmget(key, "hostname", "pid", "state", "death")
                pipe.pttl(key)
            answers = iter(pipe.execute())
        return {
            name: [seen for key in its_own if (seen := self._worker(key, next(answers), next(answers)))]
            for name, its_own in zip(names, members, strict=True)
        }

    def _worker(self, key: str, fields: Sequence[bytes | None], ttl: int) -> WorkerSeen | None:
        host, pid, state, death = (raw.decode() if raw else "" for raw in fields)
        if not pid or death or ttl < _MISSED_HEARTBEAT_MS or self._is_gone(host, int(pid)):
            return None
        return WorkerSeen(key.rpartition(":")[2], host, int(pid), state)

    def _is_gone(self, host: str, pid: int) -> bool:
        """Whether a worker's process has ended. Only a Redis behind a unix socket is sure to share our processes."""
        if not self._settings.redis.startswith("unix://") or host != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _job_id_of(raw: bytes) -> str:
    """Of an entry of RQ's registry of started jobs: ``{job}:{execution}``."""
    return raw.decode().partition(":")[0]


def _trial_job_id(trial_id: str) -> str:
    return f"check-trial-{trial_id}"


def _status(raw: bytes) -> JobStatus | None:
    try:
        return JobStatus(raw.decode())
    except ValueError:
        return None


def _epoch(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
