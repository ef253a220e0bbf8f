"""What goes out over the HTTP edge: the models of answers, and of refusals for ``/openapi.json``.

What checks have seen is in ``api.seen``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.seen import LastResult, Moment
from shared.check import ErrorCode, Method
from shared.monitor import AlertKind
from shared.state import Status

# --- answers of the original routes --------------------------------------------------------------------------------


class ErrorItem(BaseModel):
    """One thing that is wrong: the path to it in the request, and a sentence."""

    loc: list[str | int]
    msg: str


class ErrorData(BaseModel):
    """What is wrong."""

    errors: list[ErrorItem]


class Error(BaseModel):
    """A refusal on the original routes."""

    category: Literal["error", "not_found", "email_not_configured"]
    data: ErrorData
    message: str


class EightFields(BaseModel):
    """What one check saw, in the words of the original; what is not known yet is null."""

    actual_response: int | None
    elapsed: str | None
    endpoint: str
    expected_response: int
    is_down: bool
    is_up: bool
    timestamp: str | None
    title: str | None


class PostedTarget(BaseModel):
    """One target of ``POST /status``, as it is now."""

    id: str
    title: str | None
    endpoint: str
    expected_http_code: int
    created: bool


class AwaitedTarget(EightFields, PostedTarget):
    """The same with ``wait``: also what is known when the answer is given."""

    status: Status


class PostedTargets(BaseModel):
    """In the order of the request."""

    targets: list[AwaitedTarget] | list[PostedTarget]


class Posted(BaseModel):
    """The answer of ``POST /status``."""

    category: Literal["success"] = "success"
    data: PostedTargets
    message: str


class ListedTarget(EightFields):
    """One target of ``GET /status``."""

    id: str
    status: Status


class StatusData(EightFields):
    """The target that was checked last, and a page of all of them."""

    targets: list[ListedTarget]
    total: int
    next_cursor: str | None = Field(default=None, exclude_if=lambda cursor: cursor is None)


class StatusAnswer(BaseModel):
    """The answer of ``GET /status``."""

    category: Literal["success"] = "success"
    data: StatusData
    message: Literal["Success get the response"] = "Success get the response"


class QueueNumbers(BaseModel):
    """What ``POST /status/queue`` has set."""

    worker_thread: int
    queue_size: int


class QueuePosted(BaseModel):
    """The answer of ``POST /status/queue``."""

    category: Literal["success"] = "success"
    data: QueueNumbers
    message: str


class QueueSeenNow(BaseModel):
    """One queue: jobs that wait, run and have failed, and workers that are alive."""

    waiting: int
    running: int
    failed: int
    workers: int


class QueueData(BaseModel):
    """How the checks run. ``queue_status`` is true while any check waits or runs.

    ``needed_workers`` is how many check workers the load needs, at 70 % of what they can do: from the rate that the
    schedule asks for and what checks cost in the last five minutes; null while nothing was measured.
    """

    end_time: str
    queue_status: bool
    start_time: str
    worker_thread: int
    queue_size: int
    queues: dict[str, QueueSeenNow]
    workers_alive: int
    needed_workers: int | None
    scheduler_age_seconds: float | None


class QueueAnswer(BaseModel):
    """The answer of ``GET /status/queue``."""

    category: Literal["success"] = "success"
    data: QueueData
    message: Literal["Success get the response"] = "Success get the response"


class EmailAnswer(BaseModel):
    """The answer of ``/emails``."""

    category: Literal["email_sent_success"] = "email_sent_success"
    data: None = None
    message: Literal["Success to send the notifications to related recipients"] = (
        "Success to send the notifications to related recipients"
    )


# --- answers of /api/v1 --------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """A refusal under ``/api/v1``, RFC 9457."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    errors: list[ErrorItem]


