"""What a check saw, for the pages of a target and of an incident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.pages.pictures import Phase, phases
from api.pages.words import clock, milliseconds


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase of the check that failed, under the others; the numbers are percent."""

    phase: Phase
    time: str
    is_bottleneck: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """The evidence, in words."""

    rows: list[tuple[str, str]]
    bars: list[Bar]
    changed: list[str]
    headers: list[tuple[str, str]]
    body: str


def seen_in(evidence: Mapping[str, Any]) -> Seen:
    """From ``CheckResult.document`` with ``answer`` and ``changed``."""
    answer, measured = evidence.get("answer") or {}, evidence.get("phases") or {}
    certificate = answer.get("certificate") or {}
    rows = {
        "Response": evidence.get("status_code"),
        "Address": evidence.get("address"),
        "Attempts": len(evidence.get("attempts") or ()) or None,
        "Took": milliseconds(evidence["elapsed_ms"]) if evidence.get("elapsed_ms") else None,
        "Unusual": evidence.get("unusual"),
        "Redirects": " → ".join(answer.get("redirects") or ()),
        "Certificate": f"{certificate['subject']}, until {clock(certificate['not_after'])}" if certificate else None,
        "Body": f"{answer['body_bytes']:,} bytes" if answer.get("body_bytes") is not None else None,
    }
    slowest = evidence.get("bottleneck")
    return Seen(
        rows=[(name, str(value)) for name, value in rows.items() if value],
        bars=[Bar(each, milliseconds(measured[each.name]), each.name == slowest) for each in phases(measured)],
        changed=list(evidence.get("changed") or ()),
        headers=[(name, value) for name, value in answer.get("headers") or ()],
        body=answer.get("body") or "",
    )
