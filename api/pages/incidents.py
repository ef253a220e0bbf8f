"""The pages of incidents: what is down and what was, and one of them in full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flask import Flask, Response, request, url_for
from pydantic import ValidationError

from api import schemas
from api.errors import refuse_invalid
from api.pages.evidence import seen_in
from api.pages.frame import Filter, render, unless_away
from api.pages.words import ago, clock, lasting, reason_words
from api.paging import incident_cursor, incident_place
from api.services import now_ms, services
from shared.monitor import Reason
from shared.store import Acknowledgement, Incident, IncidentPage, Notification

_PAGE_SIZE = 100
MISSING = "No incident of that name is known. One that is over is kept for 90 days."
_FATES = {"sent": "sent", "delayed": "delayed", "refused": "refused", "given_up": "given up"}


def register(app: Flask) -> None:
    app.add_url_rule("/incidents", "incidents_page", unless_away(show_incidents))
    app.add_url_rule("/incidents/<id>", "incident_page", unless_away(show_incident))


# --- all of them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One incident as the table shows it; what is not known is an empty string."""

    id: str
    name: str
    endpoint: str
    sentence: str
    state: str
    """open, flapping, ended or deleted."""
    cause: str
    began: str
    began_at: str
    duration: str
    ended_at: str
    acknowledged: Acknowledgement | None


def show_incidents() -> Response:
    """Those that are open and then the newest of the others, a hundred in all; further pages hold one kind each."""
    try:
        query = schemas.IncidentsPageQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        return refuse_invalid(error)
    found, now = _find_rows(query), now_ms()
    incidents = found.incidents
    return render(
        "incidents.html",
        200,
        now=clock(now),
        filters=_filters(query, found.total or 0),
        rows=[row_of(each, now) for each in incidents],
        open_in_all=found.total,
        target=incidents[0].name if query.target and incidents else query.target,
        is_first_page=query.cursor is None,
        chosen_target=query.target,
        is_open=query.open,
        next_page=_older(query, found),
    )


def _find_rows(query: schemas.IncidentsPageQuery) -> IncidentPage:
    """What the page shows; ``total`` counts those that are open, None where only one target is asked for."""
    incidents, target = services().store.incidents, query.target
    before = incident_place(query.cursor)
    open_ones = incidents.page(open=True, target_id=target, before=before if query.open else None, limit=_PAGE_SIZE)
    if query.open:
        return open_ones
    shown = open_ones.incidents if query.open is None and before is None else ()
    room = _PAGE_SIZE - len(shown)
    if not room:
        return open_ones
    over = incidents.page(open=False, target_id=target, before=before, limit=room)
    return IncidentPage((*shown, *over.incidents), over.next, open_ones.total)


def _older(query: schemas.IncidentsPageQuery, found: IncidentPage) -> str | None:
    if found.next is None:
        # A page full of open ones has left no room for the others.
        is_full = query.open is None and query.cursor is None and len(found.incidents) == _PAGE_SIZE
        has_others = is_full and found.incidents[-1].is_open
        return url_for("incidents_page", open=_word(False), target=query.target) if has_others else None
    is_open = found.incidents[-1].is_open
    return url_for("incidents_page", open=_word(is_open), target=query.target, cursor=incident_cursor(found.next))


def _filters(query: schemas.IncidentsPageQuery, open_in_all: int) -> list[Filter]:
    names = {"all": None, "open": True, "ended": False}
    return [
        Filter(
            name,
            url_for("incidents_page", open=_word(is_open), target=query.target),
            open_in_all if is_open and not query.target else 0,
            query.open is is_open,
        )
        for name, is_open in names.items()
    ]


def _word(is_open: bool | None) -> str | None:
    return None if is_open is None else str(is_open).lower()


def row_of(incident: Incident, now: int) -> Row:
    return Row(
        id=incident.id,
        name=incident.name,
        endpoint=incident.endpoint if incident.title else "",
        sentence=incident.sentence or "",
        state=_state(incident),
        cause=_cause(incident),
        began=f"{ago(now - incident.opened_at)} ago",
        began_at=clock(incident.opened_at),
        duration=lasting(incident.duration_ms(now)),
        ended_at=clock(incident.closed_at) if incident.closed_at is not None else "",
        acknowledged=incident.acknowledged,
    )


