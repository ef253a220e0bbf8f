"""The nouns of the monitor and its one rule of state. Pure: it reads no clock, no environment and no Redis.

Times are whole milliseconds since the Unix epoch (UTC) and named ``*_at``; durations are milliseconds or
seconds and say so in their name. What is made anew for every check is a Struct: it is as frozen as a dataclass that
is, and made in an eighth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct, structs

from shared.check import Check
from shared.endpoint import redact


class MonitorError(Exception):
    """The root of every error that this project raises on purpose."""


# --- what to check -------------------------------------------------------------------------------------------------


class Target(Struct, frozen=True):
    """One endpoint to watch: its :class:`Check` under an id that never changes.

    ``revision`` grows with every change of the check; a result made with an older one is not recorded.
    """

    id: str
    check: Check
    revision: int
    created_at: int

    @property
    def name(self) -> str:
        """What people call it: the title, or the endpoint without its secrets."""
        return self.check.title or redact(self.check.endpoint)


# --- what a check saw ----------------------------------------------------------------------------------------------

PHASES = ("dns", "connect", "tls", "wait", "transfer")
"""The parts of one attempt, in order; ``wait`` is from the request sent to the first byte of the answer."""


class Reason(StrEnum):
    """Why a check did not end well. The list is fixed; texts of libraries never leave the probe."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    CERTIFICATE = "certificate"
    RESET = "reset"
    PROTOCOL = "protocol"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    STATUS = "status"
    BLOCKED = "blocked"
    ASSERTION = "assertion"
    INTERNAL = "internal"


class Verdict(StrEnum):
    """What one check says of its target.

    ``degraded`` is up, but slower than the target wants; ``unknown`` is a fault of the monitor's own.
    """

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


class Attempt(Struct, frozen=True):
    """One exchange with the endpoint. ``phases`` maps each phase that happened to its milliseconds."""

    started_at: int
    elapsed_ms: float
    phases: Mapping[str, float]
    status_code: int | None = None
    reason: Reason | None = None
    phase: str | None = None
    """The phase that a failed attempt died in."""
    address: str | None = None
    """The address connected to, ``192.0.2.1:443`` or ``[2001:db8::1]:443``."""

    def document(self) -> dict[str, Any]:
        """The attempt as JSON: the fields above, absent ones left out, phases rounded to a microsecond."""
        return _without_nones(
            {
                "started_at": self.started_at,
                "elapsed_ms": round(self.elapsed_ms, 3),
                "phases": {name: round(ms, 3) for name, ms in self.phases.items()},
                "status_code": self.status_code,
                "reason": self.reason,
                "phase": self.phase,
                "address": self.address,
            }
        )


class CertificateSeen(Struct, frozen=True):
    """The server's own certificate, as far as people want to know it; times are ms since the epoch."""

    subject: str
    issuer: str
    not_before: int
    not_after: int
    sha256: str

    def document(self) -> dict[str, Any]:
        return structs.asdict(self)


