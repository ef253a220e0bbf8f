"""What goes out of incidents under ``/api/v1``: the models, and how what the store knows becomes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, Field

from api.seen import Failure, Moment, moment, moment_or_none
from shared import store


class Acknowledgement(BaseModel):
    """Somebody has seen it."""

    by: str
    note: str | None
    at: Moment

    @classmethod
    def of(cls, given: store.Acknowledgement) -> Self:
        return cls(by=given.by, note=given.note, at=moment(given.at))


class Opinion(BaseModel):
    """The first check that failed, before another confirmed it; ``by`` is the worker that made it."""

    at: Moment
    ended: Moment | None
    reason: str | None
    sentence: str | None
    by: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the ``opinion`` of an incident."""
        texts = {name: document.get(name) for name in ("reason", "sentence", "by")}
        return cls(at=moment(document["at"]), ended=moment_or_none(document.get("ended")), **texts)


class Notification(BaseModel):
    """What became of telling people, by one channel."""

    alert: str
    channel: str = Field(description="`mail`, or the name of another.")
    kind: str | None = Field(description="What was told: `down`, `up`, `reminder`, ...; null where nobody knows.")
    fate: str = Field(description="`waiting`, `sent`, `delayed`, `refused` or `given_up`.")
    at: Moment | None
    recipients: list[str]
    refused: dict[str, str] = Field(description="Who was refused by the server, and its words.")
    error: str | None
    next_at: Moment | None = Field(
        description="Of a delayed one, when it is tried again; of a waiting one, when it is sent at the earliest."
    )

    @classmethod
    def of(cls, known: store.Notification) -> Self:
        return cls(
            alert=known.alert,
            channel=known.channel,
            kind=known.kind,
            fate=known.fate,
            at=moment_or_none(known.at),
            recipients=list(known.recipients),
            refused=dict(known.refused),
            error=known.error,
            next_at=moment_or_none(known.next_at),
        )


class Incident(BaseModel):
    """One time that a target was down. What an earlier version did not write down is null."""

    id: str
    target_id: str
    title: str | None
    endpoint: str
    open: bool
    opened_at: Moment = Field(description="The start of the first check that failed.")
    detected_at: Moment | None = Field(description="The end of that check.")
    confirmed_at: Moment | None = Field(description="The end of the check that made it an incident.")
    closed_at: Moment | None
    duration_ms: int = Field(description="How long it has lasted, or did.")
    flapping_at: Moment | None = Field(description="When the target began to go up and down.")
    calm_at: Moment | None = Field(description="When that was over.")
    deleted: bool = Field(description="Whether it ended because the target was deleted.")
    reason: str | None
    sentence: str | None
    by: str | None = Field(description="The worker whose check made it an incident.")
    acknowledged: Acknowledgement | None

    @classmethod
    def of(cls, known: store.Incident, now: int) -> Self:
        return cls(**_fields(known, now))


class IncidentInFull(Incident):
    """One incident with all that is known of it."""

    opinion: Opinion | None
    evidence: Failure | None = Field(description="What the check that made it an incident has seen.")
    notifications: list[Notification]

    @classmethod
    def of(cls, known: store.Incident, now: int) -> Self:
        return cls(
            **_fields(known, now),
            opinion=Opinion.of(known.opinion) if known.opinion else None,
            evidence=Failure.of(known.evidence) if known.evidence else None,
            notifications=[Notification.of(each) for each in known.notifications],
        )


class IncidentList(BaseModel):
    """One page of incidents, the newest first; ``total`` is null where nobody has counted them."""

    incidents: list[Incident]
    total: int | None
    next_cursor: str | None


def _fields(known: store.Incident, now: int) -> dict[str, Any]:
    times = ("opened_at", "detected_at", "confirmed_at", "closed_at", "flapping_at", "calm_at")
    texts = ("id", "target_id", "title", "endpoint", "reason", "sentence", "by")
    return {
        **{name: moment_or_none(getattr(known, name)) for name in times},
        **{name: getattr(known, name) for name in texts},
        "open": known.is_open,
        "duration_ms": known.duration_ms(now),
        "deleted": known.is_deleted,
        "acknowledged": Acknowledgement.of(known.acknowledged) if known.acknowledged else None,
    }
