"""The scheduler process: rq-scheduler's data and format, with a turn that can be killed anywhere.

What stock rq-scheduler 0.14 does in several steps (take an entry out, push its job, put it back) is one
WATCH/MULTI/EXEC here: the next score, a fresh job and the push happen together or not at all, so there is no schedule
to lose and no lock to leave behind, and any number of schedulers may run side by side.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.retry import Retry
from rq.exceptions import DeserializationError, NoSuchJobError, TimeoutFormatError
from rq.job import Job, JobStatus
from rq_scheduler import Scheduler
from rq_scheduler.utils import get_next_scheduled_time

from shared import queues
from shared.monitor import Alert, MonitorError
from shared.queues import Queues
from shared.settings import Settings, read_settings
from shared.snapshot import preflight
from shared.state import Status
from shared.store import Outbox, Reminder, Store, Watched, keys
from shared.store.outbox import audiences_of, boxes
from worker.checks.quiet import Quiet
from worker.recovery import Recovery
from worker.schedule import Entry, wanted
from worker.watch import Watch

_LONGEST_SLEEP_SECONDS = 1.0
_HELD_SLEEP_SECONDS = 0.2
_LONGEST_WAIT_FOR_REDIS_SECONDS = 5.0
_RECONCILE_SECONDS = 60.0
_STARTING_SECONDS = 4.0
"""A job that was started this long ago at the most may not have had the time to take its lease."""
_HEARTBEAT = "heartbeat"
_OVERDUE = "overdue"
_BELIEVED_SECONDS = queues.DELIVER_TIMEOUT_SECONDS
"""A job that was started longer ago than this is taken for dead, whatever its own timeout."""
_HEARTBEAT_TIMEOUT_SECONDS = 30
_WATCH_SECONDS = 60.0
_TURN_KEPT_SECONDS = 2 * 86_400

_UNREADABLE = (
    AssertionError,
    AttributeError,
    DeserializationError,
    ImportError,
    LookupError,
    NoSuchJobError,
    TimeoutFormatError,
    TypeError,
    ValueError,
)
"""What RQ and rq-scheduler raise for an entry that is not as they would have written it."""

log = logging.getLogger("scheduler")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did: the jobs it enqueued, and when to look again (seconds since the epoch)."""

    enqueued: tuple[str, ...]
    wake_at: float


@dataclass(frozen=True, slots=True)
class _Post:
    """An outbox, and the job that empties it."""

    name: str
    outbox: Outbox
    queue: str
    function: str


