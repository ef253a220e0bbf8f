"""``GET /events``: what happens, as it happens, as Server-Sent Events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import orjson
from flask import Flask, Response, request
from redis.exceptions import RedisError

from api.access import Turnstile
from api.errors import invalid, not_found, shown
from api.services import Services, connect, services
from shared.endpoint import redact
from shared.store import Event, Store
from shared.store.events import number_of

MOST_STREAMS = 16
"""Each holds a thread of the server, which has twice as many."""
_BLOCK_MS = 500
HEARTBEAT_SECONDS = 4.0
LABELS_SECONDS = 30.0
_AT_ONCE = 2000
_EVENT_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class Streams:
    """The open streams of one app."""

    def __init__(self, redis_url: str) -> None:
        # A reader waits longer for Redis than a request may; nothing is connected before it reads.
        self.store = Store(connect(redis_url, answer_seconds=_BLOCK_MS / 1000 + 5))
        self.places = Turnstile(MOST_STREAMS, "event streams")
        self.is_closing = False
        """Set by a stopping server; every stream ends within half a second. A bare flag: a signal handler sets it."""


def register(app: Flask) -> None:
    at_hand: Services = app.extensions["monitor"]
    streams = Streams(at_hand.settings.redis)
    app.extensions["streams"] = streams
    app.add_url_rule("/events", "events", lambda: _open(streams))


def _open(streams: Streams) -> Response:
    """The stream; it starts behind ``Last-Event-ID`` (or ``?last_event_id=``), and with what is new without one."""
    for name in request.args:
        if name not in ("last_event_id", "target"):
            raise invalid([shown(name)[1:-1]], "is not a parameter that is known here", request.args[name])
    asked = request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
    if asked is not None and not _EVENT_ID.fullmatch(asked):
        raise invalid(["last_event_id"], "must be the id of an event, two numbers joined by '-'", asked)
    target = request.args.get("target")
    store = services().store
    if target is not None and store.targets.get(target) is None:
        raise not_found(f"there is no target {shown(target)}")
    newest = store.events.newest_id()
    streams.places.enter()
    stream = Stream(streams, after=asked or newest, newest=newest, target=target)
    response = Response(stream, mimetype="text/event-stream")
    # Also called where the reader went away before the first line, when the generator has not begun.
    response.call_on_close(stream.close)
    response.headers["X-Accel-Buffering"] = "no"
    return response


class Stream:
    """One reader. It reads Redis only when the reader has taken what came before, so a slow one delays nobody."""

    def __init__(self, streams: Streams, *, after: str, newest: str, target: str | None) -> None:
        self._streams = streams
        # An id from the future would wait for ever: the stream in Redis has begun anew since.
        self._after = after if number_of(after) <= number_of(newest) else newest
        self._must_tell_gap = after != self._after
        self._target = target
        self._labels = Labels(streams.store)
        self._is_closed = False

    def close(self) -> None:
        """Give the place back; more than once does no harm."""
        if not self._is_closed:
            self._is_closed = True
            self._streams.places.leave()

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        try:
            if self._must_tell_gap:
                yield self._gap()
            yield from self._follow()
        except RedisError:
            yield b": Redis does not answer; come back in a moment\n\n"

    def _follow(self) -> Iterator[bytes]:
        spoken = time.monotonic()
        while not self._streams.is_closing:
            events = self._streams.store.events.read(self._after, block_ms=_BLOCK_MS, count=_AT_ONCE)
            if events:
                if 0 < number_of(self._after) < events[0].number - 1:
                    yield self._gap()
                self._after = events[-1].id
                text = self._format(events)
                if text:
                    yield text
                    spoken = time.monotonic()
            if time.monotonic() - spoken >= HEARTBEAT_SECONDS:
                # A reader that has gone is noticed at the second write after it left.
                yield b": still here\n\n"
                spoken = time.monotonic()

    def _gap(self) -> bytes:
        return b"event: gap\ndata: " + orjson.dumps({"after": self._after}) + b"\n\n"

    def _format(self, events: list[Event]) -> bytes:
        wanted = [event for event in events if self._target in (None, event.target)]
        labels = self._labels.of({event.target for event in wanted if event.target})
        return b"".join(_lines(event, labels) for event in wanted)


def _lines(event: Event, labels: dict[str, dict[str, str | None]]) -> bytes:
    """``id``, ``event`` and ``data``: target, title, endpoint (without its secrets) and what the event carries."""
    known = labels.get(event.target or "", {"title": None, "endpoint": None})
    data: dict[str, Any] = {**event.data, "target": event.target, **known}
    return f"id: {event.id}\nevent: {event.type}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


class Labels:
    """Titles and endpoints of targets, read in one round trip and remembered for half a minute."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, str | None]] = {}
        self._since = time.monotonic()

    def of(self, target_ids: set[str]) -> dict[str, dict[str, str | None]]:
        if time.monotonic() - self._since > LABELS_SECONDS:
            self._known.clear()
            self._since = time.monotonic()
        missing = sorted(target_ids - self._known.keys())
        if missing:
            for watched in self._store.targets.load(missing):
                check = watched.target.check
                self._known[watched.target.id] = {"title": check.title, "endpoint": redact(check.endpoint)}
        return self._known
