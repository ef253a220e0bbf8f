"""When people are reminded of incidents that nobody has acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert
from shared.store import keys
from shared.store.outbox import OWE
from shared.store.scripts import read_script

_REMIND = read_script("reminders_remind", OWE)
_PUT_OFF = read_script("reminders_put_off")


@dataclass(frozen=True, slots=True)
class Reminder:
    """One that is due: of which incident, since when (ms), how many there were, and the alert that opened it."""

    incident: str
    due_at: int
    sent: int
    opened: Alert


class Reminders:
    """Reads what is due, and owes it to people at the same moment as it sets the next."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._remind = redis.register_script(_REMIND)
        self._put_off = redis.register_script(_PUT_OFF)

    def due(self, *, now: int, limit: int = 100) -> list[Reminder]:
        rows = self._redis.zrange(keys.REMINDERS, "-inf", now, byscore=True, offset=0, num=limit, withscores=True)
        with self._redis.pipeline(transaction=False) as pipe:
            for raw, _ in rows:
                pipe.hmget(keys.incident(raw.decode()), "opened", "reminders")
            answers = pipe.execute() if rows else []
        found = []
        for (raw, due_at), (opened, sent) in zip(rows, answers, strict=True):
            if opened is None:
                self.drop(raw.decode())
            else:
                found.append(Reminder(raw.decode(), int(due_at), int(sent or 0), Alert.parse(orjson.loads(opened))))
        return found

    def owe(
        self, reminder: Reminder, alert: Alert, *, next_at: int, boxes: Sequence[str], audiences: str, now: int
    ) -> bool:
        """Put the reminder into the outboxes; False when it is not due any more."""
        arguments: list[Any] = [
            reminder.incident,
            reminder.due_at,
            next_at,
            reminder.sent + 1,
            ",".join(boxes),
            alert.id,
        ]
        arguments += [orjson.dumps(alert.document()), alert.target_id, audiences, now]
        return bool(self._remind(args=arguments))

    def put_off(self, reminder: Reminder, *, until: int) -> None:
        """Not now: the target is in a maintenance, or not down at the moment, or its parent is down."""
        self._put_off(args=[reminder.incident, reminder.due_at, until])

    def drop(self, incident: str) -> None:
        self._redis.zrem(keys.REMINDERS, incident)