class SlotScheduler(Scheduler):  # type: ignore[misc]  # rq_scheduler ships no types
    """:class:`rq_scheduler.Scheduler` on its own keys, with turns that are atomic, on time, and never doubled.

    Ours are the entries of :func:`worker.schedule.wanted`; each has a job hash in rq-scheduler's format, so that its
    tools show them. Whatever else stands in the schedule (one-off, periodic or cron entries of others) is enqueued as
    stock rq-scheduler would, in one transaction too.
    """

    def __init__(self, connection: Redis, settings: Settings) -> None:
        super().__init__(queue_name=queues.CHECKS, connection=connection, interval=_LONGEST_SLEEP_SECONDS)
        self.store = Store(connection)
        self.queues = Queues(connection, settings)
        self._settings = settings
        self._wanted: dict[str, Entry] = {}
        self._reconciled: tuple[int, str | None] | None = None
        self._reconciled_at = -math.inf
        self._watch = Watch(self.store, self.queues, settings)
        self._watched_at = -math.inf
        self._recovery = Recovery(self.store, self.queues, settings)
        self._quiet = Quiet(self.store.maintenance)
        self._posts = (
            _Post("deliver", self.store.outbox, queues.EMAILS, queues.DELIVER),
            _Post("notify", self.store.notifications, queues.NOTIFICATIONS, queues.NOTIFY),
        )
        self._stop_requested = False

    # --- the process ---

    def run(self, burst: bool = False) -> None:
        """Schedule until a signal asks to stop; with ``burst``, one pass. Redis away is waited for."""
        self._install_signal_handlers()
        patience = 0.5
        is_registered = False
        while not self._stop_requested:
            try:
                if not is_registered:
                    self.register_birth()
                    is_registered = True
                sleep = self.tick()
                patience = 0.5
            except RedisError as error:
                self._recovery.note_absence()
                log.warning("Redis is away (%s); looking again in %.1f s", type(error).__name__, patience)
                sleep, patience = patience, min(patience * 2, _LONGEST_WAIT_FOR_REDIS_SECONDS)
            if burst:
                break
            if not self._stop_requested:
                time.sleep(sleep)
        self._leave()

    def _install_signal_handlers(self) -> None:
        # Stock raises SystemExit wherever the signal falls; here a turn is always ended.
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stop_requested = True

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

    def _leave(self) -> None:
        try:
            self.store.vitals.leave(self.name)
            self.register_death()
        except RedisError:
            log.warning("stopped while Redis is away")

    def register_birth(self) -> None:
        # Stock refuses a name that is there already, as its own is when the answer to the first try was lost.
        with self.connection.pipeline(transaction=True) as pipe:
            pipe.hset(self.key, "birth", time.time())
            pipe.expire(self.key, 60)
            pipe.execute()

    def heartbeat(self) -> None:
        self.connection.expire(self.key, 60)

    def tick(self) -> float:
        """One pass: reconcile if need be, enqueue what is due and what vanished, send mails on their way.

        Returns seconds to sleep.
        """
        now = self.store.vitals.now()
        self.store.vitals.beat(self.name, now=int(now * 1000))
        self.heartbeat()
        self._reconcile_if_needed(now)
        done = self.enqueue_due(now)
        self._recovery.look(now=int(now * 1000))
        self.watch(now)
        self.remind(now)
        self.dispatch(now)
        return max(0.0, done.wake_at - self.store.vitals.now())

    # --- reconciling ---

    def _reconcile_if_needed(self, now: float) -> None:
        vitals = self.store.vitals
        seen = (vitals.orders(), vitals.birth())
        # A clock that was set back counts as a minute gone.
        if seen != self._reconciled or not 0 <= now - self._reconciled_at < _RECONCILE_SECONDS:
            self.reconcile()
            self._reconciled, self._reconciled_at = seen, now

    def reconcile(self) -> None:
        """Make the schedule equal to the targets in the store: add what is missing, remove what nobody needs.

        What is there and right is left alone. Entries that are not ours are never touched.
        """
        timeout = queues.check_timeout_seconds(self._settings)
        self.store.targets.set_default_interval(self._settings.default_http_interval)
        self._wanted = wanted(self.store.targets.intervals(), self._settings.default_http_interval, timeout)
        scheduled = self.connection.zrange(self.scheduled_jobs_key, 0, -1, withscores=True)
        present = {_name(raw): score for raw, score in scheduled}
        now = self.store.vitals.now()  # not before the schedule was read, whose turns would look far away
        for name in sorted(present.keys() - self._wanted.keys()):
            if name.startswith("check-") and self._is_ours(name):
                self._remove(name)
        is_born = self.store.vitals.is_born()
        for entry in self._wanted.values():
            # A turn further away than one interval was made by a clock that has been set back since.
            is_astray = present.get(entry.name, now) > now + entry.interval
            if entry.name not in present or is_astray or not self._is_intact(entry):
                # After a loss of Redis the snapshot is read at once, not at its next turn.
                first = now if entry.name == "snapshot" and not is_born else entry.next_turn(now)
                self._add(entry, first, is_astray)

    def _is_ours(self, name: str) -> bool:
        job = self._fetch(name)
        return job is None or job.func_name == queues.CHECK_SLOT

    def _is_intact(self, entry: Entry) -> bool:
        job = self._fetch(entry.name)
        return job is not None and (tuple(job.args), job.meta.get("interval")) == (entry.args, entry.interval)

    def _fetch(self, name: str) -> Job | None:
        """The job of an entry; None when there is none that can be read."""
        try:
            job = Job.fetch(name, connection=self.connection)
            _ = job.args  # decodes the payload
        except _UNREADABLE:
            return None
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return None
        return job if isinstance(job.meta, dict) else None

    def _add(self, entry: Entry, first_turn: float, is_astray: bool) -> None:
        job = self._create_job(
            entry.function,
            args=entry.args,
            commit=False,
            result_ttl=-1,  # stock rq-scheduler cancels an entry whose hash has expired
            id=entry.name,
            description=entry.name,
            queue_name=entry.queue,
            timeout=entry.timeout,
        )
        job.meta["interval"] = entry.interval
        with self.connection.pipeline(transaction=True) as pipe:
            pipe.delete(job.key)  # whatever was there
            job.save(pipeline=pipe)
            # One that another scheduler has added since we looked keeps its turn, which may be a later one.
            pipe.zadd(self.scheduled_jobs_key, {entry.name: first_turn}, nx=not is_astray)
            pipe.execute()

    def _remove(self, name: str) -> None:
        with self.connection.pipeline(transaction=True) as pipe:
            pipe.zrem(self.scheduled_jobs_key, name)
            pipe.delete(Job.key_for(name), keys.turn(name))
            pipe.execute()

    # --- turns ---

    def enqueue_due(self, now: float) -> Pass:
        """Give every due entry its turn, the longest due first; entries of a full queue are held back, still due."""
        enqueued: list[str] = []
        is_held = False
        for raw in self.connection.zrange(self.scheduled_jobs_key, "-inf", now, byscore=True):
            name = _name(raw)
            entry = self._wanted.get(name)
            if entry is not None and entry.queue == queues.CHECKS and self._is_full():
                is_held = True
                continue
            job_id = self.turn(name, entry) if entry is not None else self._turn_of_others(name)
            if job_id is not None:
                enqueued.append(job_id)
        return Pass(tuple(enqueued), self._wake_at(now, is_held))

    def _wake_at(self, now: float, is_held: bool) -> float:
        if is_held:
            return now + _HELD_SLEEP_SECONDS
        following = self.connection.zrange(
            self.scheduled_jobs_key, f"({now}", "+inf", byscore=True, offset=0, num=1, withscores=True
        )
        soonest = following[0][1] if following else math.inf
        return float(min(soonest, now + _LONGEST_SLEEP_SECONDS))

    def _is_full(self) -> bool:
        """Whether as many batches wait as the workers may have waiting; the limit follows the pool as it grows."""
        wanted_size = self.store.queue_settings()
        workers = max(wanted_size.worker_thread, len(self.queues.workers(queues.CHECKS)))
        return self.queues.waiting(queues.CHECKS) >= workers * wanted_size.queue_size

    def turn(self, name: str, entry: Entry) -> str | None:
        """One turn of one of our entries: its next score, a fresh job and the push, all or nothing.

        Returns the job's id; None when another scheduler was faster, or when the entry's earlier job still waits or
        runs (the turn is skipped then, the next one comes on the grid). Turns that were missed are not made up for.
        """
        return self._transact(name, lambda pipe, due, now: self._our_turn(pipe, entry, due, now))

    def _our_turn(self, pipe: Pipeline, entry: Entry, due: float, now: float) -> str | None:
        next_turn = entry.next_turn(now)
        this_turn = max(due, next_turn - entry.interval)
        is_busy = self._is_busy(entry.name, _STARTING_SECONDS if entry.queue == queues.CHECKS else entry.timeout)
        job_id = f"{entry.name}-{int(this_turn)}"
        scheduled_at = (int(this_turn * 1000),) if entry.function == queues.CHECK_SLOT else ()
        pipe.multi()
        pipe.zadd(self.scheduled_jobs_key, {entry.name: next_turn}, xx=True)
        if is_busy:
            return None
        self._push(pipe, entry.queue, entry.function, (*entry.args, *scheduled_at), entry.name, job_id, entry.timeout)
        return job_id

    def _push(
        self, pipe: Pipeline, queue: str, function: str, args: tuple[Any, ...], name: str, job_id: str, timeout: int
    ) -> None:
        self.queues.push(queue, function, args, job_id=job_id, timeout=timeout, pipeline=pipe)
        pipe.set(keys.turn(name), job_id, ex=_TURN_KEPT_SECONDS)

    def _is_busy(self, name: str, believed_seconds: float) -> bool:
        """Whether the entry's newest job still waits or runs.

        A run of a slot proves that it is alive by a lease of a few seconds, so that a slot whose worker was killed
        has its next turn. Runs of other entries are believed for ``believed_seconds`` after their start.
        """
        if self.store.vitals.is_leased(name):
            return True
        newest = self.connection.get(keys.turn(name))
        if newest is None:
            return False
        status, started_at = self.queues.status(newest.decode())
        if status is JobStatus.STARTED:
            return started_at is None or self.store.vitals.now() - started_at < believed_seconds
        return status is JobStatus.QUEUED and self._waits_anywhere(newest.decode())

    def _is_abandoned(self, name: str, queue: str) -> bool:
        """Whether the entry's newest job was started by a worker that is gone: its work may be taken up at once."""
        newest = self.connection.get(keys.turn(name))
        if newest is None or self.queues.status(newest.decode())[0] is not JobStatus.STARTED:
            return False
        return self.queues.is_abandoned(queue, newest.decode())

    def _waits_anywhere(self, job_id: str) -> bool:
        return any(self.queues.is_waiting(queue, job_id) for queue in queues.QUEUES)

    def _turn_of_others(self, name: str) -> str | None:
        """An entry that somebody else scheduled with rq-scheduler's own calls, enqueued under its own id."""
        try:
            return self._transact(name, lambda pipe, due, now: self._their_turn(pipe, name, due, now))
        except _UNREADABLE as error:
            # Stock rq-scheduler dies of an entry that it cannot decode, again at every start.
            log.error("the scheduled entry %s cannot be enqueued (%s); it is set aside", name, type(error).__name__)
            self._set_aside(name)
            return None

    def _their_turn(self, pipe: Pipeline, name: str, due: float, now: float) -> str | None:
        job = self._fetch(name)
        if job is None:
            raise NoSuchJobError(name)
        next_turn = _next_turn_of(job, due, now)
        # RQ watches the jobs that this one depends on, if any, and then calls MULTI itself.
        self.get_queue_for_job(job).enqueue_job(job, pipeline=pipe, at_front=bool(job.enqueue_at_front))
        if next_turn is None:
            pipe.zrem(self.scheduled_jobs_key, name)
        else:
            pipe.zadd(self.scheduled_jobs_key, {name: next_turn}, xx=True)
        return str(job.id)

    def _set_aside(self, name: str) -> None:
        with self.connection.pipeline(transaction=True) as pipe:
            pipe.zrem(self.scheduled_jobs_key, name)
            pipe.hset(keys.ASIDE, name, int(self.store.vitals.now() * 1000))
            pipe.execute()

    def _transact(self, name: str, decide: Callable[[Pipeline, float, float], str | None]) -> str | None:
        """Run ``decide`` under WATCH on the schedule; it reads, calls MULTI and queues what belongs together."""
        while True:
            with self.connection.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(self.scheduled_jobs_key)
                    due, now = pipe.zscore(self.scheduled_jobs_key, name), self.store.vitals.now()
                    if due is None or due > now:
                        return None
                    outcome = decide(pipe, float(due), now)
                    pipe.execute()
                except WatchError:
                    continue
                return outcome

    # --- alerts ---

    def dispatch(self, now: float) -> list[str]:
        """Enqueue a deliver job for each outbox where an alert is due and none is on its way; returns their ids.

        Alerts become due when nothing further came for a while, when a failed mail may be tried again, or when the job
        that had taken them was killed: one look at the outbox covers all three. Where more came meanwhile the job puts
        all of it off, and the look after that finds it.
        """
        return [job_id for post in self._posts if (job_id := self._dispatch(post, now)) is not None]

    def _dispatch(self, post: _Post, now: float) -> str | None:
        if not post.outbox.is_due(now=int(now * 1000)):
            return None
        timeout = queues.DELIVER_TIMEOUT_SECONDS
        return self._push_unless_busy(post.name, post.queue, post.function, (), timeout, now)

    def remind(self, now: float) -> None:
        """Remind people of incidents that nobody has acknowledged, each time after twice as long."""
        distance, at = self._settings.alert_reminder * 1000, int(now * 1000)
        if not distance:
            return
        for reminder in self.store.reminders.due(now=at):
            watched = self.store.targets.get(reminder.opened.target_id)
            if watched is None:
                self.store.reminders.drop(reminder.incident)
            elif not self._is_worth_reminding(watched):
                self.store.reminders.put_off(reminder, until=at + 60_000)
            else:
                alert = reminded(reminder, watched, at)
                next_at = at + distance * 2 ** min(reminder.sent + 1, 20)
                self.store.reminders.owe(
                    reminder,
                    alert,
                    next_at=next_at,
                    boxes=boxes(self._settings),
                    audiences=audiences_of(alert.to, self._settings),
                    now=at,
                )

    def _is_worth_reminding(self, watched: Watched) -> bool:
        if watched.state.status is not Status.DOWN or self._quiet.holds(watched.target):
            return False
        parent = self.store.targets.get(watched.target.check.parent) if watched.target.check.parent else None
        return parent is None or parent.state.status is not Status.DOWN

    # --- the monitor itself ---

    def watch(self, now: float) -> None:
        """Look at the monitor itself, check what is overdue at once, and give the sign of life while all is well."""
        self._watch.look_if_due(now=int(now * 1000))
        if 0 <= now - self._watched_at < _WATCH_SECONDS:
            return
        self._watched_at = now
        if not self._is_full():
            late = self.store.targets.overdue(now=int(now * 1000), limit=queues.BATCH_SIZE)
            ids = [watched.target.id for watched, _ in late]
            if ids:
                timeout = queues.check_timeout_seconds(self._settings)
                self._push_unless_busy(_OVERDUE, queues.CHECKS, queues.CHECK_TARGETS, (ids,), timeout, now)
        if self._settings.heartbeat_url and not self.store.troubles.all():
            # Among the housekeeping nobody waits behind a service that does not answer.
            queue, timeout = queues.HOUSEKEEPING, _HEARTBEAT_TIMEOUT_SECONDS
            self._push_unless_busy(_HEARTBEAT, queue, queues.PING_HEARTBEAT, (), timeout, now)

    def _push_unless_busy(
        self, name: str, queue: str, function: str, args: tuple[Any, ...], timeout: int, now: float
    ) -> str | None:
        """Enqueue a job under a name of which one at a time waits or runs; returns its id, None when one does."""
        with self.connection.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(keys.turn(name))
                if self._is_busy(name, min(timeout, _BELIEVED_SECONDS)) and not self._is_abandoned(name, queue):
                    return None
                job_id = f"{name}-{int(now * 1000)}"
                pipe.multi()
                self._push(pipe, queue, function, args, name, job_id, timeout)
                pipe.execute()
            except WatchError:
                return None
        return job_id


