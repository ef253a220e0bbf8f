"""How a mail says things: times, durations, codes and causes in words. Pure; the filters of the mail templates."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.endpoint import MASK, is_plain_text
from shared.monitor import PHASES, Alert, Reason

SUBJECT_LENGTH = 60

_REASONS = {
    Reason.DNS: "DNS failure",
    Reason.REFUSED: "connection refused",
    Reason.UNREACHABLE: "unreachable",
    Reason.TIMEOUT: "timed out",
    Reason.TLS: "TLS failure",
    Reason.CERTIFICATE: "bad certificate",
    Reason.RESET: "connection reset",
    Reason.PROTOCOL: "not valid HTTP",
    Reason.TOO_MANY_REDIRECTS: "too many redirects",
    Reason.STATUS: "wrong status",
    Reason.BLOCKED: "address blocked",
    Reason.ASSERTION: "an assertion failed",
    Reason.INTERNAL: "fault of the monitor",
}
_PHASE_NAMES = {
    "dns": "DNS lookup",
    "connect": "connect",
    "tls": "TLS handshake",
    "wait": "waiting for the first byte",
    "transfer": "transfer",
}


def plain(text: object) -> str:
    """``text`` in one line, with a space for whatever could forge a header or turn the direction of reading."""
    return " ".join("".join(c if is_plain_text(c) else " " for c in str(text)).split())


def clock(at: int) -> str:
    """``2026-11-22 17:01:05 UTC``, from milliseconds since the epoch."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def moment(at: int, since: int) -> str:
    """As :func:`clock`, and only the time of day where it is the same day as ``since``."""
    told, day = clock(at), clock(since)[:11]
    return told.removeprefix(day)


def duration(ms: float) -> str:
    """Milliseconds in the two largest units that say something: ``12 min 4 s``; a clock that went back is 0."""
    left = int(max(0.0, ms)) // 1000
    parts = []
    for seconds, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, seconds)
        parts.append(f"{count} {unit}" if count else "")
    while parts and not parts[0]:
        parts.pop(0)
    return " ".join(filter(None, parts[:2])) or "less than 1 s"


def briefly(ms: float) -> str:
    """As :func:`duration`, without seconds once there are minutes."""
    return duration(ms if ms < 60_000 else ms // 60_000 * 60_000)


def elapsed(ms: float) -> str:
    """A measured time with three digits at most: ``8.4 ms``, ``132 ms``, ``1.25 s``."""
    if ms >= 999.5:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.0f} ms" if ms >= 99.95 else f"{ms:.1f} ms"


