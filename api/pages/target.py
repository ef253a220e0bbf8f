"""The page of one target: what whoever was woken up by a mail wants to know, and the two things that they may do.

What its pictures show is in ``api.pages.pictures``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from flask import Flask, Response, redirect, request, url_for
from pydantic import Field, ValidationError
from werkzeug.wrappers import Response as AnyResponse

from api import schemas
from api.access import StrictRequest
from api.checks import start as start_check
from api.errors import RefusalError, invalid, not_found, refuse_invalid, shown
from api.pages import pictures
from api.pages.evidence import Bar, Seen, seen_in
from api.pages.frame import render, unless_away
from api.pages.incidents import row_of
from api.pages.notices import is_late, notices
from api.pages.pictures import phases
from api.pages.targets import active_windows, chips, window_of
from api.pages.words import ago, clock, milliseconds, response_words, seconds_words
from api.services import now_ms, services
from shared.check import Check
from shared.endpoint import redact
from shared.state import GOOD, Status
from shared.store import Watched

RESULTS_SHOWN = 50
FAILURES_SHOWN = 10
INCIDENTS_SHOWN = 10
_ASKED_LATELY_MS = 120_000
"""After which nobody waits for the check any more that they asked for."""


class _Query(schemas.Parameters):
    """What the page is told."""

    asked: Annotated[str, Field(pattern=r"^[0-9]{13}$")] | None = None
    """When a check by hand was asked for (ms): until its result is in, the page says so."""


def register(app: Flask) -> None:
    app.add_url_rule("/targets/<id>", "target_page", unless_away(show))
    app.add_url_rule("/targets/<id>", "act_on_target", unless_away(act), methods=["POST"])


def show(id: str) -> Response:
    """One target, or 404 as a page."""
    try:
        query = _Query.model_validate(request.args.to_dict())
    except ValidationError as error:
        return refuse_invalid(error)
    return _page(id, 200, asked_at=int(query.asked) if query.asked else None)


# --- what can be done ----------------------------------------------------------------------------------------------


def act(id: str) -> Response:
    """What the buttons send, ``do=check``, ``do=pause`` or ``do=resume``; then the page again.

    What cannot be done is told on the page, with the status of the refusal. Raises RefusalError (413, 415, 422) for
    what is no form of this page.
    """
    deed = cast(StrictRequest, request).get_form("do")["do"]
    if deed not in ("check", "pause", "resume"):
        raise invalid(["do"], "must be check, pause or resume", deed)
    try:
        asked_at = start_check(id) if deed == "check" else _pause(id, deed == "pause")
    except RefusalError as refusal:
        page = _page(id, refusal.status, problem=refusal.message)
        for name, value in refusal.headers.items():
            page.headers[name] = str(value)
        return page
    answer: AnyResponse = redirect(url_for("target_page", id=id, asked=asked_at), 303)
    return cast(Response, answer)


def _pause(target_id: str, is_paused: bool) -> int | None:
    """Pause or resume; returns when a check was asked for, None: none was. Raises RefusalError (404)."""
    at_hand, now = services(), now_ms()
    change = schemas.PatchTarget.model_validate({"paused": is_paused})
    written = at_hand.store.targets.patch(target_id, change.apply, now=now)
    if written is None:
        raise not_found(f"there is no target {shown(target_id)}")
    if is_paused or not written.changed:
        return None
    at_hand.queues.enqueue_check([target_id])
    return now


# --- the page ------------------------------------------------------------------------------------------------------


def _page(target_id: str, status: int, *, asked_at: int | None = None, problem: str = "") -> Response:
    """The page, with a fixed number of questions to Redis. Raises redis.RedisError."""
    store, now = services().store, now_ms()
    watched = store.targets.get(target_id)
    if watched is None:
        return render("target.html", 404, now=clock(now), target=None, id=target_id)
    check, latest = watched.target.check, watched.latest or {}
    parent = store.targets.get(check.parent) if check.parent else None
    windows, sums = active_windows(now), store.recording.sums(target_id)
    results = store.recording.history(target_id, limit=RESULTS_SHOWN)
    failures = store.recording.failures(target_id)
    incidents = store.incidents.page(target_id=target_id, limit=INCIDENTS_SHOWN)
    is_stale = is_late(watched, now)
    return render(
        "target.html",
        status,
        has_form=True,
        now=clock(now),
        target=watched.target,
        endpoint=redact(check.endpoint) if check.title else "",
        state=watched.state,
        chips=chips(watched, windows),
        is_stale=is_stale,
        sentence=latest.get("sentence", "") if watched.state.status not in (*GOOD, Status.PAUSED) else "",
        notices=list(notices(watched, window_of(watched, windows), parent, is_stale=is_stale, now=now)),
        problem=problem,
        is_awaited=_is_awaited(watched, asked_at, now),
        vitals=_vitals(watched, sums, now),
        newest=_newest(watched),
        chart=pictures.chart(results, usual_ms=watched.baseline.medians.get("total")),
        uptimes=[
            pictures.uptime("24 hours", sums["hours"], now // pictures.HOUR_MS, 24, pictures.HOUR_MS),
            pictures.uptime("90 days", sums["days"], now // pictures.DAY_MS, 90, pictures.DAY_MS),
        ],
        failures=[_failure(each, now) for each in failures[:FAILURES_SHOWN]],
        failures_in_all=len(failures),
        incidents=[row_of(each, now) for each in incidents.incidents],
        has_more_incidents=incidents.next is not None,
        facts=_facts(watched),
        parent=parent,
    )


def _is_awaited(watched: Watched, asked_at: int | None, now: int) -> bool:
    """Whether a check that was asked for is not in yet; nobody waits for that of a target that was paused since."""
    if asked_at is None or watched.target.check.paused or not asked_at <= now < asked_at + _ASKED_LATELY_MS:
        return False
    return watched.state.checked_at < asked_at


def _vitals(watched: Watched, sums: Mapping[str, Sequence[pictures.Sum]], now: int) -> list[tuple[str, str, str]]:
    """Name, value, and the time behind it."""
    state, latest = watched.state, watched.latest or {}
    finished_at = latest.get("finished_at")
    return [
        (f"{state.status} for", ago(now - state.since), clock(state.since)),
        ("last checked", f"{ago(now - finished_at)} ago" if finished_at else "never", clock(finished_at or now)),
        ("last response", response_words(latest), ""),
        ("latency", milliseconds(latest["elapsed_ms"]) if latest.get("elapsed_ms") else "not known", ""),
        ("uptime, 24 hours", pictures.share(sums["hours"], now // pictures.HOUR_MS, 24) or "not known", ""),
        ("uptime, 90 days", pictures.share(sums["days"], now // pictures.DAY_MS, 90) or "not known", ""),
    ]


# --- what checks have seen -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest result in words."""

    seen: Seen
    at: str
    verdict: str
    sentence: str
    unusual: str
    attempts: list[tuple[str, str, str, str]]
    """When each began, what came of it, how long it took, and the address; of more than one."""


