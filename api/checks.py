"""What checks have seen, and checks by hand, under ``/api/v1``."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api import answers, schemas, waiting
from api.documents import answer, problems
from api.errors import RefusalError, contradiction
from api.paging import cursor, position
from api.seen import Failure, FailureList, LastGood, LastResult, PastResult, ResultInFull, ResultList
from api.services import now_ms, services
from api.targets import fields, find
from shared.check import Check, ContradictionError

blueprint = APIBlueprint(
    "checks", __name__, url_prefix="/api/v1", abp_tags=[Tag(name="v1", description="The REST API proper.")]
)

MOST_A_MINUTE = 30
"""Checks by hand that start within a minute at the most, and as many trials, of all callers together."""


# --- what was seen -------------------------------------------------------------------------------------------------


@blueprint.get("/targets/<id>/results", responses={200: ResultList, **problems(404, 422)})
def list_results(path: schemas.TargetPath, query: schemas.ResultsQuery) -> Response:
    """What the checks of the last day or so have seen, the newest first."""
    find(path.id)
    before = position(query.cursor)
    rows = services().store.recording.history(
        path.id, since=query.since, before=None if before is None else max(before, 1), limit=query.limit + 1
    )
    following = cursor(rows[query.limit - 1]["started_at"]) if len(rows) > query.limit else None
    return answer(ResultList(results=[PastResult.of(row) for row in rows[: query.limit]], next_cursor=following))


@blueprint.get("/targets/<id>/failures", responses={200: FailureList, **problems(404, 422)})
def list_failures(path: schemas.TargetPath, query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """The newest 50 checks that did not end well, with their evidence, and what the target was like when it worked."""
    find(path.id)
    recording = services().store.recording
    good = recording.last_good(path.id)
    return answer(
        FailureList(
            failures=[Failure.of(document) for document in recording.failures(path.id)],
            last_good=LastGood.of(good) if good else None,
        )
    )


# --- checks by hand ------------------------------------------------------------------------------------------------


@blueprint.post(
    "/targets/<id>/check",
    responses={200: LastResult, 202: answers.TargetSeen, **problems(404, 409, 422, 429)},
)
def check_now(path: schemas.TargetPath, query: schemas.CheckNowQuery) -> Response:
    """Check a target now, before all others.

    202 and the target at once; with `?wait=SECONDS`, 30 at the most, 200 and the new result when it is in, or 202 when
    the time is over. 409 while the target is paused.
    """
    if not query.wait:
        start(path.id)
    else:
        with waiting.places():
            asked_at = start(path.id)
            if waiting.until_checked([path.id], asked_at, query.wait):
                latest = find(path.id).latest
                # Somebody may have deleted the target and created it again from a snapshot in between.
                if latest is not None:
                    return answer(LastResult.of(latest))
    return answer(answers.TargetSeen(**fields(find(path.id))), 202)


def start(target_id: str) -> int:
    """Have the target checked; returns when that was asked (ms)."""
    if find(target_id).target.check.paused:
        raise RefusalError(409, "the target is paused")
    _count("check-now")
    asked_at = now_ms()
    services().queues.enqueue_check([target_id])
    return asked_at


@blueprint.post("/check", responses={200: ResultInFull, **problems(400, 409, 413, 415, 422, 429, 504)})
def try_check(query: schemas.TrialQuery, body: Check) -> Response:
    """Check what may become a target, once and now, without storing it, and answer with all that was seen.

    409 where it names a parent that is not there, 503 when no worker took it within `?wait=SECONDS` (30; 60 at the
    most), 504 when it was not over by then.
    """
    at_hand = services()
    try:
        at_hand.store.targets.refuse_unknown_parent(body)
    except ContradictionError as error:
        raise contradiction(error) from None
    with waiting.places():
        _count("trial")
        trial_id = at_hand.store.trials.put(body)
        try:
            at_hand.queues.enqueue_trial(trial_id)
            result = waiting.until(lambda: at_hand.store.trials.result(trial_id), query.wait)
            if result is None:
                raise _too_late(is_begun=not at_hand.queues.withdraw_trial(trial_id))
        finally:
            at_hand.store.trials.forget(trial_id)
    return answer(ResultInFull.of(result))


def _too_late(*, is_begun: bool) -> RefusalError:
    if is_begun:
        return RefusalError(504, "the check was not over in time; wait longer, or give it a shorter timeout")
    return RefusalError(
        503, "no worker was free to make the check in time; try again in a moment", headers={"Retry-After": "5"}
    )


def _count(name: str) -> None:
    """Raises RefusalError (429) where this is one too many of its kind; a refused one counts too."""
    wait_seconds = services().store.vitals.wait_seconds(name, limit=MOST_A_MINUTE, seconds=60)
    if wait_seconds:
        raise RefusalError(
            429, f"at most {MOST_A_MINUTE} of these a minute", headers={"Retry-After": str(wait_seconds)}
        )
