"""The first page: every target in one table, under a header that tells the truth about the monitor itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Flask, Response, request, url_for
from msgspec import Struct
from pydantic import ValidationError

from api import schemas
from api.errors import refuse_invalid
from api.pages.frame import Filter, render, unless_away
from api.pages.notices import attention
from api.pages.pictures import Phase, phases
from api.pages.words import ago, clock, milliseconds, response_words
from api.paging import find_page
from api.services import now_ms, services
from shared.endpoint import redact
from shared.health import Health
from shared.maintenance import Maintenance, active_at, covers
from shared.queues import CHECKS
from shared.state import Status
from shared.store import Watched

_PAGE_SIZE = 100
_WORTH_A_SENTENCE = (Status.DOWN, Status.DEGRADED, Status.UNKNOWN)


def register(app: Flask) -> None:
    app.add_url_rule("/", "page", unless_away(show))


def show() -> Response:
    try:
        query = schemas.PageQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        return refuse_invalid(error)
    store, now = services().store, now_ms()
    health, needed = services().health(), services().needed_workers()
    page = find_page(store.targets, status=query.status, after=query.cursor, limit=_PAGE_SIZE)
    windows = active_windows(now)
    pages_of_targets = url_for("target_page", id="")  # Asked once: one takes Flask a third of a row.
    return render(
        "targets.html",
        200,
        now=clock(now),
        health=health,
        warnings=list(attention(health, now)),
        vitals=vitals(health, needed, store.incidents.page(open=True, limit=1).total or 0),
        filters=filters(health, query.status),
        rows=[row(watched, windows, now, url=pages_of_targets + watched.target.id) for watched in page.targets],
        chosen=query.status,
        total=page.total,
        is_first_page=query.cursor is None,
        next_page=url_for("page", cursor=page.next_cursor, status=query.status) if page.next_cursor else None,
        base_url=request.host_url.rstrip("/"),
        needs_token=services().settings.api_token is not None,
    )


# --- the header ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vital:
    """One number about the monitor itself; ``is_bad`` when it says that checks do not go on."""

    name: str
    value: str
    is_bad: bool = False
    url: str = ""


def vitals(health: Health, needed_workers: int | None, open_incidents: int) -> list[Vital]:
    checks = health.queues[CHECKS]
    waiting = sum(seen.waiting for seen in health.queues.values())
    idle = [name for name, seen in health.queues.items() if not seen.workers]
    return [
        Vital("open incidents", str(open_incidents), bool(open_incidents), url_for("incidents_page")),
        Vital("workers alive", str(sum(len(seen.workers) for seen in health.queues.values())), bool(idle)),
        Vital("checking now", f"{checks.running} of {len(checks.workers)}"),
        Vital(
            "check workers needed",
            "not known yet" if needed_workers is None else str(needed_workers),
            len(checks.workers) < (needed_workers or 0),
        ),
        Vital("jobs waiting", str(waiting)),
        Vital("scheduler's last tick", ago(health.scheduler_age_ms), "scheduler" in " ".join(health.missing)),
        Vital("newest result", ago(health.newest_result_age_ms), "newest result" in " ".join(health.missing)),
    ]


def filters(health: Health, chosen: Status | None) -> list[Filter]:
    everything = Filter("all", url_for("page"), sum(health.statuses.values()), chosen is None)
    order = (Status.DOWN, Status.DEGRADED, Status.UP, Status.UNKNOWN, Status.PENDING, Status.PAUSED)
    found = [Filter(each, url_for("page", status=each), health.statuses[each], chosen is each) for each in order]
    return [everything, *(each for each in found if each.count or each.is_chosen)]


# --- the table -----------------------------------------------------------------------------------------------------


class Row(Struct, frozen=True):
    """One target as the table shows it; what is not known is an empty string."""

    url: str
    title: str | None
    endpoint: str
    status: Status
    response: str
    sentence: str
    """What is wrong; only while something is."""
    latency: str
    bottleneck: str
    unusual: str
    phases: list[Phase]
    checked: str
    checked_at: str
    since: str
    since_at: str
    chips: list[str]
    """What the status alone does not say, in a word or two each."""


def row(watched: Watched, windows: Sequence[Maintenance], now: int, *, url: str) -> Row:
    """``windows`` are those that are active, ``url`` is the page of the target."""
    latest = watched.latest or {}
    measured: Mapping[str, float] = latest.get("phases", {})
    bottleneck = latest.get("bottleneck")
    return Row(
        url=url,
        title=watched.target.check.title,
        endpoint=redact(watched.target.check.endpoint),
        status=watched.state.status,
        response=response_words(latest),
        sentence=latest.get("sentence", "") if watched.state.status in _WORTH_A_SENTENCE else "",
        latency=milliseconds(latest["elapsed_ms"]) if latest.get("elapsed_ms") else "",
        bottleneck=f"{bottleneck} {milliseconds(measured[bottleneck])}" if bottleneck else "",
        unusual=latest.get("unusual", ""),
        phases=phases(measured),
        checked=f"{ago(now - latest['finished_at'])} ago" if latest else "",
        checked_at=clock(latest["finished_at"]) if latest else "",
        since=ago(now - watched.state.since),
        since_at=clock(watched.state.since),
        chips=chips(watched, windows),
    )


def active_windows(now: int) -> list[Maintenance]:
    """The maintenance that goes on, of whatever targets. Raises redis.RedisError."""
    return [window for window in services().store.maintenance.all() if active_at(window, now)]


def window_of(watched: Watched, windows: Sequence[Maintenance]) -> Maintenance | None:
    """The first of these windows that is for the target."""
    check = watched.target.check
    return next((window for window in windows if covers(window, watched.target.id, check.tags)), None)


def chips(watched: Watched, windows: Sequence[Maintenance]) -> list[str]:
    known = {
        "flapping": watched.state.is_flapping,
        "in doubt": watched.state.is_in_doubt and watched.state.status is not Status.PAUSED,
        "maintenance": window_of(watched, windows) is not None,
    }
    return [word for word, is_so in known.items() if is_so]
