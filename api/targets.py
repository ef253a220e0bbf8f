"""The REST API proper: targets and the outbox, under ``/api/v1``; what checks have seen is in ``api.checks``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api import answers, schemas
from api.documents import answer, problems
from api.errors import RefusalError, contradiction, not_found, shown
from api.paging import find_page
from api.seen import LastResult, moment, moment_or_none
from api.services import now_ms, services
from shared.check import Check, ContradictionError
from shared.check import shown as without_secrets
from shared.state import State, Status
from shared.store import Outbox, TargetTakenError, Watched

blueprint = APIBlueprint(
    "targets", __name__, url_prefix="/api/v1", abp_tags=[Tag(name="v1", description="The REST API proper.")]
)

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000


@dataclass(frozen=True, slots=True)
class _Draft:
    """A target that shall come into being, as ``shared.store`` wants it."""

    check: Check
    state: State
    id: None = None
    latest: None = None


# --- targets -------------------------------------------------------------------------------------------------------


@blueprint.get("/targets", responses={200: answers.TargetList, **problems(422)})
def list_targets(query: schemas.TargetsQuery) -> Response:
    """A page of the targets, in the order of their creation."""
    page = find_page(
        services().store.targets,
        endpoint=query.endpoint,
        title=query.title,
        status=query.status,
        after=query.cursor,
        limit=query.limit,
    )
    targets = [answers.TargetSeen(**fields(each)) for each in page.targets]
    return answer(answers.TargetList(targets=targets, total=page.total, next_cursor=page.next_cursor))


@blueprint.post("/targets", responses={201: answers.TargetCreated, **problems(400, 409, 413, 415, 422)})
def create_target(query: schemas.NoParameters, body: Check) -> Response:  # noqa: ARG001 - refuses parameters
    """Watch one more endpoint; its first check starts at once. 409 where the title and endpoint are watched already."""
    at_hand, now = services(), now_ms()
    # `restore` writes only what does not exist, in one step, where `put` would update it.
    draft = _Draft(body, State(status=Status.PENDING, since=now))
    try:
        written = at_hand.store.targets.restore([draft], now=now, is_lenient=False)
    except ContradictionError as error:
        raise contradiction(error) from None
    if not written:
        raise _taken()
    target_id = written[0].target.id
    if not body.paused:
        at_hand.queues.enqueue_check([target_id])
    created = answer(answers.TargetCreated(**fields(find(target_id)), created=True), 201)
    created.headers["Location"] = f"/api/v1/targets/{target_id}"
    return created


@blueprint.get("/targets/<id>", responses={200: answers.TargetInFull, **problems(404, 422)})
def get_target(path: schemas.TargetPath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """One target, with its uptime."""
    return answer(answers.TargetInFull(**fields(find(path.id)), uptime=_uptime(path.id)))


@blueprint.patch("/targets/<id>", responses={200: answers.TargetInFull, **problems(400, 404, 409, 413, 415, 422)})
def change_target(path: schemas.TargetPath, query: schemas.NoParameters, body: schemas.PatchTarget) -> Response:  # noqa: ARG001
    """Change what the body names, objects as a whole; null is the default again. `paused` pauses and resumes.

    409 where the fields do not go together with those that stay, or where another target has the title and endpoint.
    """
    at_hand = services()
    try:
        written = at_hand.store.targets.patch(path.id, body.apply, now=now_ms())
    except TargetTakenError:
        raise _taken() from None
    except ContradictionError as error:
        raise contradiction(error) from None
    if written is None:
        raise _unknown(path.id)
    if written.changed and not written.target.check.paused:
        at_hand.queues.enqueue_check([path.id])
    return answer(answers.TargetInFull(**fields(find(path.id)), uptime=_uptime(path.id)))


@blueprint.delete("/targets/<id>", responses={204: None, **problems(404, 422)})
def delete_target(path: schemas.TargetPath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Watch it no more, and forget what was seen of it."""
    if not services().store.targets.delete(path.id, now=now_ms()):
        raise _unknown(path.id)
    return Response(status=204)