def reminded(reminder: Reminder, watched: Watched, at: int) -> Alert:
    """The alert that opened the incident once more, with what the newest check saw."""
    latest = watched.latest or {}
    return replace(
        reminder.opened,
        reason=latest.get("reason"),
        sentence=latest.get("sentence"),
        elapsed_ms=latest.get("elapsed_ms"),
        bottleneck=latest.get("bottleneck"),
        address=latest.get("address"),
        id=f"{reminder.incident}-r{reminder.sent + 1}",
        kind="reminder",
        at=at,
        written_at=at,
        got=latest.get("status_code"),
        phases=latest.get("phases", {}),
        attempts=tuple(latest.get("attempts", ())),
    )


def _name(raw: bytes) -> str:
    """The name of an entry; one that is no text, and so nobody's, becomes a name that no entry has."""
    return raw.decode(errors="replace")


def _next_turn_of(job: Job, due: float, now: float) -> float | None:
    """When an entry of rq-scheduler's own kinds is due again; None: never. ``repeat`` counts down in its metadata."""
    repeat = job.meta.get("repeat")
    if repeat is not None:
        job.meta["repeat"] = int(repeat) - 1
        if job.meta["repeat"] <= 0:
            return None
    if interval := job.meta.get("interval"):
        return due + int(interval) * (math.floor((now - due) / int(interval)) + 1)
    if cron := job.meta.get("cron_string"):
        following = get_next_scheduled_time(cron, use_local_timezone=job.meta.get("use_local_timezone", False))
        return float(following.astimezone(UTC).timestamp())
    return None


def main() -> int:
    """Run the scheduler; returns the process's exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        settings = read_settings()
        preflight(settings)
    except MonitorError as error:
        print(error, file=sys.stderr)
        return 2
    # The loop waits for a Redis that is away; a command that repeats itself would make it deaf to signals meanwhile.
    connection = Redis.from_url(settings.redis, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))
    log.info("scheduling since %s", datetime.now(UTC).isoformat(timespec="seconds"))
    SlotScheduler(connection, settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
