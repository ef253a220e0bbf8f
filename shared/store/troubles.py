"""What is wrong with the monitor itself, told to people once when it begins and once when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert
from shared.store import keys
from shared.store.outbox import OWE
from shared.store.scripts import read_script

_BEGIN = read_script("troubles_begin", OWE)
_END = read_script("troubles_end", OWE)


class Troubles:
    """The troubles that people were told of; each stays until it is over, however often the processes restart."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._begin = redis.register_script(_BEGIN)
        self._end = redis.register_script(_END)

    def all(self) -> dict[str, Alert]:
        """By name, the alert that told of it."""
        found = self._redis.hgetall(keys.TROUBLES)
        return {name.decode(): Alert.parse(orjson.loads(raw)) for name, raw in found.items()}

    def begin(self, name: str, alert: Alert, *, boxes: Sequence[str], now: int) -> bool:
        """Tell people of it, unless they were told already."""
        return bool(self._begin(args=[name, orjson.dumps(alert.document()), alert.id, ",".join(boxes), now]))

    def end(self, name: str, alert: Alert, *, boxes: Sequence[str], now: int) -> bool:
        """Tell people that it is over, if they were told of it."""
        return bool(self._end(args=[name, orjson.dumps(alert.document()), alert.id, ",".join(boxes), now]))