def _newest(watched: Watched) -> Newest | None:
    latest = watched.latest
    if latest is None:
        return None
    measured, attempts = latest.get("phases", {}), latest.get("attempts", [])
    rows = {
        "Response": latest.get("status_code"),
        "Took": milliseconds(latest["elapsed_ms"]) if latest.get("elapsed_ms") else None,
        "Usually": milliseconds(usual) if (usual := watched.baseline.medians.get("total")) else None,
        "Attempts": len(attempts) or None,
        "Address": latest.get("address"),
        "Checked by": latest.get("by"),
    }
    slowest = latest.get("bottleneck")
    return Newest(
        seen=Seen(
            rows=[(name, str(value)) for name, value in rows.items() if value],
            bars=[Bar(each, milliseconds(measured[each.name]), each.name == slowest) for each in phases(measured)],
            changed=[],
            headers=[],
            body="",
        ),
        at=clock(latest["finished_at"]),
        verdict=latest["verdict"],
        sentence=latest.get("sentence", ""),
        unusual=latest.get("unusual", ""),
        attempts=[_attempt(each) for each in attempts] if len(attempts) > 1 else [],
    )


def _attempt(attempt: Mapping[str, Any]) -> tuple[str, str, str, str]:
    outcome = response_words(attempt)
    if attempt.get("reason") and attempt.get("phase"):
        outcome += f", at {attempt['phase']}"
    return clock(attempt["started_at"]), outcome, milliseconds(attempt["elapsed_ms"]), attempt.get("address", "")


@dataclass(frozen=True, slots=True)
class Failure:
    """One check that did not end well; ``id`` is unique on the page."""

    id: str
    at: str
    age: str
    verdict: str
    cause: str
    sentence: str
    seen: Seen


def _failure(document: Mapping[str, Any], now: int) -> Failure:
    """From an entry of ``Recording.failures``."""
    return Failure(
        id=f"failure-{document['started_at']}",
        at=clock(document["started_at"]),
        age=f"{ago(now - document['started_at'])} ago",
        verdict=document["verdict"],
        cause=response_words(document),
        sentence=document.get("sentence", ""),
        seen=seen_in(document),
    )


# --- how it is checked ---------------------------------------------------------------------------------------------


def _facts(watched: Watched) -> list[tuple[str, str]]:
    """How the target is checked and who is told, without any secret."""
    check, settings = watched.target.check, services().settings
    policy, told = settings.policy(check), (*settings.mail_recipients, *settings.recipients(check))
    down = f"{policy.failures_needed} failed {'check' if policy.failures_needed == 1 else 'checks in a row'}"
    rows = {
        "Expected": settings.expectation(check) + _assertions(check),
        "Checked every": seconds_words(settings.interval(check)),
        "Method": check.method or "GET",
        "Timeout": f"{settings.timeout(check):g} s an attempt, {1 + settings.retries(check)} at the most",
        "Slow beyond": milliseconds(check.degraded_ms) if check.degraded_ms else None,
        "Down after": f"{down}, the last a second opinion" if policy.second_opinion else down,
        "Mails go to": ", ".join(told) or "nobody: MAIL_RECIPIENTS is empty",
        "Watched since": clock(watched.target.created_at),
    }
    return [(name, value) for name, value in rows.items() if value]


def _assertions(check: Check) -> str:
    count = len(check.assertions or ())
    return f", and {count} {'assertion' if count == 1 else 'assertions'}" if count else ""
