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

_REMIND = (
    OWE
    + """
-- ARGV: incident, when it was due, when it is due next, number, boxes, entry, alert (JSON), target, audiences, now.
-- Nothing happens when another scheduler was faster, or when the incident was closed or acknowledged meanwhile.
local due = redis.call('ZSCORE', 'monitor:reminders', ARGV[1])
if not due or tonumber(due) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', 'monitor:reminders', ARGV[3], ARGV[1])
redis.call('HSET', 'monitor:incident:' .. ARGV[1], 'reminders', ARGV[4])
owe(ARGV[5], ARGV[6], ARGV[7], ARGV[8], '', ARGV[9], ARGV[10])
return 1
"""
)


_PUT_OFF = """
-- ARGV: incident, when it was due, until when it is put off. Another scheduler may have reminded meanwhile.
local due = redis.call('ZSCORE', 'monitor:reminders', ARGV[1])
if due and tonumber(due) == tonumber(ARGV[2]) then redis.call('ZADD', 'monitor:reminders', ARGV[3], ARGV[1]) end
"""


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