def _state(incident: Incident) -> str:
    if incident.is_open:
        return "flapping" if incident.is_flapping else "open"
    return "deleted" if incident.is_deleted else "ended"


def _cause(incident: Incident) -> str:
    """Why it was down, in a few words: ``503, expected 200`` or ``timed out``."""
    opened = incident.opened or {}
    if opened.get("got") is not None and incident.reason in (None, Reason.STATUS):
        return f"{opened['got']}, expected {opened.get('expected')}"
    return reason_words(incident.reason) if incident.reason else "down"


# --- one of them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened; ``after`` is how long after the beginning."""

    kind: str
    """bad, good or plain."""
    at_ms: int
    at: str
    after: str
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """One notification in words."""

    kind: str
    channel: str
    fate: str
    is_bad: bool
    at: str
    who: str
    problem: str


def show_incident(id: str) -> Response:
    """One incident in full, with a form to acknowledge it while it lasts."""
    incident, now = services().store.incidents.get(id), now_ms()
    if incident is None:
        return render("incident.html", 404, now=clock(now), incident=None, problem=MISSING)
    return render(
        "incident.html",
        200,
        has_form=True,
        now=clock(now),
        incident=incident,
        row=row_of(incident, now),
        steps=steps(incident),
        duration=lasting(incident.duration_ms(now)),
        seen=seen_in(incident.evidence) if incident.evidence else None,
        told=[_told(each) for each in incident.notifications],
        acknowledged_at=clock(incident.acknowledged.at) if incident.acknowledged else "",
        longest_name=schemas.LONGEST_NAME,
        longest_note=schemas.LONGEST_NOTE,
    )


def steps(incident: Incident) -> list[Step]:
    """What happened, in order."""
    return sorted(_steps(incident), key=lambda step: step.at_ms)


def _steps(incident: Incident) -> Iterator[Step]:
    def step(kind: str, at: int, what: str, detail: str | None = None) -> Step:
        after = at - incident.opened_at
        return Step(kind, at, clock(at), f"+{lasting(after)}" if after > 0 else "", what, detail or "")

    opinion = incident.opinion or {}
    detected_at, confirmed_at = incident.detected_at, incident.confirmed_at
    has_opinion = bool(opinion) and detected_at is not None and detected_at != confirmed_at
    yield step("bad", incident.opened_at, "The first check that failed began")
    if has_opinion and detected_at is not None:
        yield step("bad", detected_at, f"It failed{_by(opinion.get('by'))}", opinion.get("sentence"))
    if confirmed_at is not None:
        what = "Confirmed by another check" if has_opinion else "It failed"
        yield step("bad", confirmed_at, f"{what}{_by(incident.by)}", incident.sentence)
    if incident.flapping_at is not None:
        yield step("bad", incident.flapping_at, "It began to flap", "It goes up and down; mails of that are held back.")
    if incident.calm_at is not None:
        yield step("plain", incident.calm_at, "The flapping was over")
    if (given := incident.acknowledged) is not None:
        yield step("plain", given.at, f"Acknowledged by {given.by}", given.note)
    if incident.closed_at is not None and incident.is_deleted:
        yield step("plain", incident.closed_at, "The target was deleted")
    elif incident.closed_at is not None:
        yield step("good", incident.closed_at, "It was good again", (incident.closed or {}).get("sentence"))


def _by(worker: str | None) -> str:
    return f", as {worker} saw it" if worker else ""


def _told(known: Notification) -> Told:
    problems = [known.error] if known.error else []
    problems += [f"{who}: {words}" for who, words in known.refused.items()]
    if known.fate in ("waiting", "delayed") and known.next_at is not None:
        # What waits may be waiting for more to share its mail.
        problems.append(f"{'next attempt at' if known.fate == 'delayed' else 'not before'} {clock(known.next_at)}")
    return Told(
        kind=known.kind or "told",
        channel=known.channel,
        fate=_FATES.get(known.fate, known.fate),
        is_bad=known.fate not in ("sent", "waiting") or bool(known.refused),
        at=clock(known.at) if known.at is not None else "",
        who=", ".join(known.recipients),
        problem="; ".join(problems),
    )
