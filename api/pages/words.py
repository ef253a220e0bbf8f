"""How the pages say things: times, ages, durations and what came of a check. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from api.seen import moment
from shared.monitor import Reason

_REASONS = {
    Reason.DNS: "name not found",
    Reason.REFUSED: "connection refused",
    Reason.UNREACHABLE: "unreachable",
    Reason.TIMEOUT: "timed out",
    Reason.TLS: "TLS failed",
    Reason.CERTIFICATE: "bad certificate",
    Reason.RESET: "connection reset",
    Reason.PROTOCOL: "not HTTP",
    Reason.TOO_MANY_REDIRECTS: "too many redirects",
    Reason.BLOCKED: "address not allowed",
    Reason.ASSERTION: "assertion failed",
    Reason.INTERNAL: "could not be checked",
}


def clock(ms: int) -> str:
    return moment(ms)[:19].replace("T", " ") + " UTC"


def ago(age_ms: int | None) -> str:
    """An age in its two largest units at the most: ``4 s``, ``12 min``, ``3 h 5 min``, ``8 d``."""
    if age_ms is None:
        return "never"
    seconds = max(0, age_ms) // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d"


def lasting(ms: int) -> str:
    """How long something took: ``0.4 s``, ``12 s``, ``12 min``, ``3 h 5 min``."""
    return f"{ms / 1000:.1f} s" if ms < 10_000 else ago(ms)


def seconds_words(seconds: float) -> str:
    return ago(int(seconds * 1000))


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def response_words(latest: Mapping[str, Any]) -> str:
    """The status code, or in two words why there is none."""
    if not latest:
        return "not checked yet"
    if latest.get("status_code") is not None and latest.get("reason") in (None, Reason.STATUS):
        return str(latest["status_code"])
    return reason_words(latest.get("reason", Reason.INTERNAL))


def reason_words(reason: str) -> str:
    """A reason in two or three words."""
    return _REASONS.get(cast(Reason, reason), "no answer")
