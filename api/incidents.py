"""Incidents under ``/api/v1``: what was down and when, and who has seen it."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api import schemas
from api.documents import answer, problems
from api.errors import RefusalError, not_found, shown
from api.incident_answers import Incident, IncidentInFull, IncidentList
from api.paging import incident_cursor, incident_place
from api.services import now_ms, services
from shared import store

blueprint = APIBlueprint(
    "incidents", __name__, url_prefix="/api/v1", abp_tags=[Tag(name="v1", description="The REST API proper.")]
)


@blueprint.get("/incidents", responses={200: IncidentList, **problems(422)})
def list_incidents(query: schemas.IncidentsQuery) -> Response:
    """A page of the incidents, the newest first; those that are over are kept for 90 days."""
    page = services().store.incidents.page(
        open=query.open,
        target_id=query.target,
        since=query.since,
        until=query.until,
        before=incident_place(query.cursor),
        limit=query.limit,
    )
    now = now_ms()
    return answer(
        IncidentList(
            incidents=[Incident.of(each, now) for each in page.incidents],
            total=page.total,
            next_cursor=incident_cursor(page.next),
        )
    )


@blueprint.get("/incidents/<id>", responses={200: IncidentInFull, **problems(404, 422)})
def get_incident(path: schemas.IncidentPath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """One incident: its evidence, the first check that failed, and what became of telling people."""
    return answer(IncidentInFull.of(find(path.id), now_ms()))


@blueprint.post(
    "/incidents/<id>/acknowledge", responses={200: IncidentInFull, **problems(400, 404, 409, 413, 415, 422)}
)
def acknowledge_incident(
    path: schemas.IncidentPath,
    query: schemas.NoParameters,  # noqa: ARG001 - refuses parameters
    body: schemas.PostAcknowledgement,
) -> Response:
    """Somebody has seen it: nobody is reminded of it any more. Once more replaces who and what. 409 when it is over."""
    return answer(IncidentInFull.of(acknowledge(path.id, body), now_ms()))


def find(incident_id: str) -> store.Incident:
    """The incident; raises RefusalError (404)."""
    found = services().store.incidents.get(incident_id)
    if found is None:
        raise not_found(f"there is no incident {shown(incident_id)}")
    return found


def acknowledge(incident_id: str, given: schemas.PostAcknowledgement) -> store.Incident:
    """The incident after it was acknowledged; raises RefusalError (404, 409)."""
    incidents = services().store.incidents
    acknowledged = incidents.acknowledge(incident_id, by=given.by, note=given.note, now=now_ms())
    if acknowledged is None:
        find(incident_id)
        raise RefusalError(409, "the incident is over")
    return acknowledged