class Effective(BaseModel):
    """How the target is checked now: its own fields, and the settings where it has none."""

    expected_http_code: int
    interval: int
    timeout: float
    retries: int
    backoff_factor: float
    error_codes: list[int]
    failure_threshold: int
    success_threshold: int
    second_opinion: bool


class Uptime(BaseModel):
    """The share of checks that ended up or degraded, from 0 to 1; null where none ended so or down."""

    last_24_hours: float | None
    last_90_days: float | None


class BodyShown(BaseModel):
    """What is sent: its kind alone."""

    type: Literal["text", "json", "form"]
    content: Literal["***"]


class BasicShown(BaseModel):
    """That it signs in, and how."""

    type: Literal["basic"]
    username: Literal["***"]
    password: Literal["***"]


class BearerShown(BaseModel):
    """That it sends a token."""

    type: Literal["bearer"]
    token: Literal["***"]


class CheckShown(BaseModel):
    """A check as it was given, without its secrets: `***` stands for what is not shown. Null follows the settings."""

    title: str | None
    endpoint: str
    expected_http_code: int | None
    expected_http_codes: list[int | str] | None
    interval: int | None
    timeout: float | None
    retries: int | None
    backoff_factor: float | None
    error_codes: list[ErrorCode] | None
    method: Method | None
    headers: dict[str, str] | None
    user_agent: str | None
    body: BodyShown | None
    auth: BasicShown | BearerShown | None
    follow_redirects: bool | None
    max_redirects: int | None
    verify_tls: bool | None
    ca_certificate: str | None
    client_certificate: Literal["***"] | None
    ip_version: Literal[4, 6] | None
    http_version: Literal["1.0", "1.1", "2"] | None
    proxy: str | None
    degraded_ms: int | None
    failure_threshold: int | None
    success_threshold: int | None
    second_opinion: bool | None
    tags: list[str] | None
    recipients: list[str] | None
    parent: str | None
    assertions: list[dict[str, Any]] | None
    paused: bool


class TargetSeen(CheckShown):
    """One target: its check, and what is believed of it."""

    id: str
    effective: Effective
    status: Status
    since: Moment
    failures: int = Field(description="Checks in a row that failed, believed yet or not.")
    is_flapping: bool
    incident: str | None = Field(description="The id of the incident that is open.")
    created_at: Moment
    last_result: LastResult | None


class TargetCreated(TargetSeen):
    """The answer of ``POST /api/v1/targets``."""

    created: Literal[True]


class TargetInFull(TargetSeen):
    """One target with its sums."""

    uptime: Uptime


class TargetList(BaseModel):
    """One page of targets, in the order of their creation."""

    targets: list[TargetSeen]
    total: int
    next_cursor: str | None


class AlertOwed(BaseModel):
    """What people are to be told about one change of state."""

    model_config = ConfigDict(extra="ignore")

    id: str
    kind: AlertKind
    target_id: str = Field(description="Empty for what is told of the monitor itself.")
    title: str | None = None
    endpoint: str
    at: Moment
    began_at: Moment
    detected_at: Moment | None = None
    written_at: Moment | None = None
    to: list[str] = Field(default_factory=list, description="Who is told beside the recipients of the settings.")
    expected: int | str = Field(description='The code, or codes and ranges: "200-299, 404".')
    got: int | None = None
    reason: str | None = None
    sentence: str | None = None
    incident: str | None = None


class OutboxEntry(BaseModel):
    """One alert that is owed; ``alert`` is null for a report that was asked for by hand."""

    id: str
    channel: Literal["mail", "notifications"]
    place: Literal["waiting", "sending", "dead"]
    tries: int
    error: str | None
    alert: AlertOwed | None


class OutboxList(BaseModel):
    """What is owed: at most a thousand entries of each place, and how many there are in all."""

    entries: list[OutboxEntry]
    waiting: int
    sending: int
    dead: int


class Revived(BaseModel):
    """A dead letter that waits again."""

    id: str
    place: Literal["waiting"]
