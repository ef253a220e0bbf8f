"""The functions that RQ calls, and nothing else: each puts the pieces of one job together.

Every job works on the Redis that its worker is connected to, so that a plain ``rq worker`` needs no setting for it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from redis import Redis
from rq import get_current_job

from shared.queues import Queues, enqueued_ms
from shared.settings import settings_of_this_process
from shared.store import Store
from worker.alerts.delivery import Delivery, MailDelivery
from worker.alerts.mailer import Mailer
from worker.alerts.notifier import Notifier
from worker.checks.batch import Batch
from worker.checks.trial import check_once
from worker.heartbeat import ping
from worker.snapshots import SnapshotKeeper


def check_slot(interval: int, slot: int, with_default: bool, scheduled_at: int | None = None) -> None:
    """Check the targets of one slot, at the turn ``scheduled_at`` (ms).

    Twice or late is safe: a slot that another run works on is left to it, and recording drops what is not newer.
    """
    batch = _batch()
    batch.add_slot(interval, slot, with_default, scheduled_at, enqueued_at=_enqueued_at())
    batch.work()


def check_targets(target_ids: list[str], scheduled_at: int | None = None, again: int = 0) -> None:
    """Check these targets now. Twice or late is safe, as for a slot.

    ``again`` counts how often workers have vanished with this work.
    """
    batch = _batch()
    batch.add_targets(target_ids, scheduled_at, again, enqueued_at=_enqueued_at())
    batch.work()


def check_again(target_ids: list[str], again: int = 0) -> None:
    """Say of targets that have just failed whether they are down. Twice or late is safe, as for a slot."""
    batch = _batch()
    batch.add_opinions(target_ids, again, enqueued_at=_enqueued_at())
    batch.work()


def check_trial(trial_id: str) -> None:
    """Check a target that is not stored. Twice is safe: the second finds nothing to do."""
    connection, _ = _context()
    check_once(trial_id, Store(connection), settings_of_this_process())


def deliver() -> None:
    """Mail what is due in the outbox. Twice is safe: an alert is claimed by one mail at a time."""
    connection, _ = _context()
    settings = settings_of_this_process()
    store = Store(connection)
    MailDelivery(store, Mailer(settings, link_secret=store.link_secret()), settings).deliver_all()


def notify() -> None:
    """Tell the channels beside mail what is due in their outbox. Twice is safe, as for mails."""
    connection, _ = _context()
    settings = settings_of_this_process()
    store = Store(connection)
    Delivery(store, store.notifications, Notifier(settings), settings).deliver_all()


def ping_heartbeat() -> None:
    """Give the sign of life. Twice is safe."""
    if url := settings_of_this_process().heartbeat_url:
        ping(url)


def keep_snapshot() -> None:
    """Read the snapshot after Redis was emptied, write it when there is something to write. Twice is safe."""
    connection, _ = _context()
    settings = settings_of_this_process()
    SnapshotKeeper(Store(connection), Queues(connection, settings), settings).keep()


def _batch() -> Batch:
    connection, job_id = _context()
    settings = settings_of_this_process()
    return Batch(Store(connection), Queues(connection, settings), settings, job_id, by=_worker_name())


def _enqueued_at() -> int | None:
    job: Any = get_current_job()
    return enqueued_ms(job)


def _worker_name() -> str:
    """Host and worker, short enough to be kept with every result: RQ's own names are 32 random digits."""
    job: Any = get_current_job()
    return f"{socket.gethostname()[:40]}/{(job.worker_name or str(os.getpid()))[:8]}"


def _context() -> tuple[Redis, str]:
    job: Any = get_current_job()
    return job.connection, job.id