def find(target_id: str) -> Watched:
    """The target; raises RefusalError (404)."""
    watched = services().store.targets.get(target_id)
    if watched is None:
        raise _unknown(target_id)
    return watched


def _unknown(target_id: str) -> RefusalError:
    return not_found(f"there is no target {shown(target_id)}")


def _taken() -> RefusalError:
    return RefusalError(409, "another target has this title and endpoint")


def fields(watched: Watched) -> dict[str, Any]:
    """The fields of :class:`answers.TargetSeen`."""
    check, settings = watched.target.check, services().settings
    policy = settings.policy(check)
    return {
        **without_secrets(check),
        "id": watched.target.id,
        "effective": {
            "expected_http_code": settings.expected_number(check),
            "interval": settings.interval(check),
            "timeout": settings.timeout(check),
            "retries": settings.retries(check),
            "backoff_factor": settings.backoff_factor(check),
            "error_codes": settings.error_codes(check),
            "failure_threshold": policy.failure_threshold,
            "success_threshold": policy.success_threshold,
            "second_opinion": policy.second_opinion,
        },
        "status": watched.state.status,
        "since": moment(watched.state.since),
        "failures": watched.state.failures,
        "is_flapping": watched.state.is_flapping,
        "incident": watched.state.incident,
        "created_at": moment(watched.target.created_at),
        "last_result": LastResult.of(watched.latest) if watched.latest else None,
    }


def _uptime(target_id: str) -> answers.Uptime:
    """Over whole hours and days; the present ones count as far as they have gone."""
    sums, now = services().store.recording.sums(target_id), now_ms()
    return answers.Uptime(
        last_24_hours=_share(sums["hours"], now // _HOUR_MS - 24),
        last_90_days=_share(sums["days"], now // _DAY_MS - 90),
    )


def _share(sums: list[tuple[int, int, int, int, int]], after: int) -> float | None:
    """Up of all that ended up or down, among the rows behind ``after``."""
    up = sum(row[1] for row in sums if row[0] > after)
    down = sum(row[2] for row in sums if row[0] > after)
    return up / (up + down) if up + down else None


# --- the outbox ----------------------------------------------------------------------------------------------------


@blueprint.get("/outbox", responses={200: answers.OutboxList, **problems(422)})
def list_outbox(query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """What people are owed, by mail and by notification: what waits, is being sent, or was given up."""
    boxes = _boxes()
    counts = [box.counts() for box in boxes.values()]
    entries = [
        answers.OutboxEntry(**{**entry, "alert": _alert(entry["alert"]), "channel": channel})
        for channel, box in boxes.items()
        for entry in box.entries()
    ]
    sums = {name: sum(getattr(each, name) for each in counts) for name in ("waiting", "sending", "dead")}
    return answer(answers.OutboxList(entries=entries, **sums))


def _boxes() -> dict[str, Outbox]:
    store = services().store
    return {"mail": store.outbox, "notifications": store.notifications}


def _alert(alert: dict[str, Any] | None) -> dict[str, Any] | None:
    if alert is None:
        return None
    expected = str(alert["expected"])
    times = {name: moment_or_none(alert.get(name)) for name in ("at", "began_at", "detected_at", "written_at")}
    return {**alert, **times, "expected": int(expected) if expected.isdecimal() else expected}


@blueprint.post("/outbox/<id>/retry", responses={200: answers.Revived, **problems(404, 422)})
def retry_entry(path: schemas.EntryPath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Send what was given up again, on every channel that gave it up."""
    revived = [box.revive(path.id, now=now_ms()) for box in _boxes().values()]
    if not any(revived):
        raise not_found(f"no alert {shown(path.id)} was given up")
    return answer(answers.Revived(id=path.id, place="waiting"))
