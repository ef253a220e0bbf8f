"""The functions that RQ calls, and nothing else: each puts the pieces of one job together.

Every job works on the Redis that its worker is connected to, so that a plain ``rq worker`` needs no setting for it.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import get_current_job

from shared.queues import Queues
from shared.settings import settings_of_this_process
from shared.store import Store
from worker.batch import Batch
from worker.delivery import Delivery
from worker.mailer import Mailer
from worker.snapshots import SnapshotKeeper
from worker.trial import check_once


def check_slot(interval: int, slot: int, with_default: bool, scheduled_at: int | None = None) -> None:
    """Check the targets of one slot, at the turn ``scheduled_at`` (ms).

    Twice or late is safe: a slot that another run works on is left to it, and recording drops what is not newer.
    """
    batch = _batch()
    batch.add_slot(interval, slot, with_default, scheduled_at)
    batch.work()


def check_targets(target_ids: list[str], scheduled_at: int | None = None) -> None:
    """Check these targets now. Twice or late is safe, as for a slot."""
    batch = _batch()
    batch.add_targets(target_ids, scheduled_at)
    batch.work()


def check_trial(trial_id: str) -> None:
    """Check a target that is not stored. Twice is safe: the second finds nothing to do."""
    connection, _ = _context()
    check_once(trial_id, Store(connection), settings_of_this_process())


def deliver() -> None:
    """Mail what is due in the outbox. Twice is safe: an alert is claimed by one mail at a time."""
    connection, _ = _context()
    settings = settings_of_this_process()
    Delivery(Store(connection), Mailer(settings), settings).deliver_all()


def keep_snapshot() -> None:
    """Read the snapshot after Redis was emptied, write it when there is something to write. Twice is safe."""
    connection, _ = _context()
    settings = settings_of_this_process()
    SnapshotKeeper(Store(connection), Queues(connection, settings), settings).keep()


def _batch() -> Batch:
    connection, job_id = _context()
    settings = settings_of_this_process()
    return Batch(Store(connection), Queues(connection, settings), settings, job_id)


def _context() -> tuple[Redis, str]:
    job: Any = get_current_job()
    return job.connection, job.id
