"""Maintenance windows in Redis: one hash, read as a whole."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError
from redis import Redis

from shared.maintenance import Maintenance, MaintenancePlan
from shared.monitor import MonitorError
from shared.store import keys
from shared.store.scripts import read_script

MOST_WINDOWS = 1000

_PUT = read_script("maintenance_put")
_REPLACE = read_script("maintenance_replace")
_DELETE = read_script("maintenance_delete")

log = logging.getLogger("maintenance")


class TooManyWindowsError(MonitorError):
    """One window more than there may be; nothing was changed."""


class Maintenances:
    """Every maintenance window. One instance a process; it holds no data of its own."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._put = redis.register_script(_PUT)
        self._replace = redis.register_script(_REPLACE)
        self._delete = redis.register_script(_DELETE)

    # --- writing: what changes is worth a snapshot ---

    def put(self, window: MaintenancePlan) -> Maintenance:
        """Keep one more window, under a new id. Raises TooManyWindowsError."""
        window_id = secrets.token_hex(8)
        kept = _with_id(window, window_id)
        if not self._put(keys=_KEYS, args=[window_id, orjson.dumps(kept.document()), MOST_WINDOWS]):
            raise TooManyWindowsError(f"there must be at most {MOST_WINDOWS} maintenance windows")
        return kept

    def replace(self, window_id: str, window: MaintenancePlan) -> Maintenance | None:
        """Put a window in the place of another; None when there is no other."""
        kept = _with_id(window, window_id)
        return kept if self._replace(keys=_KEYS, args=[window_id, orjson.dumps(kept.document())]) else None

    def delete(self, window_id: str) -> bool:
        """False when there is none."""
        return bool(self._delete(keys=_KEYS, args=[window_id]))

    def restore(self, saved: Sequence[Maintenance]) -> None:
        """Write windows of a snapshot that do not exist yet, under their own id; what is in Redis is newer.

        One without an id, or with that of another line, gets one that follows from what it says, so that all of this
        is safe to repeat.
        """
        ids: set[str] = set()
        with self._redis.pipeline(transaction=True) as pipe:
            for window in saved:
                window_id = _digest(window) if window.id is None or window.id in ids else window.id
                ids.add(window_id)
                pipe.hsetnx(keys.MAINTENANCE, window_id, orjson.dumps(_with_id(window, window_id).document()))
            if saved:
                pipe.incr(keys.CHANGES)
            pipe.execute()

    # --- reading ---

    def get(self, window_id: str) -> Maintenance | None:
        raw = self._redis.hget(keys.MAINTENANCE, window_id)
        return _window(window_id, raw) if raw is not None else None

    def all(self) -> list[Maintenance]:
        """Every window, by title."""
        found = [_window(field.decode(), raw) for field, raw in self._redis.hgetall(keys.MAINTENANCE).items()]
        return sorted((window for window in found if window), key=lambda window: (window.title, window.id))


_KEYS = [keys.MAINTENANCE, keys.CHANGES]


def _with_id(window: MaintenancePlan, window_id: str) -> Maintenance:
    """It was valid before, so that nothing is asked again."""
    return Maintenance.model_construct(**{**dict(window), "id": window_id})


def _digest(window: MaintenancePlan) -> str:
    content = orjson.dumps({**window.document(), "id": None}, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@lru_cache(maxsize=2 * MOST_WINDOWS)
def _window(window_id: str, raw: bytes) -> Maintenance | None:
    """The window as it was read before; None where Redis holds what is none, which is told once a process."""
    try:
        return Maintenance.model_validate({**orjson.loads(raw), "id": window_id})
    except ValidationError as error:
        problem = error.errors()[0]
        reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
    except (ValueError, TypeError) as error:
        reason = str(error)
    log.warning("the maintenance window %s in Redis is skipped: %s", window_id, reason)
    return None
