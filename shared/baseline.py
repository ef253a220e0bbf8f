"""What is usual for a target: running medians of its phases, and what its last good answer was like. Pure.

A median is kept as one number: each new value moves it a step towards itself, so that after a while half of the values
lie above it and half below (frugal streaming, Ma, Muthukrishnan and Sandler 2013, with steps relative to the median).
The first steps are large, so that what is usual does not depend on the very first value: a median that began a hundred
times too low or too high is where it belongs by the time that it counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Struct

from shared.monitor import CheckResult

TOTAL = "total"
UNUSUAL_FACTOR = 3.0
"""A check that takes longer than this many times its usual total is worth a word."""
_UNUSUAL_MS = 50.0
"""Below this nobody cares, whatever the factor."""
_KNOWN_AFTER = 10
"""Results before a median means anything."""
_FIRST_STEP, _LAST_STEP = 3.0, 0.03
_WATCHED_HEADERS = ("content-type", "server")


class Baseline(Struct, frozen=True):
    """What is usual for one target. ``medians`` maps a phase, and ``total``, to milliseconds; bounded by the phases."""

    count: int = 0
    medians: Mapping[str, float] = {}
    good: str | None = None
    """A digest of the last good answer's summary: the summary is written again only when it has changed."""

    def document(self) -> list[Any]:
        """As stored: [count, medians in hundredths of a millisecond, digest]."""
        return [self.count, {name: round(ms * 100) for name, ms in self.medians.items()}, self.good]

    @classmethod
    def parse(cls, document: list[Any]) -> Baseline:
        count, medians, good = document
        return cls(count, {name: value / 100 for name, value in medians.items()}, good)


def learn(baseline: Baseline, result: CheckResult, good: str | None = None) -> Baseline:
    """The baseline after a good result; others teach nothing. ``good`` is the digest of what is known of its answer."""
    count = baseline.count + 1
    step = max(_LAST_STEP, _FIRST_STEP / max(baseline.count, 1))
    medians = dict(baseline.medians)
    for name, value in (*result.phases.items(), (TOTAL, result.elapsed_ms)):
        medians[name] = _moved(medians.get(name), value, step)
    return Baseline(count, medians, good)


def _moved(median: float | None, value: float, step: float) -> float:
    if median is None:
        return value
    if value > median:
        return min(value, max(median * (1 + step), median + 0.01))
    return max(value, min(median / (1 + step), median - 0.01))


def unusual(baseline: Baseline, result: CheckResult) -> str | None:
    """For people, where the time went when the total is unusual for this target; None when it is not.

    ``tls 1.9 s, 82 % of the total, 7 x its usual``.
    """
    usual_total, total = baseline.medians.get(TOTAL), result.elapsed_ms
    if usual_total is None or baseline.count < _KNOWN_AFTER:
        return None
    if total < _UNUSUAL_MS or total <= UNUSUAL_FACTOR * usual_total:
        return None
    name = result.bottleneck
    if name is None:
        return None
    ms, usual = result.phases[name], baseline.medians.get(name)
    factor = f", {ms / usual:.0f} x its usual" if usual else ", which is not usual"
    return f"{name} {_seconds(ms)}, {100 * ms / total:.0f} % of the total{factor}"


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms"


def summary(result: CheckResult) -> dict[str, Any]:
    """A good answer in few words, as kept until the next one that differs.

    Fields: status_code, address, redirects, certificate (CertificateSeen.document), headers (content-type, server),
    body_bytes, at (ms; when an answer was like this first). What is not known is left out.
    """
    answer, last = result.answer, result.last
    seen: dict[str, Any] = {"status_code": result.status_code, "address": last.address if last else None}
    if answer is not None:
        seen["redirects"] = list(answer.redirects) or None
        seen["certificate"] = answer.certificate.document() if answer.certificate else None
        seen["headers"] = {name: value for name, value in answer.headers if name.lower() in _WATCHED_HEADERS} or None
        seen["body_bytes"] = answer.body_bytes
    return {name: value for name, value in seen.items() if value is not None} | {"at": result.started_at}


def digest_of(good: Mapping[str, Any]) -> str:
    """What tells two summaries apart; sizes and times do not."""
    told = {name: value for name, value in good.items() if name not in ("at", "body_bytes")}
    return hashlib.blake2b(orjson.dumps(told, option=orjson.OPT_SORT_KEYS), digest_size=6).hexdigest()


def differences(good: Mapping[str, Any], result: CheckResult) -> list[str]:
    """What a failed check met that the last good one did not, for people."""
    now = summary(result)
    found = []
    if "address" in now and now["address"] != good.get("address"):
        found.append(f"the address was {good.get('address')} and is {now['address']}")
    if now.get("redirects") != good.get("redirects") and result.answer is not None and result.status_code is not None:
        found.append("it is redirected otherwise")
    before, after = good.get("certificate"), now.get("certificate")
    if before and after and before["sha256"] != after["sha256"]:
        found.append(f"the certificate is another one ({after['subject']})")
    if result.status_code is not None:
        found += _header_differences(good, now)
    return found


def _header_differences(good: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before = {name.lower(): value for name, value in (good.get("headers") or {}).items()}
    after = {name.lower(): value for name, value in (now.get("headers") or {}).items()}
    return [
        f"{name} was {before.get(name, 'absent')} and is {after.get(name, 'absent')}"
        for name in _WATCHED_HEADERS
        if before.get(name) != after.get(name)
    ]
