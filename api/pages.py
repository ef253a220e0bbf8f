"""The page for people: every target in one table, under a header that tells the truth about the monitor itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from flask import Flask, Response, render_template, request, url_for
from msgspec import Struct
from pydantic import ValidationError
from redis.exceptions import RedisError

from api import schemas
from api.errors import RETRY_AFTER_SECONDS, refuse_invalid
from api.paging import find_page
from api.seen import moment
from api.services import now_ms, services
from shared.endpoint import redact
from shared.health import Health
from shared.maintenance import Maintenance, active_at, covers
from shared.monitor import PHASES, Alert, Reason
from shared.queues import CHECKS
from shared.state import Status
from shared.store import Watched

_PAGE_SIZE = 100
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
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
_SHOWN_OVERDUE = 3
_WORTH_A_SENTENCE = (Status.DOWN, Status.DEGRADED, Status.UNKNOWN)


def register(app: Flask) -> None:
    app.add_url_rule("/", "page", show)


def show() -> Response:
    """The first page, or 503 as a page when Redis is away."""
    try:
        query = schemas.PageQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        return refuse_invalid(error)
    store, now = services().store, now_ms()
    try:
        health, needed = services().health(), services().needed_workers()
        page = find_page(store.targets, status=query.status, after=query.cursor, limit=_PAGE_SIZE)
        windows = active_windows(now)
        open_incidents = store.incidents.page(open=True, limit=1).total or 0
        warnings = list(attention(health, now))
    except RedisError:
        return away()
    pages_of_targets = url_for("target_page", id="")  # Asked once: one takes Flask a third of a row.
    return render(
        "targets.html",
        200,
        now=clock(now),
        health=health,
        warnings=warnings,
        vitals=vitals(health, needed, open_incidents),
        filters=filters(health, query.status),
        rows=[row(watched, windows, now, url=pages_of_targets + watched.target.id) for watched in page.targets],
        chosen=query.status,
        total=page.total,
        is_first_page=query.cursor is None,
        next_page=url_for("page", cursor=page.next_cursor, status=query.status) if page.next_cursor else None,
        base_url=request.host_url.rstrip("/"),
        needs_token=services().settings.api_token is not None,
    )


def render(template: str, status: int, *, has_form: bool = False, **values: Any) -> Response:
    """The template as a page; only one that ``has_form`` may send it, and to this site alone."""
    policy = _POLICY.replace("form-action 'none'", "form-action 'self'") if has_form else _POLICY
    return Response(
        render_template(template, **values), status, mimetype="text/html", headers={"Content-Security-Policy": policy}
    )


def away() -> Response:
    """503 as a page: Redis does not answer."""
    page = render("away.html", 503, now=clock(now_ms()))
    page.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return page


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


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should know, and where they can do something about it."""

    text: str
    links: tuple[tuple[str, str], ...] = ()
    """Each what it says, and where it leads."""
    kind: Literal["bad", "warning", "plain"] = "warning"


def attention(health: Health, now: int) -> Iterator[Notice]:
    """What is wrong though the page is there; at most three further questions to Redis. Raises redis.RedisError."""
    for trouble in troubles():
        if trouble.title not in health.missing and trouble.sentence not in health.missing:
            yield Notice(f"{trouble.title} since {ago(now - trouble.began_at)}: {trouble.sentence}", kind="bad")
    for warning in health.warnings:
        links: tuple[tuple[str, str], ...] = ()
        if "given up" in warning:
            links = (("look, or send them again", url_for("outbox_page")),)
        elif "overdue" in warning:
            late = services().store.targets.overdue(now=now, limit=_SHOWN_OVERDUE)
            links = tuple((each.target.name, url_for("target_page", id=each.target.id)) for each, _ in late)
        yield Notice(warning, links)


def troubles() -> list[Alert]:
    """What people were told of the monitor itself and is not over, the longest first."""
    return sorted(services().store.troubles.all().values(), key=lambda trouble: trouble.began_at)


@dataclass(frozen=True, slots=True)
class Filter:
    """One link above the table."""

    name: str
    url: str
    count: int
    is_chosen: bool


def filters(health: Health, chosen: Status | None) -> list[Filter]:
    everything = Filter("all", url_for("page"), sum(health.statuses.values()), chosen is None)
    order = (Status.DOWN, Status.DEGRADED, Status.UP, Status.UNKNOWN, Status.PENDING, Status.PAUSED)
    found = [Filter(each, url_for("page", status=each), health.statuses[each], chosen is each) for each in order]
    return [everything, *(each for each in found if each.count or each.is_chosen)]


# --- the table -----------------------------------------------------------------------------------------------------


class Phase(Struct, frozen=True):
    """A piece of the bar of phases; ``start`` and ``width`` are percent."""

    name: str
    start: float
    width: float


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


def phases(measured: Mapping[str, float]) -> list[Phase]:
    """The phases that happened, in order, as shares of their sum."""
    total = sum(measured.values())
    found, start = [], 0.0
    for name in PHASES:
        width = 100 * measured.get(name, 0.0) / total if total else 0.0
        if width:
            found.append(Phase(name, round(start, 2), round(width, 2)))
        start += width
    return found


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


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


def clock(ms: int) -> str:
    return moment(ms)[:19].replace("T", " ") + " UTC"