class AnswerSeen(Struct, frozen=True):
    """What was seen of the last answer of a check, without its secrets."""

    redirects: tuple[str, ...] = ()
    """The URLs that were followed to, in order, redacted."""
    certificate: CertificateSeen | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Of the answer, redacted; at most 50, each value cut to 256 characters."""
    body: str | None = None
    """The first 2 KiB, decoded safely and redacted; only of failures."""
    body_bytes: int | None = None
    """How many bytes were read of the decoded body."""

    def document(self) -> dict[str, Any]:
        """The fields above as JSON, what is not known left out."""
        return _without_nones(
            {
                "redirects": list(self.redirects) or None,
                "certificate": self.certificate.document() if self.certificate else None,
                "headers": [list(pair) for pair in self.headers] or None,
                "body": self.body,
                "body_bytes": self.body_bytes,
            }
        )


class CheckResult(Struct, frozen=True):
    """What one check saw: its attempts, and the verdict over the last of them."""

    target_id: str
    revision: int
    verdict: Verdict
    attempts: tuple[Attempt, ...]
    started_at: int
    finished_at: int
    scheduled_at: int | None = None
    """The turn of the slot that this check belongs to; None for a check outside the schedule."""
    enqueued_at: int | None = None
    """When its job was put onto the queue."""
    by: str | None = None
    """The name of the worker that made it."""
    reason: Reason | None = None
    sentence: str | None = None
    """For people, one plain sentence of ours without any secret: what was wrong. None when all was well."""
    answer: AnswerSeen | None = None
    """What was seen of the last answer; kept whole as evidence of a failure, and as a summary of a success."""
    unusual: str | None = None
    """For people: how the time differs from what is usual for this target. None when it does not."""

    @property
    def last(self) -> Attempt | None:
        """The attempt that decided; None when none was made (a fault of our own)."""
        return self.attempts[-1] if self.attempts else None

    @property
    def status_code(self) -> int | None:
        return self.last.status_code if self.last else None

    @property
    def elapsed_ms(self) -> float:
        """How long the deciding attempt took; waits between attempts are not part of it."""
        return self.last.elapsed_ms if self.last else 0.0

    @property
    def phases(self) -> Mapping[str, float]:
        return self.last.phases if self.last else {}

    @property
    def bottleneck(self) -> str | None:
        """The phase that took most of the deciding attempt."""
        phases = self.phases
        return max(phases, key=phases.__getitem__) if phases else None

    def document(self) -> dict[str, Any]:
        """The result as JSON, as events, the API and the target's latest result show it.

        Fields: scheduled_at, enqueued_at, started_at, finished_at (ms), by, verdict, status_code,
        elapsed_ms, phases, bottleneck, reason, sentence, unusual, address, attempts (a list of
        :meth:`Attempt.document`). What is not known is left out.
        """
        attempts = [attempt.document() for attempt in self.attempts]
        last = attempts[-1] if attempts else {}
        return _without_nones(
            {
                "scheduled_at": self.scheduled_at,
                "enqueued_at": self.enqueued_at,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "by": self.by,
                "verdict": self.verdict,
                "status_code": last.get("status_code"),
                "elapsed_ms": last.get("elapsed_ms", 0.0),
                "phases": last.get("phases", {}),
                "bottleneck": self.bottleneck,
                "reason": self.reason,
                "sentence": self.sentence,
                "unusual": self.unusual,
                "address": last.get("address"),
                "attempts": attempts,
            }
        )


def _without_nones(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not None}


# --- what people are told -----------------------------------------------------------------------------------------

AlertKind = Literal["down", "up", "flapping", "calm", "reminder", "trouble", "well"]
"""``flapping`` takes the place of the mails of a target that goes up and down, ``calm`` ends it; ``trouble`` and
``well`` are about the monitor itself."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are owed about one flip: everything the mail says, so that it can be sent without the target."""

    id: str
    kind: AlertKind
    target_id: str
    """Empty for an alert about the monitor itself."""
    title: str | None
    endpoint: str
    """Without its secrets."""
    at: int
    """When the check that flipped the state ended; of a reminder, when it was due."""
    began_at: int
    """When the incident began: the start of the first check that failed."""
    expected: int | str
    """The code, or codes and ranges: ``200-299, 404``."""
    got: int | None
    reason: str | None = None
    sentence: str | None = None
    incident: str | None = None
    elapsed_ms: float | None = None
    bottleneck: str | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    attempts: tuple[Mapping[str, Any], ...] = ()
    address: str | None = None
    detected_at: int | None = None
    """When the first check that failed ended; of a recovery, when the first good one did."""
    written_at: int | None = None
    """When the alert was put into the outbox."""
    is_up: bool | None = None
    """Of ``calm`` and ``flapping``, whether the target is up now."""
    flips: int | None = None
    """Of ``flapping`` and ``calm``, how often the target went up or down in the time that is looked at."""
    opinion: Mapping[str, Any] | None = None
    """The check before the one that flipped the state: at, reason, sentence, by (the name of its worker)."""
    by: str | None = None
    """The name of the worker whose check flipped the state."""
    to: tuple[str, ...] = ()
    """Who is told beside the recipients of the settings."""

    def document(self) -> dict[str, Any]:
        """The alert as stored in the outbox: the fields above, absent ones left out."""
        return _without_nones({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Alert:
        """The inverse of :meth:`document`."""
        lists = {name: tuple(document.get(name, ())) for name in ("attempts", "to")}
        return cls(**{"title": None, "got": None, **document, **lists})


@dataclass(frozen=True, slots=True)
class Report:
    """The present state, mailed by hand: every target that is down, each as the alert that it would be now."""

    at: int
    targets: int
    """How many targets there are in all."""
    down: tuple[Alert, ...]
    """Those that are down, longest first; at most as many as the outbox puts into one mail."""
    down_in_all: int
