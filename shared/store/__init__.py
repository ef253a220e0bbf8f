"""Every application key of Redis and every Lua script, and nothing else.

``keys`` lists what is stored, ``scripts`` says where the scripts stand. RQ's keys are ``shared.queues``',
rq-scheduler's are ``worker.scheduler``'s.
"""

from __future__ import annotations

from redis import Redis

from shared.store import keys
from shared.store.events import Event, Events
from shared.store.incidents import Acknowledgement, Incident, IncidentPage, Incidents, Notification, Place
from shared.store.loads import Loads
from shared.store.maintenance import Maintenances, TooManyWindowsError
from shared.store.outbox import Mail, Outbox, OutboxCounts
from shared.store.recording import Defaults, Recorded, Recording
from shared.store.reminders import Reminder, Reminders
from shared.store.runs import Runs, Work
from shared.store.targets import Stored, Targets, TargetTakenError, TooMuchChangeError, Watched, Written
from shared.store.trials import Trials
from shared.store.troubles import Troubles
from shared.store.vitals import QueueSettings, SnapshotRecord, Vitals

__all__ = [
    "Acknowledgement",
    "Defaults",
    "Event",
    "Events",
    "Incident",
    "IncidentPage",
    "Incidents",
    "Loads",
    "Mail",
    "Maintenances",
    "Notification",
    "Outbox",
    "OutboxCounts",
    "Place",
    "QueueSettings",
    "Recorded",
    "Recording",
    "Reminder",
    "Reminders",
    "Runs",
    "SnapshotRecord",
    "Store",
    "Stored",
    "TargetTakenError",
    "Targets",
    "TooManyWindowsError",
    "TooMuchChangeError",
    "Trials",
    "Troubles",
    "Vitals",
    "Watched",
    "Work",
    "Written",
]


class Store:
    """The application's data behind one Redis client, which must not decode responses."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.targets = Targets(redis)
        self.recording = Recording(redis, self.targets)
        self.outbox = Outbox(redis, keys.OUTBOX)
        self.notifications = Outbox(redis, keys.NOTIFICATIONS)
        self.reminders = Reminders(redis)
        self.troubles = Troubles(redis)
        self.maintenance = Maintenances(redis)
        self.events = Events(redis)
        self.incidents = Incidents(redis)
        self.trials = Trials(redis)
        self.vitals = Vitals(redis)
        self.runs = Runs(redis)
        self.loads = Loads(redis)

    def link_secret(self) -> bytes:
        return self.vitals.link_secret()

    def queue_settings(self) -> QueueSettings:
        return self.vitals.queue_settings()
