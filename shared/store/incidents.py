"""Incidents: what happened while a target was down, as people read and acknowledge it.

Recording opens and closes them, the outbox writes down who was told; here they are read, and acknowledged.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis

from shared.store import keys
from shared.store.events import PUBLISH
from shared.store.scripts import read_script

_LEAVE = read_script("functions/leave")
_ACKNOWLEDGE = read_script("incidents_acknowledge", PUBLISH)
_FORGET = read_script("incidents_forget", _LEAVE)
_COUNT = read_script("incidents_count", _LEAVE)

Place = tuple[int, str]
"""Where an incident stands in the indexes: its time there (ms), and its id. Pages continue behind one."""

_AT_ONCE = 200
"""Incidents that are read in one round trip of a walk."""
_SWEPT = 50
"""Of the oldest ids this many are looked at with each page, so that those of expired incidents do not pile up."""
_FOR_A_LIST = (
    *("target", "title", "endpoint", "opened_at", "detected_at", "confirmed_at", "closed_at", "flapping_at", "calm_at"),
    *("reason", "sentence", "by", "deleted", "acknowledged", "opened", "closed"),
)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has seen it: who, what they said to it, and when (ms)."""

    by: str
    note: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Notification:
    """What became of telling people one alert of the incident, by one channel."""

    alert: str
    """The id of the alert."""
    channel: str
    """``mail``, or the name of another."""
    kind: str | None
    """What the alert said: down, up, reminder, ...; None where that is written down nowhere any more."""
    fate: str
    """sent, delayed, refused or given_up."""
    at: int | None
    recipients: tuple[str, ...]
    refused: Mapping[str, str]
    """Who was refused by the server, and its words."""
    error: str | None
    next_at: int | None
    """Of a delayed one, when it is tried again; of a waiting one, when it is sent at the earliest."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One time that a target was down, from the first check that failed until it was good again.

    Times are ms. Where an incident is from an earlier version, what that did not write down is None.
    """

    id: str
    target_id: str
    title: str | None
    endpoint: str
    """Without its secrets; empty where it is not known."""
    opened_at: int
    """The start of the first check that failed."""
    detected_at: int | None
    """The end of that check."""
    confirmed_at: int | None
    """The end of the check that made it an incident."""
    closed_at: int | None
    flapping_at: int | None
    """When the target began to go up and down."""
    calm_at: int | None
    """When that was over."""
    reason: str | None
    sentence: str | None
    by: str | None
    """The worker whose check made it an incident."""
    is_deleted: bool
    """Whether it ended because the target was deleted."""
    acknowledged: Acknowledgement | None
    opened: Mapping[str, Any] | None
    """The alert that opened it, and ..."""
    closed: Mapping[str, Any] | None
    """... the one that closed it (``Alert.document``)."""
    opinion: Mapping[str, Any] | None = None
    """The first check that failed: at, ended (ms), reason, sentence, by. Not in pages."""
    evidence: Mapping[str, Any] | None = None
    """CheckResult.document with ``answer`` and ``changed``, like :meth:`Recording.failures`. Not in pages."""
    notifications: tuple[Notification, ...] = ()
    """Oldest first. Not in pages."""

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def is_flapping(self) -> bool:
        """Whether the target goes up and down, as far as is known."""
        return self.is_open and self.flapping_at is not None and (self.calm_at or 0) < self.flapping_at

    @property
    def name(self) -> str:
        """What people call the target."""
        return self.title or self.endpoint or self.target_id

    def duration_ms(self, now: int) -> int:
        """How long it has lasted, or did."""
        return max(0, (self.closed_at if self.closed_at is not None else now) - self.opened_at)


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """Some incidents, the newest first."""

    incidents: tuple[Incident, ...]
    next: Place | None
    """Behind which the next page begins; None: this is the last one."""
    total: int | None
    """How many there are without a cursor; None where counting them would mean to read them all."""


