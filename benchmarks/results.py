"""Every result that a monitor records, as its event stream tells of it, and how late the checks were."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from redis import Redis

from benchmarks.accounts import percentile
from shared.store.events import Event, Events

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
        self._events = Events(self.redis)
        self._after = self._events.newest_id()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._is_over.wait(0.25):
            while found := self._events.read(self._after, block_ms=0, count=_AT_ONCE):
                self._after = found[-1].id
                self._note(found)

    def _note(self, events: list[Event]) -> None:
        now = int(time.time() * 1000)
        for event in events:
            data = event.data
            if event.type == "check_finished" and event.target:
                self.results.append(
                    Seen(
                        event.target,
                        data["verdict"],
                        data.get("scheduled_at"),
                        data["started_at"],
                        data["finished_at"],
                        now,
                        data.get("sentence"),
                    )
                )
            elif event.type == "target_flipped":
                self.flips.append((now, data["after"]))


def lateness(results: list[Seen]) -> dict[str, float]:
    """Seconds from the turn of a check to its start, of those that had a turn."""
    late = [(each.started_at - each.scheduled_at) / 1000 for each in results if each.scheduled_at is not None]
    return {
        "checks": len(late),
        "late_p50_s": percentile(late, 0.5),
        "late_p99_s": percentile(late, 0.99),
        "late_max_s": max(late, default=0.0),
    }
