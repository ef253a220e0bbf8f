"""What checks have seen, as ``/api/v1`` shows it: the models, and how the store's documents become them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from shared.monitor import Reason, Verdict

Document = Mapping[str, Any]
"""What the store keeps, with times in ms since the epoch; what is not known is left out."""

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""ISO 8601, UTC, with milliseconds and a Z."""


def moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def moment_or_none(ms: int | None) -> str | None:
    return moment(ms) if ms is not None else None


# --- results -------------------------------------------------------------------------------------------------------


class AttemptSeen(BaseModel):
    """One exchange with the endpoint; what did not happen is null."""

    started_at: Moment
    elapsed_ms: float
    phases: dict[str, float]
    status_code: int | None = None
    reason: Reason | None = None
    phase: str | None = Field(default=None, description="The phase that a failed attempt died in.")
    address: str | None = None


class Result(BaseModel):
    """What one check saw. ``phases`` are milliseconds, and ``bottleneck`` names the one that took most."""

    scheduled_at: Moment | None
    enqueued_at: Moment | None
    started_at: Moment
    finished_at: Moment
    verdict: Verdict
    status_code: int | None
    elapsed_ms: float
    phases: dict[str, float]
    bottleneck: str | None
    reason: Reason | None
    sentence: str | None


class PastResult(Result):
    """A result of the history; ``attempts`` is how many there were."""

    attempts: int

    @classmethod
    def of(cls, document: Document) -> Self:
        """From a row of ``Recording.history``."""
        return cls(**_with_moments(document))


class LastResult(Result):
    """The newest result of a target, with every attempt."""

    by: str | None = Field(description="The worker that made it.")
    unusual: str | None = Field(description="Where the time went, when it took much longer than is usual.")
    address: str | None
    attempts: list[AttemptSeen]

    @classmethod
    def of(cls, document: Document) -> Self:
        """From ``CheckResult.document``."""
        return cls(**_last_result(document))


class ResultList(BaseModel):
    """One page of results, the newest first."""

    results: list[PastResult]
    next_cursor: str | None


def _last_result(document: Document) -> dict[str, Any]:
    attempts = [{**each, "started_at": moment(each["started_at"])} for each in document["attempts"]]
    return {**dict.fromkeys(LastResult.model_fields), **_with_moments(document), "attempts": attempts}


_TIMES = ("scheduled_at", "enqueued_at", "started_at", "finished_at")


def _with_moments(document: Document) -> dict[str, Any]:
    times = {name: moment_or_none(document.get(name)) for name in _TIMES}
    return {**document, **times}


# --- evidence ------------------------------------------------------------------------------------------------------


class HeaderSeen(BaseModel):
    """One header of an answer, its value masked where it may be a secret."""

    name: str
    value: str


class CertificateSeen(BaseModel):
    """The server's own certificate."""

    subject: str
    issuer: str
    not_before: Moment
    not_after: Moment
    sha256: str


class AnswerSeen(BaseModel):
    """The last answer of a check, without its secrets."""

    redirects: list[str] = Field(description="The URLs that were followed to, in order.")
    certificate: CertificateSeen | None
    headers: list[HeaderSeen]
    body: str | None = Field(description="The first 2 KiB; only of failures.")
    body_bytes: int | None = Field(description="How many bytes were read of the decoded body.")


class ResultInFull(LastResult):
    """A result with the answer that it judged; null where there was none."""

    answer: AnswerSeen | None

    @classmethod
    def of(cls, document: Document) -> Self:
        """From ``CheckResult.document`` with ``answer`` (``AnswerSeen.document`` or None)."""
        return cls(**_in_full(document))


class Failure(ResultInFull):
    """A check that did not end well, with its evidence."""

    changed: list[str] = Field(description="What was otherwise when it last worked, a sentence each.")

    @classmethod
    def of(cls, document: Document) -> Self:
        """From an entry of ``Recording.failures``."""
        return cls(**_in_full(document))


class LastGood(BaseModel):
    """What the last good answer was like; ``headers`` are only those that say what answered."""

    at: Moment = Field(description="When an answer was like this first.")
    status_code: int | None
    address: str | None
    redirects: list[str]
    certificate: CertificateSeen | None
    headers: list[HeaderSeen]
    body_bytes: int | None

    @classmethod
    def of(cls, summary: Document) -> Self:
        """From ``shared.baseline.summary``."""
        return cls(
            at=moment(summary["at"]),
            status_code=summary.get("status_code"),
            address=summary.get("address"),
            redirects=summary.get("redirects", []),
            certificate=_certificate(summary.get("certificate")),
            headers=_headers(summary.get("headers", {}).items()),
            body_bytes=summary.get("body_bytes"),
        )


class FailureList(BaseModel):
    """The newest failures of a target, newest first, and what it was like when it last worked."""

    failures: list[Failure]
    last_good: LastGood | None


def _in_full(document: Document) -> dict[str, Any]:
    return {**_last_result(document), "answer": _answer(document.get("answer"))}


def _answer(document: Document | None) -> AnswerSeen | None:
    if document is None:
        return None
    return AnswerSeen(
        redirects=document.get("redirects", []),
        certificate=_certificate(document.get("certificate")),
        headers=_headers(document.get("headers", [])),
        body=document.get("body"),
        body_bytes=document.get("body_bytes"),
    )


def _certificate(document: Document | None) -> CertificateSeen | None:
    if document is None:
        return None
    times = {name: moment(document[name]) for name in ("not_before", "not_after")}
    return CertificateSeen(**{**document, **times})


def _headers(pairs: Any) -> list[HeaderSeen]:
    return [HeaderSeen(name=name, value=value) for name, value in pairs]