class Incidents:
    """Reads and acknowledges. A closed incident expires by itself; its ids are removed when somebody comes by."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._acknowledge = redis.register_script(_ACKNOWLEDGE)
        self._forget = redis.register_script(_FORGET)
        self._count = redis.register_script(_COUNT)

    def get(self, incident_id: str) -> Incident | None:
        """One incident with all that is known of it; None when there is none, or none any more."""
        found = self._redis.hgetall(keys.incident(incident_id))
        return _incident(incident_id, {name.decode(): value for name, value in found.items()})

    def acknowledge(self, incident_id: str, *, by: str, note: str | None, now: int) -> Incident | None:
        """Somebody has seen it: nobody is reminded of it any more. A second acknowledgement replaces the first.

        None when there is no such incident, or when it is over.
        """
        acknowledged = {"by": by, "note": note, "at": now}
        event = {"incident": incident_id, **acknowledged}
        answer = self._acknowledge(
            keys=[keys.incident(incident_id)],
            args=[incident_id, orjson.dumps(acknowledged), orjson.dumps(event)],
        )
        names = [name.decode() for name in answer[::2]]
        return _incident(incident_id, dict(zip(names, answer[1::2], strict=True)))

    def page(
        self,
        *,
        open: bool | None = None,
        target_id: str | None = None,
        since: int | None = None,
        until: int | None = None,
        before: Place | None = None,
        limit: int = 100,
    ) -> IncidentPage:
        """The newest incidents first: those that began at or after ``since`` and before ``until`` (ms).

        ``open`` is whether they last still; None: all. ``before`` continues behind an incident, which need not exist
        any more. Without evidence, opinions and notifications.
        """
        index = keys.incidents_of(target_id) if target_id else keys.OPEN_INCIDENTS if open else keys.INCIDENTS
        span = _Span(since or 0, until)
        counted, open_ones = self._count(keys=[index], args=[span.since, span.top, _SWEPT])
        total = None if target_id and open is not None else counted - open_ones if open is False else counted
        found: list[Incident] = []
        last = before
        for place, incident in self._walk(index, span, before, min(limit + 1, _AT_ONCE)):
            if open not in (None, incident.is_open):
                continue
            if len(found) == limit:
                return IncidentPage(tuple(found), last, total)
            found.append(incident)
            last = place
        return IncidentPage(tuple(found), None, total)

    def _walk(self, index: str, span: _Span, before: Place | None, at_once: int) -> Iterator[tuple[Place, Incident]]:
        """Down from the newest, or from behind ``before``. It ends: an index holds ten thousand ids or so."""
        while rows := self._behind(index, span, before, at_once):
            with self._redis.pipeline(transaction=False) as pipe:
                for _, incident_id in rows:
                    pipe.hmget(keys.incident(incident_id), _FOR_A_LIST)
                read = pipe.execute()
            gone = []
            for place, values in zip(rows, read, strict=True):
                incident_id = place[1]
                known = {name: value for name, value in zip(_FOR_A_LIST, values, strict=True) if value is not None}
                incident = _incident(incident_id, known)
                if incident is None:
                    gone.append(incident_id)
                else:
                    yield place, incident
            if gone:
                self._forget(args=gone)
            before = rows[-1]

    def _behind(self, index: str, span: _Span, before: Place | None, count: int) -> list[Place]:
        """The next ids: many incidents may have begun in the same millisecond, and there they stand by id."""
        tied, top = [], span.top
        if before is not None and (span.until is None or before[0] < span.until):
            at, last = before
            ids = self._redis.zrange(index, at, max(at, span.since), byscore=True, desc=True)
            tied = [(at, raw.decode()) for raw in ids if raw < last.encode()]
            top = f"({at}"
        rows = self._redis.zrange(index, top, span.since, byscore=True, desc=True, offset=0, num=count, withscores=True)
        return [*tied, *((int(at), raw.decode()) for raw, at in rows)][:count]


@dataclass(frozen=True, slots=True)
class _Span:
    """When the incidents began: at or after ``since`` and before ``until`` (ms; None: whenever)."""

    since: int
    until: int | None

    @property
    def top(self) -> str:
        return "+inf" if self.until is None else f"({self.until}"


# --- from Redis ----------------------------------------------------------------------------------------------------


def _incident(incident_id: str, fields: Mapping[str, bytes]) -> Incident | None:
    """From the fields of its hash, as far as they are there; None where there is no incident."""
    opened, closed = _json(fields.get("opened")), _json(fields.get("closed"))
    began_at = _number(fields.get("opened_at")) or (closed or {}).get("began_at")
    if "target" not in fields or began_at is None:
        return None
    alert = opened or closed or {}
    evidence = fields.get("evidence")

    def text(name: str) -> str | None:
        raw = fields.get(name)
        return raw.decode() or None if raw is not None else alert.get(name)

    acknowledged = _json(fields.get("acknowledged"))
    return Incident(
        id=incident_id,
        target_id=fields["target"].decode(),
        title=text("title"),
        endpoint=text("endpoint") or "",
        opened_at=began_at,
        detected_at=_number(fields.get("detected_at")),
        confirmed_at=_number(fields.get("confirmed_at")) or (opened or {}).get("at"),
        closed_at=_number(fields.get("closed_at")),
        flapping_at=_number(fields.get("flapping_at")),
        calm_at=_number(fields.get("calm_at")),
        reason=text("reason"),
        sentence=text("sentence"),
        by=text("by"),
        is_deleted="deleted" in fields,
        acknowledged=Acknowledgement(**acknowledged) if acknowledged else None,
        opened=opened,
        closed=closed,
        opinion=_json(fields.get("opinion")),
        evidence=orjson.loads(zlib.decompress(evidence)) if evidence else None,
        notifications=_notifications(fields, fields["target"].decode()),
    )


def _notifications(fields: Mapping[str, bytes], target_id: str) -> tuple[Notification, ...]:
    """Fields are ``told:{alert id}`` for mails and ``told:{channel}:{alert id}`` for other channels.

    The id of an alert begins with that of its target.
    """
    found = []
    for field, raw in fields.items():
        prefix, _, name = field.partition(":")
        if prefix != "told":
            continue
        channel, _, alert = name.partition(":") if not name.startswith(f"{target_id}-") else ("", "", name)
        told = orjson.loads(raw)
        found.append(
            Notification(
                alert=alert,
                channel=channel or "mail",
                kind=told.get("kind"),
                fate=told["fate"],
                at=told.get("at"),
                recipients=tuple(told.get("recipients", ())),
                refused=told.get("refused", {}),
                error=told.get("error") or None,
                next_at=told.get("next_at"),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.at or 0, each.alert, each.channel)))


def _json(raw: bytes | None) -> dict[str, Any] | None:
    return orjson.loads(raw) if raw else None


def _number(raw: bytes | None) -> int | None:
    return int(raw) if raw else None
