"""The page of the outbox: what people could not be told, with a button that sends it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from flask import Flask, Response, redirect, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response as AnyResponse

from api import schemas
from api.access import StrictRequest
from api.errors import refuse_invalid
from api.pages.frame import render, unless_away
from api.pages.words import clock
from api.services import now_ms, services
from shared.store import Outbox

_SHOWN = 100
"""Alerts at the most, and as many are sent again by one press of the button for all."""


def register(app: Flask) -> None:
    app.add_url_rule("/outbox", "outbox_page", unless_away(show))
    app.add_url_rule("/outbox", "send_again", unless_away(send_again), methods=["POST"])


@dataclass(frozen=True, slots=True)
class Row:
    """One alert that was given up; what is not known is an empty string."""

    id: str
    name: str
    endpoint: str
    target_id: str
    kind: str
    sentence: str
    at: str
    channels: str
    problem: str


def show() -> Response:
    """What was given up, an alert a row, and how much waits."""
    try:
        schemas.NoParameters.model_validate(request.args.to_dict())
    except ValidationError as error:
        return refuse_invalid(error)
    boxes = _boxes()
    counts = [box.counts() for box in boxes.values()]
    rows = _dead(boxes)
    return render(
        "outbox.html",
        200,
        has_form=True,
        now=clock(now_ms()),
        rows=rows[:_SHOWN],
        has_more=len(rows) > _SHOWN,
        waiting=sum(each.waiting + each.sending for each in counts),
    )


def send_again() -> Response:
    """What the buttons send: ``id`` of one alert, or none for those of the page. Raises RefusalError (413, 415, 422).

    What somebody else has sent again meanwhile is left alone, and the page says what is left.
    """
    chosen, now, boxes = cast(StrictRequest, request).get_form("id")["id"], now_ms(), _boxes()
    for entry_id in [chosen] if chosen else [row.id for row in _dead(boxes)[:_SHOWN]]:
        for box in boxes.values():
            box.revive(entry_id, now=now)
    answer: AnyResponse = redirect(url_for("outbox_page"), 303)
    return cast(Response, answer)


def _boxes() -> dict[str, Outbox]:
    store = services().store
    return {"mail": store.outbox, "notifications": store.notifications}


def _dead(boxes: Mapping[str, Outbox]) -> list[Row]:
    """What was given up, the longest ago first in each channel; an alert that two gave up is one row."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for channel, box in boxes.items():
        for entry in box.entries():
            if entry["place"] == "dead":
                found.setdefault(entry["id"], []).append((channel, entry))
    return [_row(entry_id, given_up) for entry_id, given_up in found.items()]


def _row(entry_id: str, given_up: list[tuple[str, dict[str, Any]]]) -> Row:
    alert = given_up[0][1]["alert"] or {}
    return Row(
        id=entry_id,
        name=alert.get("title") or alert.get("endpoint") or "A report",
        endpoint=alert.get("endpoint", "") if alert.get("title") else "",
        target_id=alert.get("target_id", ""),
        kind=alert.get("kind", "report"),
        sentence=alert.get("sentence") or "",
        at=clock(alert["at"]) if alert.get("at") else "",
        channels=", ".join(channel for channel, _ in given_up),
        problem="; ".join(dict.fromkeys(entry["error"] for _, entry in given_up if entry["error"])),
    )
