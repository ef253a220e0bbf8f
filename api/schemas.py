"""What comes in over the HTTP edge: the models of queries and bodies, which refuse and are ``/openapi.json`` alike.

What a target may be is ``shared.check.Check`` at both doors.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from api.errors import MOST_TARGETS
from shared.check import Check, Endpoint
from shared.endpoint import is_plain_text
from shared.state import Status

LARGEST_PAGE = 1000
LONGEST_WAIT_SECONDS = 30
LONGEST_TRIAL_SECONDS = 60
MOST_WORKERS = 64
LONGEST_QUEUE = 1000
LONGEST_NAME = 100
LONGEST_NOTE = 1000

# --- parameters ----------------------------------------------------------------------------------------------------

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _number(text: Any) -> Any:
    """Only what JSON calls a number: pydantic alone would take ``" 5"``, ``1_000`` and ``+5``."""
    if isinstance(text, str) and not _JSON_NUMBER.fullmatch(text):
        raise ValueError("must be a number")
    return text


def _moment(text: Any) -> Any:
    """An RFC 3339 time as milliseconds since the epoch."""
    try:
        when = datetime.fromisoformat(text.upper()) if re.match(r"\d{4}-\d\d-\d\d[Tt]", text) else None
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ValueError("must be a time with its offset, like 2023-01-24T12:32:41Z")
    return max(0, int((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000))


def _without_nulls(schema: dict[str, Any]) -> None:
    """A parameter may be left out, but there is no way to send null for it."""
    for field in schema.get("properties", {}).values():
        branches = [branch for branch in field.pop("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1:
            field.update(branches[0])
        if field.get("default", 0) is None:
            del field["default"]


class Parameters(BaseModel):
    """The query of a request; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_nulls)


class NoParameters(Parameters):
    """A query that must be empty."""


Cursor = Annotated[
    str,
    Field(pattern=r"^c[0-9a-z]{1,11}$", description="Where the next page begins: `next_cursor` of the page before."),
]
Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS, allow_inf_nan=False), BeforeValidator(_number)]
Limit = Annotated[int, Field(ge=1, le=LARGEST_PAGE), BeforeValidator(_number)]


class WaitQuery(Parameters):
    """How long ``POST /status`` may take."""

    wait: Wait = Field(default=0, description="Seconds to wait for the first results; the answer then holds them.")


class CheckNowQuery(Parameters):
    """How long a check by hand may take."""

    wait: Wait = Field(default=0, description="Seconds to wait for the result; 0 answers at once.")


class TrialQuery(Parameters):
    """How long a trial may take."""

    wait: Annotated[float, Field(ge=1, le=LONGEST_TRIAL_SECONDS, allow_inf_nan=False), BeforeValidator(_number)] = (
        Field(default=30, description="Seconds to wait for the result.")
    )


class TargetsQuery(Parameters):
    """Which targets, and how many of them at once."""

    endpoint: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Exactly the endpoint that was posted, password and all."
    )
    title: str | None = Field(default=None, description="Exactly this title.")
    status: Status | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class PageQuery(Parameters):
    """Which targets the page shows."""

    status: Status | None = None
    cursor: Cursor | None = None


class ResultsQuery(Parameters):
    """Which results of one target."""

    since: Annotated[int, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})] = Field(
        default_factory=int, description="Only results of checks that began then or later."
    )
    limit: Limit = 100
    cursor: Cursor | None = None


def _truth(text: Any) -> Any:
    """Only the two words of JSON: pydantic alone would take ``yes``, ``1`` and ``on``."""
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


Truth = Annotated[bool, BeforeValidator(_truth)]
Moment = Annotated[int, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
TargetId = Annotated[str, Field(min_length=1, max_length=100)]
IncidentCursor = Annotated[
    str,
    Field(
        pattern=r"^c[0-9a-z]{1,11}\.[0-9A-Za-z_-]{1,100}$",
        description="Where the next page begins: `next_cursor` of the page before.",
    ),
]


class IncidentsQuery(Parameters):
    """Which incidents, and how many of them at once."""

    open: Truth | None = Field(default=None, description="Whether they last still.")
    target: TargetId | None = Field(default=None, description="The id of a target, which may be deleted since.")
    since: Moment | None = Field(default=None, description="Only incidents that began then or later.")
    until: Moment | None = Field(default=None, description="Only incidents that began before then.")
    limit: Limit = 100
    cursor: IncidentCursor | None = None


class IncidentsPageQuery(Parameters):
    """Which incidents the page shows."""

    open: Truth | None = None
    target: TargetId | None = None
    cursor: IncidentCursor | None = None


class IncidentPath(BaseModel):
    """The id of an incident."""

    id: str


class TargetPath(BaseModel):
    """The id of a target."""

    id: str


class EntryPath(BaseModel):
    """The id of an entry of the outbox."""

    id: str


# --- bodies --------------------------------------------------------------------------------------------------------


def _check_words(text: str) -> str:
    if not is_plain_text(text):
        raise ValueError("must not hold control, separator or bidirectional characters")
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Name = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_check_words)]
Note = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_NOTE), AfterValidator(_check_words)]


class PostAcknowledgement(BaseModel):
    """The body of ``POST /api/v1/incidents/{id}/acknowledge``: who has seen it, and what they say to it."""

    model_config = ConfigDict(extra="forbid")

    by: Name
    note: Note | None = None


class PostStatus(BaseModel):
    """The body of ``POST /status``: all of the targets are written, or none."""

    model_config = ConfigDict(extra="forbid")

    targets: Annotated[list[Check], Field(min_length=1, max_length=MOST_TARGETS)]


class PostQueue(BaseModel):
    """The body of ``POST /status/queue``. 0 means the default; what is left out stays as it is, but not both."""

    model_config = ConfigDict(extra="forbid")

    worker_thread: Annotated[StrictInt, Field(ge=0, le=MOST_WORKERS)] = Field(
        default_factory=int, description="Worker processes that the pool keeps; 0 is 5."
    )
    queue_size: Annotated[StrictInt, Field(ge=0, le=LONGEST_QUEUE)] = Field(
        default_factory=int, description="Check batches that may wait for each of them; 0 is 3."
    )


class PatchTarget(Check):
    """The body of ``PATCH /api/v1/targets/{id}``: what is named changes, objects as a whole; null is the default."""

    endpoint: Endpoint = Field(default_factory=str)
    paused: StrictBool | None = None  # type: ignore[assignment] # wider than in a check: null is false here

    def apply(self, check: Check) -> Check:
        """The check with the fields that this body names; raises ContradictionError."""
        named = {name: getattr(self, name) for name in self.model_fields_set}
        if named.get("paused", True) is None:
            named["paused"] = False
        return check.changed(named)
