"""Acknowledging an incident by a form: of its page, or of the page that a signed link in a mail leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flask import Flask, Response, redirect, request, url_for
from pydantic import ValidationError
from redis.exceptions import RedisError
from werkzeug.wrappers import Response as AnyResponse

from api import schemas
from api.access import StrictRequest
from api.errors import refuse_invalid
from api.incidents import acknowledge
from api.pages.frame import render, unless_away
from api.pages.incidents import MISSING, row_of
from api.pages.words import clock
from api.services import now_ms, services
from shared.endpoint import is_plain_text
from shared.links import read_acknowledge_token
from shared.store import Incident

_SOMEONE = "someone who signed in"
_SOMEONE_WITH_A_LINK = "someone with the link from a mail"


def register(app: Flask) -> None:
    app.add_url_rule("/incidents/<id>/acknowledge", "acknowledge_page", acknowledge_here, methods=["POST"])
    app.add_url_rule("/acknowledge", "ask_acknowledgement", unless_away(ask_acknowledgement))
    app.add_url_rule("/acknowledge", "acknowledge_by_link", acknowledge_by_link, methods=["POST"])


# --- from its page -------------------------------------------------------------------------------------------------


def acknowledge_here(id: str) -> AnyResponse:
    """What the form of the page sends; then the page again. Raises RefusalError (404, 409, 413, 415, 422)."""
    form = cast(StrictRequest, request).get_form("by", "note")
    acknowledge(id, _given(form, unnamed=_user_name() or _SOMEONE))
    return redirect(url_for("incident_page", id=id), 303)


def _user_name() -> str:
    """The name that somebody gave with HTTP Basic; it may be any, as the token is the password."""
    name = " ".join(((request.authorization and request.authorization.username) or "").split())
    return name if len(name) <= schemas.LONGEST_NAME and is_plain_text(name) else ""


def _given(form: Mapping[str, str], *, unnamed: str) -> schemas.PostAcknowledgement:
    try:
        return schemas.PostAcknowledgement.model_validate({"by": form["by"] or unnamed, "note": form["note"] or None})
    except ValidationError as error:
        return cast(schemas.PostAcknowledgement, refuse_invalid(error))


# --- from a mail ---------------------------------------------------------------------------------------------------


def ask_acknowledgement() -> Response:
    """The page behind the link of a mail. It changes nothing: programs that look through mails follow links."""
    token = request.args.get("token", "")
    incident_id = _incident_of(token)
    if incident_id is None:
        return _refuse_link()
    incident = services().store.incidents.get(incident_id)
    if incident is None:
        return _outcome(404, None, "There is no such incident any more", MISSING)
    if not incident.is_open:
        return _outcome(200, incident, "This incident is over", "There is nothing to acknowledge.")
    return _outcome(200, incident, "", "", token=token)


def acknowledge_by_link() -> Response:
    """What the form of that page sends. Raises RefusalError (413, 415, 422)."""
    form = cast(StrictRequest, request).get_form("token", "by", "note")
    try:
        incident_id = _incident_of(form["token"])
        if incident_id is None:
            return _refuse_link()
        given = _given(form, unnamed=_SOMEONE_WITH_A_LINK)
        incidents = services().store.incidents
        incident = incidents.acknowledge(incident_id, by=given.by, note=given.note, now=now_ms())
        found = incident or incidents.get(incident_id)
    except RedisError:
        return _outcome(503, None, "Redis does not answer", "Nothing may have been written; try again in a moment.")
    if incident is not None:
        return _outcome(200, incident, "Acknowledged", "Nobody is reminded of this incident any more.", is_good=True)
    if found is None:
        return _outcome(404, None, "There is no such incident any more", MISSING)
    return _outcome(409, found, "This incident is over", "It ended before it was acknowledged.")


def _incident_of(token: str) -> str | None:
    return read_acknowledge_token(services().store.link_secret(), token)


def _refuse_link() -> Response:
    why = "It is too old, was cut short, or was not made by this monitor. Links in mails are good for seven days."
    return _outcome(403, None, "This link is not valid", why)


def _outcome(
    status: int, incident: Incident | None, heading: str, text: str, *, token: str = "", is_good: bool = False
) -> Response:
    now = now_ms()
    return render(
        "acknowledge.html",
        status,
        has_form=bool(token),
        now=clock(now),
        incident=incident,
        row=row_of(incident, now) if incident else None,
        acknowledged_at=clock(incident.acknowledged.at) if incident and incident.acknowledged else "",
        heading=heading,
        text=text,
        token=token,
        is_good=is_good,
        longest_name=schemas.LONGEST_NAME,
        longest_note=schemas.LONGEST_NOTE,
    )
