"""The monitor watches itself: what is wrong with it is told to people once, through the same outboxes as all else.

The scheduler looks every few seconds, and so does the worker pool, so that each tells of the other's death; where both
are dead, the silence of the heartbeat tells.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from shared.health import Health, look
from shared.monitor import Alert
from shared.queues import BATCH_SIZE, CHECKS, DELIVER, DELIVER_TIMEOUT_SECONDS, EMAILS, NOTIFICATIONS, NOTIFY, Queues
from shared.settings import Settings
from shared.store import Store
from shared.store.outbox import boxes
from worker.alerts.words import counted

LOOK_SECONDS = 5.0
BELIEVED_AFTER_SECONDS = 30.0
"""How long something must be wrong before people are told: a restart is no trouble."""
_SILENT_MS = 10_000
"""A scheduler that has not given a sign for so long, where one comes each second, is taken for gone."""
_LATE_QUEUE_MS = 120_000
_LATE_OUTBOX_MS = 300_000


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with the monitor, for people: a title, and a sentence that says more."""

    title: str
    sentence: str


class Watch:
    """Looks when it is asked to, and remembers since when something is wrong."""

    def __init__(self, store: Store, queues: Queues, settings: Settings) -> None:
        self._store = store
        self._queues = queues
        self._settings = settings
        self._seen_since: dict[str, float] = {}
        self._looked_at = 0.0

    def look_if_due(self, *, now: int) -> None:
        """Look every five seconds; ``now`` in ms. Raises redis.RedisError when Redis is away."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self.look(now=now)

    def look(self, *, now: int) -> None:
        """Tell of what is wrong for half a minute, and of what is over."""
        found = self.troubles(now=now)
        moment = time.monotonic()
        self._seen_since = {name: self._seen_since.get(name, moment) for name in found}
        told = self._store.troubles.all()
        for name, trouble in found.items():
            is_believed = moment - self._seen_since[name] >= BELIEVED_AFTER_SECONDS
            if name not in told and is_believed:
                began_at = now - int(1000 * (moment - self._seen_since[name]))
                alert = self._alert(name, trouble.title, trouble.sentence, began_at=began_at, now=now)
                self._store.troubles.begin(name, alert, boxes=boxes(self._settings), now=now)
        for name in told.keys() - found.keys():
            began_at = told[name].began_at
            alert = self._alert(name, told[name].title or name, "", began_at=began_at, now=now, is_over=True)
            self._store.troubles.end(name, alert, boxes=boxes(self._settings), now=now)

    def stand_in_if_due(self) -> None:
        """Look for a scheduler that is silent, and have the mails sent that it would have sent.

        Schedulers go by the clock of Redis, and so does who looks for their signs, on whatever machine.
        """
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        now, beat = int(self._store.vitals.now() * 1000), self._store.vitals.last_beat()
        if beat is not None and now - beat <= _SILENT_MS:
            self._looked_at = time.monotonic()
            self._seen_since.clear()
            return
        self.look_if_due(now=now)
        if "scheduler" not in self._store.troubles.all():
            return
        for box, queue, function in (
            (self._store.outbox, EMAILS, DELIVER),
            (self._store.notifications, NOTIFICATIONS, NOTIFY),
        ):
            if box.is_due(now=now) and not self._queues.waiting(queue):
                job_id = f"stand-in-{queue}-{now}"
                self._queues.push(queue, function, (), job_id=job_id, timeout=DELIVER_TIMEOUT_SECONDS)

    def troubles(self, *, now: int) -> dict[str, Trouble]:
        """What is wrong now, by a name that stays the same while it lasts."""
        health = look(self._store, self._queues, self._settings, now=now)
        found = dict(self._lifeless(health))
        if not found.keys() & {"scheduler", f"workers-{CHECKS}"}:
            # Else it is known already why nothing is checked.
            found |= self._late(health, now)
        for name, counts in (("mail", health.outbox), ("notifications", health.notifications)):
            since = min((at for at in (counts.oldest_at, counts.failing_since) if at is not None), default=now)
            if now - since > _LATE_OUTBOX_MS:
                found[f"undelivered-{name}"] = Trouble(
                    f"{'mails' if name == 'mail' else 'notifications'} cannot be delivered",
                    f"{counted(counts.waiting + counts.sending, 'alert')} wait, for {(now - since) // 60_000} min now",
                )
        return found

    def _lifeless(self, health: Health) -> Mapping[str, Trouble]:
        found = {}
        if health.scheduler_age_ms is None or health.scheduler_age_ms > _SILENT_MS:
            found["scheduler"] = Trouble("no scheduler is running", "nothing is checked until one is started")
        wanted = {CHECKS: "checks targets", EMAILS: "sends mails"}
        if len(boxes(self._settings)) > 1:
            wanted[NOTIFICATIONS] = "sends notifications"
        for queue, does in wanted.items():
            if not health.queues[queue].workers:
                found[f"workers-{queue}"] = Trouble(f"no worker {does}", f"no worker is alive on the queue {queue}")
        return found

    def _late(self, health: Health, now: int) -> Mapping[str, Trouble]:
        found = {}
        waited = self._queues.head_waits_ms(CHECKS, now=now)
        if waited > _LATE_QUEUE_MS:
            found["queue"] = Trouble(
                "the workers do not keep up with the checks",
                f"{health.queues[CHECKS].waiting} batches wait, the first for {waited // 1000} s",
            )
        late = self.long_overdue(now=now)
        if late:
            found["overdue"] = Trouble(
                f"the monitor itself is late: {counted(late, 'target')}",
                "they were not checked for more than three intervals" if late > 1 else "no check for three intervals",
            )
        return found

    def long_overdue(self, *, now: int) -> int:
        """How many targets have no result for more than three intervals, of the first 500 that are overdue."""
        targets = self._store.targets
        return sum(
            now > due_at + 1000 * self._settings.interval(watched.target.check)
            for watched, due_at in targets.overdue(now=now, limit=BATCH_SIZE)
        )

    @staticmethod
    def _alert(name: str, title: str, sentence: str, *, began_at: int, now: int, is_over: bool = False) -> Alert:
        return Alert(
            id=f"{'well' if is_over else 'trouble'}-{name}-{now}",
            kind="well" if is_over else "trouble",
            target_id="",
            title=title,
            endpoint="",
            at=now,
            began_at=began_at,
            detected_at=now,
            written_at=now,
            expected="",
            got=None,
            sentence=sentence or None,
            incident=f"trouble-{name}-{began_at}",
        )
