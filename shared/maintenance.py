"""Maintenance windows: planned times in which checks go on, but nobody is alarmed and no uptime counts. Pure.

Times are ISO 8601 in the model, as people write them, and milliseconds since the epoch in functions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.functional_validators import AfterValidator, model_validator

from shared.check import ContradictionError, Tag, Title
from shared.recurrence import Recurrence, recurrence
from shared.recurrence_rule import parse

LONGEST_DAYS = 366
MOST_TARGETS = 500
"""That one window may name."""
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_NO_ZONES = ("right/", "posix/", "localtime", "posixrules")
"""Files in the folder of zones that are none, or not the same everywhere."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- fields --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _read(text: str) -> datetime:
    if not _MOMENT.fullmatch(text.upper()):
        raise ValueError("must be a time with its offset, like 2026-11-22T17:00:00+01:00")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("must be a time that exists, like 2026-11-22T17:00:00+01:00") from None
    if not 1970 < moment.year < 2200:
        raise ValueError("must lie after 1970 and before 2200")
    return moment


def _check_moment(text: str) -> str:
    _read(text)
    return text


def _check_rule(text: str) -> str:
    parse(text)
    return text


def _check_zone(name: str) -> str:
    try:
        if not _ZONE.fullmatch(name) or name.startswith(_NO_ZONES):
            raise ValueError
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("must be the name of a time zone, like Europe/Berlin") from None
    return name


def _some(most: int) -> tuple[Any, AfterValidator]:
    """A list of one to ``most``; of a list with a bad item, pydantic's own bounds would tell that it is too short."""

    def check(items: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(items) <= most:
            raise ValueError(f"must hold from 1 to {most}")
        return items

    return Field(json_schema_extra={"minItems": 1, "maxItems": most}), AfterValidator(check)


Id = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{16}$")]
Targets = Annotated[tuple[Id, ...], *_some(MOST_TARGETS)]
Tags = Annotated[tuple[Tag, ...], *_some(20)]
Moment = Annotated[StrictStr, Field(json_schema_extra={"format": "date-time"}), AfterValidator(_check_moment)]
Duration = Annotated[StrictInt, Field(ge=60, le=7 * 86_400)]
RuleText = Annotated[StrictStr, Field(max_length=500), AfterValidator(_check_rule)]
Zone = Annotated[StrictStr, Field(max_length=64), AfterValidator(_check_zone)]


# --- the noun ------------------------------------------------------------------------------------------------------


class MaintenancePlan(BaseModel):
    """One window as people write it: once from `start` to `end`, or again and again by `rrule`.

    It is for the targets that are named and for those that carry one of the tags; for all where neither is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[Title, Field(min_length=1)]
    targets: Targets | None = Field(default=None, description="The ids of targets.")
    tags: Tags | None = Field(default=None, description="Every target that carries one of them, also later.")
    start: Moment = Field(description="When it begins; with rrule, when it may begin first: this wall clock recurs.")
    end: Moment | None = Field(default=None, description="When it is over, at most 366 days later; not beside rrule.")
    rrule: RuleText | None = Field(
        default=None, description="RFC 5545, without DTSTART, HOURLY at the most often: FREQ=WEEKLY;BYDAY=SU."
    )
    duration: Duration | None = Field(default=None, description="Seconds that each occurrence takes; with rrule only.")
    timezone: Zone | None = Field(
        default=None, description="Whose wall clock recurs, UTC unless given; with rrule only."
    )

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.rrule is None:
            self._hold_together_once()
            return self
        if self.end is not None:
            raise ContradictionError("end", f"must not be given beside rrule (it is {self.end})")
        if self.duration is None:
            raise ContradictionError("duration", f"must be given beside rrule (which is {self.rrule[:60]})")
        try:
            self._recurrence()
        except ValueError as error:
            raise ContradictionError("rrule", f"{error} (it is {self.rrule[:60]})") from None
        return self

    def _hold_together_once(self) -> None:
        for name in ("duration", "timezone"):
            if (value := getattr(self, name)) is not None:
                raise ContradictionError(name, f"must be given beside rrule only (it is {value})")
        if self.end is None:
            raise ContradictionError("end", "must be given where there is no rrule (it is null)")
        length = _read(self.end) - _read(self.start)
        if not timedelta(0) < length <= timedelta(days=LONGEST_DAYS):
            rule = f"must be after start, {self.start}, and at most {LONGEST_DAYS} days later"
            raise ContradictionError("end", f"{rule} (it is {self.end})")

    def _recurrence(self) -> Recurrence:
        assert self.rrule is not None
        assert self.duration is not None
        return recurrence(self.rrule, _read(self.start), self.duration * 1000, self.timezone or "UTC")

    def document(self) -> dict[str, Any]:
        """The window as JSON, as it is stored and as ``POST`` takes it; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Maintenance(MaintenancePlan):
    """A window that is kept; ``id`` is None only until the store has assigned one."""

    id: Id | None = None


class Occurrence(NamedTuple):
    """From ``starts_at`` on and before ``ends_at``, ms since the epoch."""

    starts_at: int
    ends_at: int


# --- what it says --------------------------------------------------------------------------------------------------


def active_at(window: MaintenancePlan, now_ms: int) -> bool:
    """Whether an occurrence is under way; its start belongs to it, its end does not."""
    occurrence = _present(window, now_ms)
    return occurrence is not None and occurrence.starts_at <= now_ms < occurrence.ends_at


def next_occurrence(window: MaintenancePlan, now_ms: int) -> Occurrence | None:
    """The occurrence that is under way, of several the newest, or else the next; None when there is none any more."""
    occurrence = _present(window, now_ms)
    if occurrence is not None and now_ms < occurrence.ends_at:
        return occurrence
    if window.end is not None:
        return None
    assert window.duration is not None
    starts_at = window._recurrence().next_start(now_ms)
    return None if starts_at is None else Occurrence(starts_at, starts_at + window.duration * 1000)


def _present(window: MaintenancePlan, now_ms: int) -> Occurrence | None:
    """The newest occurrence that has begun, or the one that there is; it may be over."""
    if window.end is not None:
        return Occurrence(_ms(window.start), _ms(window.end))
    assert window.duration is not None
    starts_at = window._recurrence().last_start(now_ms)
    return None if starts_at is None else Occurrence(starts_at, starts_at + window.duration * 1000)


def covers(window: MaintenancePlan, target_id: str, tags: Collection[str] | None) -> bool:
    """Whether the window is for this target, whenever it is active."""
    if window.targets is None and window.tags is None:
        return True
    return target_id in (window.targets or ()) or not set(window.tags or ()).isdisjoint(tags or ())


def is_quiet(
    windows: Iterable[Maintenance], target_id: str, tags: Collection[str] | None, now_ms: int
) -> Maintenance | None:
    """The first window that is active for this target; None: it counts as ever."""
    for window in windows:
        if covers(window, target_id, tags) and active_at(window, now_ms):
            return window
    return None


def _ms(text: str) -> int:
    return (_read(text) - _EPOCH) // timedelta(milliseconds=1)
