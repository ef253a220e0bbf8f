"""Maintenance windows under ``/api/v1``: planned times in which nobody is alarmed."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from api import schemas
from api.documents import answer, problems
from api.errors import RefusalError, not_found, shown
from api.seen import Moment, moment
from api.services import now_ms, services
from shared.maintenance import Maintenance, MaintenancePlan, active_at, next_occurrence
from shared.store import TooManyWindowsError

blueprint = APIBlueprint(
    "maintenance", __name__, url_prefix="/api/v1", abp_tags=[Tag(name="v1", description="The REST API proper.")]
)


class MaintenancePath(BaseModel):
    """The id of a maintenance window."""

    id: str


class Occurrence(BaseModel):
    """From ``start`` on and before ``end``."""

    start: Moment
    end: Moment


class MaintenanceSeen(BaseModel):
    """One window as it was given, and what follows from it now."""

    id: str
    title: str
    targets: list[str] | None
    tags: list[str] | None
    start: str
    end: str | None
    rrule: str | None
    duration: int | None
    timezone: str | None
    active: bool
    next: Occurrence | None = Field(
        description="The present occurrence, or the next; null when there is none any more."
    )


class MaintenanceList(BaseModel):
    """Every window, by title."""

    maintenance: list[MaintenanceSeen]


@blueprint.get("/maintenance", responses={200: MaintenanceList, **problems(422)})
def list_windows(query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Every maintenance window, also those that are over."""
    now = now_ms()
    return answer(MaintenanceList(maintenance=[_seen(each, now) for each in services().store.maintenance.all()]))


@blueprint.post("/maintenance", responses={201: MaintenanceSeen, **problems(400, 409, 413, 415, 422)})
def create_window(query: schemas.NoParameters, body: MaintenancePlan) -> Response:  # noqa: ARG001 - refuses parameters
    """Plan a window. While it is active checks go on, but nobody is alarmed and uptime does not count.

    409 where there are a thousand already.
    """
    try:
        window = services().store.maintenance.put(body)
    except TooManyWindowsError as error:
        raise RefusalError(409, str(error)) from None
    created = answer(_seen(window, now_ms()), 201)
    created.headers["Location"] = f"/api/v1/maintenance/{window.id}"
    return created


@blueprint.get("/maintenance/<id>", responses={200: MaintenanceSeen, **problems(404, 422)})
def get_window(path: MaintenancePath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """One window."""
    return _answer(services().store.maintenance.get(path.id), path.id)


@blueprint.put("/maintenance/<id>", responses={200: MaintenanceSeen, **problems(400, 404, 413, 415, 422)})
def replace_window(path: MaintenancePath, query: schemas.NoParameters, body: MaintenancePlan) -> Response:  # noqa: ARG001
    """Put another window in its place, whole: what the body leaves out is not there any more."""
    return _answer(services().store.maintenance.replace(path.id, body), path.id)


@blueprint.delete("/maintenance/<id>", responses={204: None, **problems(404, 422)})
def delete_window(path: MaintenancePath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Forget it; what it covered counts again at once."""
    if not services().store.maintenance.delete(path.id):
        raise _unknown(path.id)
    return Response(status=204)


def _answer(window: Maintenance | None, window_id: str) -> Response:
    if window is None:
        raise _unknown(window_id)
    return answer(_seen(window, now_ms()))


def _unknown(window_id: str) -> RefusalError:
    return not_found(f"there is no maintenance window {shown(window_id)}")


def _seen(window: Maintenance, now: int) -> MaintenanceSeen:
    occurrence = next_occurrence(window, now)
    following = None
    if occurrence is not None:
        following = Occurrence(start=moment(occurrence.starts_at), end=moment(occurrence.ends_at))
    return MaintenanceSeen(**window.model_dump(mode="json"), active=active_at(window, now), next=following)
