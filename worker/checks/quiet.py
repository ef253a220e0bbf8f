"""Which targets are in a maintenance now, as a run of checks asks again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from redis.exceptions import RedisError

from shared.maintenance import Maintenance, is_quiet
from shared.monitor import Target
from shared.store import Maintenances

_KNOWN_SECONDS = 5.0


class Quiet:
    """The windows, read again when they are five seconds old; while Redis is away the last ones hold."""

    def __init__(self, maintenance: Maintenances) -> None:
        self._maintenance = maintenance
        self._windows: Sequence[Maintenance] = ()
        self._read_at: float | None = None

    def holds(self, target: Target) -> bool:
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > _KNOWN_SECONDS:
            try:
                self._windows = self._maintenance.all()
            except RedisError:
                if self._read_at is None:
                    raise
            self._read_at = now
        if not self._windows:
            return False
        return is_quiet(self._windows, target.id, target.check.tags or (), int(time.time() * 1000)) is not None
