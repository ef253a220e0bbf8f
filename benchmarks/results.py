"""Every result that a monitor records, as its event stream tells of it, and how late the checks were."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson
from redis import Redis

from benchmarks.accounts import percentile
from shared.store import keys

_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Seen:
    """One recorded result: times in ms; ``heard_at`` is when its event was read."""

    target: str
    verdict: str
    scheduled_at: int | None
    started_at: int
    finished_at: int
    heard_at: int
    sentence: str | None


@dataclass
class Listener:
    """Reads the stream in a thread of its own, from now on; it holds ten thousand events or so."""

    redis: Redis
    results: list[Seen] = field(default_factory=list)
    flips: list[tuple[int, str]] = field(default_factory=list)
    """When each was heard (ms), and to which status it was."""

    def __enter__(self) -> Self:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        newest: Any = self.redis.xrevrange(keys.EVENTS, count=1)
        self._after = newest[0][0] if newest else b"0"
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._is_over.wait(0.25):
            answer: Any = self.redis.xread({keys.EVENTS: self._after}, count=_AT_ONCE)
            while answer:
                entries = answer[0][1]
                self._after = entries[-1][0]
                self._note(entries)
                answer = self.redis.xread({keys.EVENTS: self._after}, count=_AT_ONCE)

    def _note(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        now = int(time.time() * 1000)
        for entry_id, fields in entries:
            at = min(now, int(entry_id.partition(b"-")[0]))
            data = orjson.loads(fields[b"data"])
            if fields[b"type"] == b"check_finished":
                self.results.append(
                    Seen(
                        fields[b"target"].decode(),
                        data["verdict"],
                        data.get("scheduled_at"),
                        data["started_at"],
                        data["finished_at"],
                        at,
                        data.get("sentence"),
                    )
                )
            elif fields[b"type"] == b"target_flipped":
                self.flips.append((at, data["after"]))


def lateness(results: list[Seen]) -> dict[str, float]:
    """Seconds from the turn of a check to its start, of those that had a turn."""
    late = [(each.started_at - each.scheduled_at) / 1000 for each in results if each.scheduled_at is not None]
    return {
        "checks": len(late),
        "late_p50_s": percentile(late, 0.5),
        "late_p99_s": percentile(late, 0.99),
        "late_max_s": max(late, default=0.0),
    }
