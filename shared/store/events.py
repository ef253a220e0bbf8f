"""The event stream: what happened, as it happened, bounded to the newest ten thousand or so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from redis import Redis

from shared.store import keys
from shared.store.scripts import read_script

LENGTH = 10_000

PUBLISH = read_script("functions/publish", EVENTS_KEPT=LENGTH)
"""``publish`` for a script: all that it has to tell is one entry, because an entry costs Valkey as much as a record.

An entry is named by the number of its last event, and how many it holds.
"""
_PUBLISH = read_script("events_publish", PUBLISH)

_ENTRIES_AT_ONCE = 20
"""Each holds as many events as a script has told of, a hundred at the most where checks are recorded."""
_NO_EVENT = "0-0"
_LAST_OF_A_NUMBER = 2**64 - 1
"""The last id that an entry with that number could have."""


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

    number: int
    """The next event has the next number: where one is missing, it was dropped because the stream is bounded."""
    type: str
    target: str | None
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.number}-0"


class Events:
    """Publishes to the stream and reads it. Readers block nobody: the stream is bounded and trimmed by writers."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._publish = redis.register_script(_PUBLISH)

    def publish(self, events: Sequence[tuple[str, str | None, dict[str, Any]]]) -> None:
        """Append (type, target id or None, data) events, in one round trip."""
        if events:
            lines = [f"{kind}\n{target or ''}\n{orjson.dumps(data).decode()}" for kind, target, data in events]
            self._publish(args=[len(events), "\n".join(lines)])

    def newest_id(self) -> str:
        """The id behind which everything is new; "0-0" while the stream is empty."""
        rows = self._redis.xrevrange(keys.EVENTS, count=1)
        return f"{number_of(rows[0][0].decode())}-0" if rows else _NO_EVENT

    def read(self, after: str, *, block_ms: int, count: int = 200) -> list[Event]:
        """The next events behind ``after`` (an id), waiting for them for ``block_ms`` at the most; 0: not at all."""
        number = number_of(after)
        behind = {keys.EVENTS: f"{number}-{_LAST_OF_A_NUMBER}"}
        found = self._redis.xread(behind, count=min(count, _ENTRIES_AT_ONCE), block=block_ms or None)
        rows = found[0][1] if isinstance(found, list) and found else next(iter(found.values()))[0] if found else []
        new = (event for row in rows for event in _events(*row) if event.number > number)
        return list(islice(new, count))


def number_of(event_id: str) -> int:
    """Of the event with this id; numbers order events, and leave none out."""
    return int(event_id.partition("-")[0])


def _events(entry_id: bytes, fields: dict[bytes, bytes]) -> Iterator[Event]:
    last, _, count = entry_id.partition(b"-")
    lines = fields[b"e"].split(b"\n") if b"e" in fields else []
    for place in range(len(lines) // 3):
        kind, target, data = lines[3 * place : 3 * place + 3]
        yield Event(int(last) - int(count) + 1 + place, kind.decode(), target.decode() or None, orjson.loads(data))
