"""The event stream: what happened, as it happened, bounded to the newest ten thousand or so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis

from shared.store import keys

_PUBLISH = """
-- ARGV: how many events to keep, about, then type, target or '' and data of each.
for i = 2, #ARGV, 3 do
  redis.call('XADD', 'monitor:events', 'MAXLEN', '~', ARGV[1], '*', 'type', ARGV[i], 'target', ARGV[i + 1],
             'data', ARGV[i + 2])
end
"""

LENGTH = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``id`` orders events and resumes a reader; ``data`` is a JSON document.

    =====================  =====================================================================================
    type                   data
    =====================  =====================================================================================
    check_started          at (ms)
    check_retried          attempt (Attempt.document), wait_ms
    check_finished         CheckResult.document
    target_flipped         id, before, after, at (ms), opens, closes (incident ids or null)
    incident_acknowledged  incident (id), by, note (or null), at (ms)
    alert_mailed           alert_ids, mail_id; ``target`` is null
    =====================  =====================================================================================
    """

    id: str
    type: str
    target: str | None
    data: dict[str, Any]


class Events:
    """Publishes to the stream and reads it. Readers block nobody: the stream is bounded and trimmed by writers."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._publish = redis.register_script(_PUBLISH)

    def publish(self, events: Sequence[tuple[str, str | None, dict[str, Any]]]) -> None:
        """Append (type, target id or None, data) events, in one round trip."""
        words: list[Any] = [LENGTH]
        for kind, target, data in events:
            words += (kind, target or "", orjson.dumps(data))
        self._publish(args=words)

    def newest_id(self) -> str:
        """The id behind which everything is new; "0-0" while the stream is empty."""
        rows = self._redis.xrevrange(keys.EVENTS, count=1)
        return rows[0][0].decode() if rows else "0-0"

    def oldest_id(self) -> str | None:
        """The id of the oldest event that is still kept; None while the stream is empty."""
        rows = self._redis.xrange(keys.EVENTS, count=1)
        return rows[0][0].decode() if rows else None

    def read(self, after: str, *, block_ms: int, count: int = 200) -> list[Event]:
        """The next events behind ``after`` (an id), waiting for them for ``block_ms`` at the most; 0: not at all."""
        found = self._redis.xread({keys.EVENTS: after}, count=count, block=block_ms or None)
        rows = found[0][1] if isinstance(found, list) and found else next(iter(found.values()))[0] if found else []
        return [_event(entry_id, fields) for entry_id, fields in rows]


def _event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(
        id=entry_id.decode(),
        type=fields[b"type"].decode(),
        target=fields[b"target"].decode() or None,
        data=orjson.loads(fields[b"data"]),
    )
