"""The original contract: ``/status``, ``/status/queue`` and ``/emails``, as their page has them, and supersets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api import answers, schemas, waiting
from api.documents import answer, refusals
from api.errors import RefusalError, contradiction, not_found
from api.paging import find_page
from api.services import now_ms, services
from shared.check import Check, ContradictionError
from shared.endpoint import redact
from shared.queues import CHECKS
from shared.state import Status
from shared.store import Watched, Written

blueprint = APIBlueprint("status", __name__, abp_tags=[Tag(name="original", description="The routes of old.")])


# --- /status -------------------------------------------------------------------------------------------------------


@blueprint.post("/status", responses={201: answers.Posted, **refusals(400, 409, 413, 415, 422, 429)})
def post_status(query: schemas.WaitQuery, body: schemas.PostStatus) -> Response:
    """Watch these endpoints; the first check of each starts at once.

    The pair (title, endpoint) identifies a target: posting it again updates it, and is 409 where the new fields do not
    go together with those that stay. With `?wait=SECONDS`, 30 at the most,
    the answer is given when the first results are in, or when the time is over, and holds what is known then.
    """
    if not query.wait:
        return _answer_posted([_posted(each) for each in _put(body.targets)])
    with waiting.places():
        asked_at = now_ms()
        written = _put(body.targets)
        waiting.until_checked(
            [each.target.id for each in written if not each.target.check.paused], asked_at, query.wait
        )
        seen = _load(each.target.id for each in written)
        return _answer_posted([_awaited(each, seen[each.target.id]) for each in written if each.target.id in seen])


def _put(checks: Sequence[Check]) -> list[Written]:
    """Write all of the targets or none, then have them checked."""
    at_hand = services()
    default = at_hand.settings.default_http_status_code
    filled = [
        check if check.expected_http_code is not None else check.model_copy(update={"expected_http_code": default})
        for check in checks
    ]
    try:
        written = at_hand.store.targets.put(filled, now=now_ms())
    except ContradictionError as error:
        raise contradiction(error, "targets", error.index) from None
    # Where Redis goes away between the two, the targets stand and the client hears 503. Posting again is harmless,
    # and without it the schedule checks them at their next turn.
    at_hand.queues.enqueue_check(
        list(dict.fromkeys(each.target.id for each in written if not each.target.check.paused))
    )
    return written


def _load(target_ids: Iterable[str]) -> dict[str, Watched]:
    return {watched.target.id: watched for watched in services().store.targets.load(target_ids)}


def _posted(written: Written) -> answers.PostedTarget:
    return answers.PostedTarget(**_posted_fields(written))


def _awaited(written: Written, seen: Watched) -> answers.AwaitedTarget:
    return answers.AwaitedTarget(**(_posted_fields(written) | _eight_fields(seen)), status=seen.state.status)


def _posted_fields(written: Written) -> dict[str, Any]:
    check = written.target.check
    return {
        "id": written.target.id,
        "title": check.title,
        "endpoint": redact(check.endpoint),
        "expected_http_code": services().settings.expected_code(check),
        "created": written.created,
    }


def _answer_posted(targets: list[answers.AwaitedTarget] | list[answers.PostedTarget]) -> Response:
    created = sum(each.created for each in targets)
    answered = answer(
        answers.Posted(
            data=answers.PostedTargets(targets=targets),
            message=f"{created} created, {len(targets) - created} existed already",
        ),
        201,
    )
    if len(targets) == 1:
        answered.headers["Location"] = f"/api/v1/targets/{targets[0].id}"
    return answered


@blueprint.get("/status", responses={200: answers.StatusAnswer, **refusals(404, 422)})
def get_status(query: schemas.TargetsQuery) -> Response:
    """The status of the targets: at the top the one that was checked last, below a page of all.

    With a filter, the one at the top is the one of this page that was checked last.
    """
    page = find_page(
        services().store.targets,
        endpoint=query.endpoint,
        title=query.title,
        status=query.status,
        after=query.cursor,
        limit=query.limit,
    )
    is_chosen = bool(query.model_fields_set & {"endpoint", "title", "status"})
    top = None if is_chosen else _newest()
    top = top or max(page.targets, key=lambda each: (each.state.checked_at, each.order), default=None)
    if top is None:
        raise not_found("no target is like that" if is_chosen else "no target is watched yet")
    listed = [
        answers.ListedTarget(**_eight_fields(each), id=each.target.id, status=each.state.status)
        for each in page.targets
    ]
    return answer(
        answers.StatusAnswer(
            data=answers.StatusData(
                **_eight_fields(top), targets=listed, total=page.total, next_cursor=page.next_cursor
            )
        )
    )


def _newest() -> Watched | None:
    """The target that was checked last; before any check, the one that was created last."""
    targets = services().store.targets
    newest = targets.newest()
    target_id = newest[0] if newest else targets.created_last()
    return targets.get(target_id) if target_id else None


def _eight_fields(watched: Watched) -> dict[str, Any]:
    """The fields of :class:`answers.EightFields`; ``timestamp`` is when the newest check ended."""
    latest, check = watched.latest, watched.target.check
    return {
        "actual_response": latest.get("status_code") if latest else None,
        "elapsed": f"{latest['elapsed_ms'] / 1000:.2f} seconds" if latest else None,
        "endpoint": redact(check.endpoint),
        "expected_response": services().settings.expected_number(check),
        "is_down": watched.state.status is Status.DOWN,
        "is_up": watched.state.status in (Status.UP, Status.DEGRADED),
        "timestamp": _timestamp(latest["finished_at"]) if latest else None,
        "title": check.title,
    }


def _timestamp(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- /status/queue -------------------------------------------------------------------------------------------------


@blueprint.post("/status/queue", responses={200: answers.QueuePosted, **refusals(400, 413, 415, 422)})
def post_queue(query: schemas.NoParameters, body: schemas.PostQueue) -> Response:  # noqa: ARG001 - refuses parameters
    """Set the number of workers and the size of the queue; the pool and the scheduler follow within a second."""
    if not body.model_fields_set:
        raise RefusalError(422, "the body must name worker_thread or queue_size, or both")
    vitals = services().store.vitals
    present = vitals.queue_settings()
    now = vitals.set_queue_settings(
        body.worker_thread if "worker_thread" in body.model_fields_set else present.worker_thread,
        body.queue_size if "queue_size" in body.model_fields_set else present.queue_size,
    )
    return answer(
        answers.QueuePosted(
            data=answers.QueueNumbers(worker_thread=now.worker_thread, queue_size=now.queue_size),
            message=f"The pool keeps {now.worker_thread} workers, and {now.queue_size} batches may wait for each",
        )
    )


@blueprint.get("/status/queue", responses={200: answers.QueueAnswer, **refusals(422)})
def get_queue(query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """How the checks run. The times are those of the latest batch, in seconds since the epoch."""
    at_hand = services()
    health, chosen = at_hand.health(), at_hand.store.queue_settings()
    checks = health.queues[CHECKS]
    return answer(
        answers.QueueAnswer(
            data=answers.QueueData(
                end_time=_seconds(health.batch_ended_at),
                queue_status=bool(checks.waiting or checks.running),
                start_time=_seconds(health.batch_started_at),
                worker_thread=chosen.worker_thread,
                queue_size=chosen.queue_size,
                queues={
                    name: answers.QueueSeenNow(
                        waiting=seen.waiting, running=seen.running, failed=seen.failed, workers=len(seen.workers)
                    )
                    for name, seen in health.queues.items()
                },
                workers_alive=len(health.queues[CHECKS].workers),
                needed_workers=at_hand.needed_workers(),
                scheduler_age_seconds=health.scheduler_age_ms / 1000 if health.scheduler_age_ms is not None else None,
            )
        )
    )


def _seconds(ms: int | None) -> str:
    return f"{(ms or 0) / 1000:.2f} seconds"


# --- /emails -------------------------------------------------------------------------------------------------------


@blueprint.get("/emails", responses={200: answers.EmailAnswer, **refusals(409, 422)})
def get_emails(query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Mail the present state of every target that is down, by hand. POST is the right verb for it."""
    return _request_report()


@blueprint.post("/emails", responses={200: answers.EmailAnswer, **refusals(409, 422)})
def post_emails(query: schemas.NoParameters) -> Response:  # noqa: ARG001 - refuses parameters
    """Mail the present state of every target that is down, by hand."""
    return _request_report()


def _request_report() -> Response:
    """The report waits in the outbox from here on; the scheduler has it sent within a second."""
    at_hand = services()
    if not at_hand.settings.mail_recipients:
        raise RefusalError(409, "no recipient is configured; set MAIL_RECIPIENTS", category="email_not_configured")
    at_hand.store.outbox.request_report(now=now_ms())
    return answer(answers.EmailAnswer())