def counted(count: int, noun: str) -> str:
    """``1 target``, ``2 targets``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def code(status_code: int | str | None) -> str:
    """``503 Service Unavailable``; the number alone where the standard has no phrase, and ``200-299, 404`` as it is."""
    if status_code is None:
        return "no answer"
    try:
        return f"{status_code} {http.HTTPStatus(int(status_code)).phrase}"
    except ValueError:
        return str(status_code)


def reason_words(reason: str | None) -> str:
    if reason is None:
        return "down"
    try:
        return _REASONS[Reason(reason)]
    except (KeyError, ValueError):
        return shortened(reason.replace("_", " "), 30)


def phase_words(phase: str) -> str:
    return _PHASE_NAMES.get(phase, phase)


def misses_code(alert: Alert) -> bool:
    """Whether it is the status code that is another one than expected."""
    return alert.got is not None and alert.reason in (None, Reason.STATUS)


def cause(alert: Alert) -> str:
    """Why it is down, for a subject: ``503, expected 200`` or ``timed out``."""
    if misses_code(alert):
        return f"{alert.got}, expected {shortened(str(alert.expected), 20)}"
    return reason_words(alert.reason)


def outcome(attempt: Mapping[str, Any]) -> str:
    """How one attempt (``Attempt.document``) ended: ``200 OK``, ``timed out during TLS handshake``."""
    status_code, reason, phase = (attempt.get(name) for name in ("status_code", "reason", "phase"))
    if status_code is not None and reason in (None, Reason.STATUS):
        return code(status_code)
    words = reason_words(reason) if reason else "no answer"
    if phase and reason in (Reason.TIMEOUT, Reason.RESET):
        words += f" during {phase_words(phase)}"
    return f"{words} ({status_code})" if status_code is not None else words


def got(alert: Alert) -> str:
    """What came back, in words: ``503 Service Unavailable``, ``timed out during TLS handshake``."""
    if alert.attempts:
        return outcome(alert.attempts[-1])
    return outcome({"status_code": alert.got, "reason": alert.reason})


def confirmation(alert: Alert) -> str | None:
    """Who saw it, and of a failure that two checks saw, how much later and what the first one said; None if unknown."""
    worker = f" (worker {shortened(alert.by, 60)})" if alert.by else ""
    first = alert.opinion
    if alert.kind != "down" or not first:
        return f"Seen by worker {shortened(alert.by, 60)}." if alert.by else None
    failed_at = alert.detected_at or first.get("at")
    later = f" {duration(alert.at - failed_at)} later" if failed_at else ""
    told = f"Confirmed by another check{later}{worker}."
    if (first.get("reason"), first.get("sentence")) == (alert.reason, alert.sentence):
        return told
    said = str(first.get("sentence") or "").rstrip(".") or reason_words(first.get("reason"))
    by = f" (worker {shortened(str(first['by']), 60)})" if first.get("by") and first.get("by") != alert.by else ""
    return f"{told} The first one{by} said: {said}."


def changes(flips: int | None, window_ms: int | None) -> str:
    """How much it goes up and down: ``7 changes in 1 h``; empty where nobody counted."""
    if not flips:
        return ""
    return counted(flips, "change") + (f" in {briefly(window_ms)}" if window_ms else "")


def sentence_case(text: str) -> str:
    """``text`` with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def unbroken(counts: str) -> str:
    """Parts between commas that no line may break: ``37 targets down, 2 up`` in a heading."""
    return counts.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def framed(name: str, before: str = "", after: str = "") -> str:
    """A subject of at most 60 characters around ``name``: the name is cut, the verdict never."""
    name = name.removeprefix("https://").removeprefix("http://")
    return f"{before}{shortened(name, SUBJECT_LENGTH - len(before) - len(after))}{after}"


def fitted(name: str, before: str, *afters: str) -> str:
    """A subject as :func:`framed`, with the first of ``afters`` beside which the name fits whole, or else the last."""
    bare = name.removeprefix("https://").removeprefix("http://")
    fitting = (after for after in afters if len(before) + len(bare) + len(after) <= SUBJECT_LENGTH)
    return framed(name, before, next(fitting, afters[-1]))


def link(endpoint: str) -> str | None:
    """The endpoint where it is safe and useful to follow it: a web address that lost no secret and was not cut."""
    return (
        endpoint
        if endpoint.startswith(("http://", "https://")) and MASK not in endpoint and "…" not in endpoint
        else None
    )


# --- where the time went -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase of an attempt in its chart: a gap and then a bar, both in percent of the whole."""

    name: str
    ms: float
    gap: int
    width: int
    is_bottleneck: bool

    def drawn(self, columns: int = 30) -> str:
        """The bar in characters; its left edge is where the phase began."""
        start = self.gap * columns // 100
        return " " * start + "█" * max(1, round(self.width * columns / 100))


def chart(alert: Alert) -> list[Bar]:
    """The phases of the deciding attempt, in order, each beginning where the one before it ended."""
    names = [name for name in PHASES if name in alert.phases]
    names += [name for name in alert.phases if name not in PHASES]
    whole = sum(alert.phases.values())
    bars, before = [], 0.0
    for name in names:
        ms = alert.phases[name]
        # Even a phase of no time stays visible, and none sticks out on the right.
        gap = min(98, round(100 * before / whole)) if whole else 0
        width = min(100 - gap, max(2, round(100 * ms / whole))) if whole else 2
        bars.append(Bar(name, ms, gap, width, name == alert.bottleneck))
        before += ms
    return bars


FILTERS = {
    word.__name__: word
    for word in (
        *(chart, clock, code, confirmation, counted, duration, elapsed),
        *(framed, got, link, misses_code, outcome, phase_words, sentence_case, shortened, unbroken),
    )
}
"""The words by name, as the templates call them."""
