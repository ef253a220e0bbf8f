"""The truth about the monitor itself: whether it checks, mails and keeps its snapshot, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared import capacity
from shared.queues import CHECKS, EMAILS, HOUSEKEEPING, NOTIFICATIONS, QUEUES, Queues, QueueSeen
from shared.settings import Settings
from shared.state import Status
from shared.store import OutboxCounts, Store
from shared.store.loads import MINUTES
from shared.store.outbox import boxes

_LATE_SCHEDULER_MS = 15_000
_LATE_OUTBOX_MS = 60_000


@dataclass(frozen=True, slots=True)
class Health:
    """One look at everything. Ages are milliseconds; None where nothing has happened yet."""

    queues: dict[str, QueueSeen]
    scheduler_age_ms: int | None
    newest_result_age_ms: int | None
    batch_started_at: int | None
    batch_ended_at: int | None
    statuses: dict[Status, int]
    overdue: int
    """Targets whose newest result is older than it may be."""
    outbox: OutboxCounts
    notifications: OutboxCounts
    snapshot_error: str | None
    missing: tuple[str, ...]
    """Why the monitor cannot do its work: no scheduler, no workers, checks that are late. Not ready while any."""
    warnings: tuple[str, ...]
    """What people should know though checks go on: undelivered mails, an unwritten snapshot."""

    @property
    def is_checking(self) -> bool:
        return not self.missing


def look(store: Store, queues: Queues, settings: Settings, *, now: int) -> Health:
    """Read the vitals of the whole monitor; raises redis.RedisError when Redis is away."""
    seen = queues.seen(*QUEUES)
    beat = store.vitals.last_beat()
    newest = store.targets.newest()
    started, ended = store.vitals.batch()
    statuses = store.targets.count_by_status()
    outbox, notifications = store.outbox.counts(), store.notifications.counts()
    overdue = store.targets.count_overdue(now=now)
    snapshot_error = store.vitals.snapshot().error
    scheduler_age = max(0, now - beat) if beat is not None else None
    result_age = max(0, now - newest[1]) if newest else None
    return Health(
        queues=seen,
        scheduler_age_ms=scheduler_age,
        newest_result_age_ms=result_age,
        batch_started_at=started,
        batch_ended_at=ended,
        statuses=statuses,
        overdue=overdue,
        outbox=outbox,
        notifications=notifications,
        snapshot_error=snapshot_error,
        missing=(
            *_missing(seen, scheduler_age, settings),
            *_late_results(store, result_age, _patience_ms(store, settings), now),
        ),
        warnings=(
            *_overdue(overdue),
            *_undelivered(outbox, "mailed", now),
            *_undelivered(notifications, "delivered", now),
            *_unwritten(snapshot_error),
        ),
    )


def needed_workers(store: Store, settings: Settings, *, now: int) -> int | None:
    """How many check workers the load needs; None while nothing was measured. Counts every bucket of the schedule.

    By the rate that the schedule asks for, whether or not the workers keep up; or, where it is more, by what came.
    Second opinions and checks by hand come beside the schedule.
    """
    load = store.loads.recent(now=now)
    scheduled = store.targets.checks_per_second(settings.default_http_interval)
    return capacity.needed_workers(load, checks_per_second=max(scheduled, load.checks / (60 * MINUTES)))


def _patience_ms(store: Store, settings: Settings) -> int | None:
    """How old the newest result may be: two of the shortest intervals and one full check; None without targets."""
    intervals = [interval or settings.default_http_interval for interval in store.targets.intervals()]
    if not intervals:
        return None
    longest_check = (settings.default_http_retries + 1) * settings.default_http_timeout
    return int((2 * min(intervals) + longest_check + 15) * 1000)


def _missing(seen: dict[str, QueueSeen], scheduler_age: int | None, settings: Settings) -> list[str]:
    missing = []
    if scheduler_age is None:
        missing.append("no scheduler is running")
    elif scheduler_age > _LATE_SCHEDULER_MS:
        missing.append(f"the scheduler's last tick is {scheduler_age // 1000} s old")
    needed = [CHECKS, EMAILS, HOUSEKEEPING] + [NOTIFICATIONS] * (len(boxes(settings)) > 1)
    missing += [f"no worker is alive on the queue {name}" for name in needed if not seen[name].workers]
    return missing


def _late_results(store: Store, result_age: int | None, patience: int | None, now: int) -> Iterator[str]:
    if patience is None:
        return
    if result_age is not None:
        if result_age > patience:
            yield f"the newest result is {result_age // 1000} s old"
        return
    for waiting in store.targets.page(status=Status.PENDING, limit=1):
        if (waited := now - waiting.state.since) > patience:
            yield f"the newest result is missing: the first target waits for it since {waited // 1000} s"


def _overdue(count: int) -> Iterator[str]:
    if count:
        yield f"{count} {'target is' if count == 1 else 'targets are'} overdue"


def _undelivered(outbox: OutboxCounts, done: str, now: int) -> Iterator[str]:
    if outbox.dead:
        yield f"{outbox.dead} alerts could not be {done} and were given up"
    if outbox.oldest_at is not None and now - outbox.oldest_at > _LATE_OUTBOX_MS:
        waited = (now - outbox.oldest_at) // 1000
        yield f"{outbox.waiting} alerts wait to be {done}, the oldest for {waited} s"


def _unwritten(snapshot_error: str | None) -> Iterator[str]:
    if snapshot_error:
        yield f"the snapshot is not being written: {snapshot_error}"
