"""Every application key of Redis and every Lua script, and nothing else.

``keys`` lists what is stored. RQ's keys are ``shared.queues``', rq-scheduler's are ``worker.scheduler``'s.
"""

from __future__ import annotations

from redis import Redis

from shared.store.events import Event, Events
from shared.store.outbox import Mail, Outbox, OutboxCounts
from shared.store.recording import Defaults, Recorded, Recording
from shared.store.targets import Targets, TargetTakenError, TooMuchChangeError, Watched, Written
from shared.store.trials import Trials
from shared.store.vitals import QueueSettings, SnapshotRecord, Vitals

__all__ = [
    "Defaults",
    "Event",
    "Events",
    "Mail",
    "Outbox",
    "OutboxCounts",
    "QueueSettings",
    "Recorded",
    "Recording",
    "SnapshotRecord",
    "Store",
    "TargetTakenError",
    "Targets",
    "TooMuchChangeError",
    "Trials",
    "Vitals",
    "Watched",
    "Written",
]


class Store:
    """The application's data behind one Redis client, which must not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.targets = Targets(redis)
        self.recording = Recording(redis, self.targets)
        self.outbox = Outbox(redis)
        self.events = Events(redis)
        self.trials = Trials(redis)
        self.vitals = Vitals(redis)

    def queue_settings(self) -> QueueSettings:
        return self.vitals.queue_settings()
