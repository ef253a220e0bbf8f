"""Maintenance windows: when they are active and for whom, across clock changes, month ends and leap years."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.maintenance import Maintenance, MaintenancePlan, active_at, covers, is_quiet, next_occurrence

ID = "3f0c2a9d1b7e4f65"
DAY = 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def iso(at: int, zone: str = "UTC") -> str:
    return datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")


def once(start: str = "2026-03-01T10:00:00Z", end: str = "2026-03-01T12:00:00Z", **fields: Any) -> Maintenance:
    return Maintenance(**{"title": "Once", "start": start, "end": end, **fields})


def again(rrule: str, start: str, minutes: int = 60, timezone: str = "UTC", **fields: Any) -> Maintenance:
    return Maintenance(
        **{"title": "Again", "rrule": rrule, "start": start, "duration": minutes * 60, "timezone": timezone, **fields}
    )


def starts(window: Maintenance, after: str, count: int) -> list[str]:
    """When the next occurrences behind ``after`` begin, by the window's own clock; fewer where there are fewer."""
    found: list[str] = []
    now = ms(after)
    assert window.duration is not None
    while len(found) < count:
        occurrence = next_occurrence(window, now)
        if occurrence is None:
            break
        assert occurrence.ends_at - occurrence.starts_at == window.duration * 1000
        assert active_at(window, occurrence.starts_at)
        found.append(iso(occurrence.starts_at, window.timezone or "UTC"))
        now = occurrence.ends_at
    return found


# --- once ---


def test_a_window_that_is_once_begins_at_its_start_and_is_over_at_its_end() -> None:
    window = once()
    start, end = ms("2026-03-01T10:00:00+00:00"), ms("2026-03-01T12:00:00+00:00")
    assert [active_at(window, at) for at in (start - 1, start, end - 1, end)] == [False, True, True, False]
    assert next_occurrence(window, 0) == next_occurrence(window, end - 1) == (start, end)
    assert next_occurrence(window, end) is None


def test_offsets_count() -> None:
    window = once("2026-03-01T10:00:00+01:00", "2026-03-01T10:00:00-01:00")
    assert next_occurrence(window, 0) == (ms("2026-03-01T09:00:00+00:00"), ms("2026-03-01T11:00:00+00:00"))


# --- again ---

BERLIN = "Europe/Berlin"
CALENDAR = {
    "every day": ("FREQ=DAILY", "2026-02-27T22:00:00Z", ["02-27T22:00", "02-28T22:00", "03-01T22:00"]),
    "every other day": ("FREQ=DAILY;INTERVAL=2", "2026-02-27T22:00:00Z", ["02-27T22:00", "03-01T22:00"]),
    "on the 31st, which some months have": (
        "FREQ=MONTHLY",
        "2026-01-31T22:00:00Z",
        ["01-31T22:00", "03-31T22:00", "05-31T22:00"],
    ),
    "on the last day of months": (
        "FREQ=MONTHLY;BYMONTHDAY=-1",
        "2026-01-31T22:00:00Z",
        ["01-31T22:00", "02-28T22:00", "03-31T22:00"],
    ),
    "on the last Sunday": ("FREQ=MONTHLY;BYDAY=-1SU", "2026-01-01T22:00:00Z", ["01-25T22:00", "02-22T22:00"]),
    "on the last weekday": (
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
        "2026-01-01T22:00:00Z",
        ["01-30T22:00", "02-27T22:00"],
    ),
    "at three hours of Mondays": (
        "FREQ=WEEKLY;BYDAY=MO;BYHOUR=1,9,17",
        "2026-01-05T01:30:00Z",
        ["01-05T01:30", "01-05T09:30", "01-05T17:30", "01-12T01:30"],
    ),
    "in the middle of a week": (
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR",
        "2026-01-07T22:00:00Z",
        ["01-09T22:00", "01-19T22:00", "01-23T22:00", "02-02T22:00"],
    ),
    "three times": ("FREQ=DAILY;COUNT=3", "2026-01-01T22:00:00Z", ["01-01T22:00", "01-02T22:00", "01-03T22:00"]),
    "until a moment that belongs to it": (
        "FREQ=DAILY;UNTIL=20260102T220000Z",
        "2026-01-01T22:00:00Z",
        ["01-01T22:00", "01-02T22:00"],
    ),
    "until just before": ("FREQ=DAILY;UNTIL=20260102T215959Z", "2026-01-01T22:00:00Z", ["01-01T22:00"]),
    "until a whole day": ("FREQ=DAILY;UNTIL=20260102", "2026-01-01T22:00:00Z", ["01-01T22:00", "01-02T22:00"]),
    "in small letters": ("freq=daily;count=1", "2026-01-01T22:00:00Z", ["01-01T22:00"]),
    "in a week of the year, on the day of the start": (
        "FREQ=YEARLY;BYWEEKNO=20;COUNT=1",
        "2026-01-01T22:00:00Z",
        ["05-14T22:00"],
    ),
}


@pytest.mark.parametrize(("rrule", "start", "expected"), CALENDAR.values(), ids=CALENDAR)
def test_a_rule_occurs_when_the_calendar_says(rrule: str, start: str, expected: list[str]) -> None:
    ends = "COUNT" in rrule.upper() or "UNTIL" in rrule
    found = starts(again(rrule, start), "2026-01-01T00:00:00+00:00", len(expected) + ends)
    assert found == [f"2026-{each}+00:00" for each in expected]


def test_a_leap_day_recurs_in_leap_years_only_and_not_in_2100() -> None:
    window = again("FREQ=YEARLY", "2024-02-29T12:00:00Z")
    assert starts(window, "2025-01-01T00:00:00+00:00", 2) == ["2028-02-29T12:00+00:00", "2032-02-29T12:00+00:00"]
    assert starts(window, "2097-01-01T00:00:00+00:00", 1) == ["2104-02-29T12:00+00:00"]


def test_the_wall_clock_recurs_and_not_the_offset() -> None:
    window = again("FREQ=WEEKLY;BYDAY=SU", "2026-03-15T04:30:00+01:00", timezone=BERLIN)
    assert starts(window, "2026-03-20T00:00:00+00:00", 2) == ["2026-03-22T04:30+01:00", "2026-03-29T04:30+02:00"]
    assert starts(window, "2026-10-20T00:00:00+00:00", 2) == ["2026-10-25T04:30+01:00", "2026-11-01T04:30+01:00"]


def test_the_wall_clock_is_that_of_the_zone_and_not_that_of_the_offset() -> None:
    window = again("FREQ=DAILY", "2026-01-01T23:30:00Z", timezone=BERLIN)
    assert starts(window, "2026-07-01T00:00:00+00:00", 1) == ["2026-07-02T00:30+02:00"]


def test_a_time_that_the_clock_skips_is_read_with_the_offset_before_and_lasts_as_long_as_ever() -> None:
    window = again("FREQ=WEEKLY;BYDAY=SU", "2026-03-01T02:30:00+01:00", 120, BERLIN)
    assert starts(window, "2026-03-23T00:00:00+00:00", 2) == ["2026-03-29T03:30+02:00", "2026-04-05T02:30+02:00"]
    skipped = [f"2026-03-29T{at}:00+00:00" for at in ("01:29", "01:30", "03:29", "03:30")]
    assert [active_at(window, ms(at)) for at in skipped] == [False, True, True, False]


def test_of_a_time_that_comes_twice_the_first_is_meant() -> None:
    window = again("FREQ=WEEKLY;BYDAY=SU", "2026-03-01T02:30:00+01:00", 60, BERLIN)
    assert starts(window, "2026-10-24T00:00:00+00:00", 2) == ["2026-10-25T02:30+02:00", "2026-11-01T02:30+01:00"]


def test_a_start_at_the_second_of_a_time_that_comes_twice_is_that_one() -> None:
    window = again("FREQ=WEEKLY", "2026-10-25T02:30:00+01:00", 30, BERLIN)
    assert starts(window, "2026-10-24T00:00:00+00:00", 2) == ["2026-10-25T02:30+01:00", "2026-11-01T02:30+01:00"]


def test_an_hourly_window_leaves_no_hour_out_when_the_clock_changes() -> None:
    window = again("FREQ=HOURLY", "2026-01-01T00:15:00+01:00", 10, BERLIN)
    for night in ("2026-03-28T20:00:00+00:00", "2026-10-24T20:00:00+00:00"):
        moments = [ms(night) + hour * 3_600_000 for hour in range(12)]
        assert all(active_at(window, at + 15 * 60_000) for at in moments)
        assert not any(active_at(window, at + 25 * 60_000) for at in moments)


def test_an_hourly_window_in_an_hour_that_the_clock_skips_is_there_once() -> None:
    window = again("FREQ=HOURLY;BYHOUR=2", "2026-03-01T02:30:00+01:00", 10, BERLIN)
    assert starts(window, "2026-03-28T12:00:00+00:00", 2) == ["2026-03-29T03:30+02:00", "2026-03-30T02:30+02:00"]


def test_what_the_clock_skips_may_come_after_what_it_shows() -> None:
    rule = "FREQ=YEARLY;BYMONTH=3;BYMONTHDAY=29;BYHOUR=2,3;BYMINUTE=0,30;BYSETPOS=2,3"
    window = again(rule, "2020-03-29T03:00:00+02:00", 10, BERLIN)
    assert starts(window, "2026-03-01T00:00:00+00:00", 2) == ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]


@pytest.mark.parametrize("timezone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_until_in_utc_is_that_moment_in_every_zone(timezone: str) -> None:
    window = again("FREQ=DAILY;UNTIL=20260103T220000Z", "2026-01-01T22:00:00Z", timezone=timezone)
    assert len(starts(window, "2026-01-01T00:00:00+00:00", 5)) == 3
    window = again("FREQ=DAILY;UNTIL=20260103T215959Z", "2026-01-01T22:00:00Z", timezone=timezone)
    assert len(starts(window, "2026-01-01T00:00:00+00:00", 5)) == 2


def test_a_day_that_a_zone_skipped_is_the_day_after() -> None:
    window = again("FREQ=DAILY", "2011-12-28T12:00:00-10:00", 60, "Pacific/Apia")
    assert starts(window, "2011-12-28T00:00:00+00:00", 4) == [
        "2011-12-28T12:00-10:00",
        "2011-12-29T12:00-10:00",
        "2011-12-31T12:00+14:00",
        "2012-01-01T12:00+14:00",
    ]


def test_occurrences_may_overlap_and_the_newest_is_the_present_one() -> None:
    window = again("FREQ=DAILY", "2026-01-01T00:00:00Z", 36 * 60)
    now = ms("2026-01-05T06:00:00+00:00")
    assert all(active_at(window, now + hour * 3_600_000) for hour in range(72))
    assert next_occurrence(window, now) == (ms("2026-01-05T00:00:00+00:00"), ms("2026-01-06T12:00:00+00:00"))


def test_the_last_occurrence_goes_on_behind_until() -> None:
    window = again("FREQ=DAILY;UNTIL=20260103T000000Z", "2026-01-01T00:00:00Z", 60 * 48)
    assert active_at(window, ms("2026-01-04T23:59:00+00:00"))
    assert not active_at(window, ms("2026-01-05T00:00:00+00:00"))
    assert next_occurrence(window, ms("2026-01-05T00:00:00+00:00")) is None


@pytest.mark.parametrize("timezone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_time_may_go_back_between_two_questions(timezone: str) -> None:
    window = again("FREQ=DAILY", "2020-01-01T00:00:00Z", timezone=timezone)
    noon = ms("2026-01-01T12:00:00+00:00")
    asked = [noon, noon + 400 * DAY, noon - 400 * DAY, noon - 12 * 3_600_000, noon - 4000 * DAY, noon + 12 * 3_600_000]
    assert [active_at(window, at) for at in asked] == [False, False, False, True, False, True]
    hours = [active_at(window, noon - hour * 3_600_000) for hour in (-12, 0, 11, 12, 23, 36)]
    assert hours == [True, False, False, True, False, True]


def test_a_long_occurrence_is_known_on_its_last_day_by_whoever_asks_then_first() -> None:
    for day in range(8):
        window = again("FREQ=MONTHLY", f"2026-01-05T00:0{day}:00Z", 7 * 24 * 60)
        assert active_at(window, ms(f"2026-06-{5 + day:02}T12:00:00+00:00")) is (day < 7)


# --- held against other readers of the same rule ---

RULES = st.sampled_from(
    [
        "FREQ=HOURLY",
        "FREQ=HOURLY;INTERVAL=5",
        "FREQ=HOURLY;BYHOUR=1,2,3,23;BYMINUTE=0,30",
        "FREQ=HOURLY;INTERVAL=7;BYDAY=SA,SU",
        "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30",
        "FREQ=DAILY;INTERVAL=3",
        "FREQ=WEEKLY;BYDAY=SU,MO",
        "FREQ=WEEKLY;INTERVAL=3;BYDAY=SU,MO,WE;WKST=SU",
        "FREQ=MONTHLY;BYDAY=-1SU",
        "FREQ=MONTHLY;INTERVAL=5;BYMONTHDAY=1,28,-1",
        "FREQ=MONTHLY;BYDAY=SA,SU;BYSETPOS=-1,1",
        "FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU",
        "FREQ=YEARLY;INTERVAL=2",
        "FREQ=YEARLY;BYYEARDAY=1,88,-68",
        "FREQ=DAILY;COUNT=900",
        "FREQ=WEEKLY;BYDAY=SU;UNTIL=20270328T003000Z",
    ]
)
MOMENTS = st.datetimes(datetime.fromisoformat("2020-01-01"), datetime.fromisoformat("2026-12-31"))
CHANGES_OF_CLOCKS = st.sampled_from(["2027-03-28", "2027-10-31", "2027-04-04"]).map(datetime.fromisoformat)
ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])


def reference(window: Maintenance, first_day: datetime, days: int) -> set[int]:
    """The minutes (since the epoch) in which a window is active, by dateutil from the very first occurrence on.

    It is told by Python's own reading of wall clocks, which follows RFC 5545 where they skip and repeat.
    """
    assert window.rrule is not None
    assert window.duration is not None
    zone, start = ZoneInfo(window.timezone or "UTC"), datetime.fromisoformat(window.start)
    rule, _, until = window.rrule.partition(";UNTIL=")
    wall = start.astimezone(zone).replace(tzinfo=None, fold=0)
    active: set[int] = set()
    for each in rrulestr(rule, dtstart=wall):
        if each > first_day + timedelta(days=days + 2):
            break
        if each < first_day - timedelta(days=10):
            continue
        moments = {each.replace(tzinfo=zone)}
        later = each.replace(tzinfo=zone, fold=1)
        if "HOURLY" in rule and later.timestamp() > each.replace(tzinfo=zone).timestamp():
            moments.add(later)
        for moment in moments:
            if not until or moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ") <= until:
                begins = int(moment.timestamp()) // 60
                active.update(range(begins, begins + window.duration // 60))
    return active


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(rrule=RULES, wall=MOMENTS, zone=ZONES, minutes=st.sampled_from([1, 10, 90, 26 * 60]), day=CHANGES_OF_CLOCKS)
def test_every_minute_of_days_on_which_clocks_change_is_as_a_count_from_the_start_has_it(
    rrule: str, wall: datetime, zone: str, minutes: int, day: datetime
) -> None:
    start = wall.replace(second=0, microsecond=0, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    window = again(rrule, start.isoformat(), minutes, zone)
    expected = reference(window, day, 2)
    first = int(day.replace(tzinfo=UTC).timestamp()) // 60 - 720
    for minute in range(first, first + 2880):
        assert active_at(window, minute * 60_000) is (minute in expected), iso(minute * 60_000, zone)
    occurrence = next_occurrence(window, first * 60_000)
    if occurrence is not None:
        assert occurrence.ends_at > first * 60_000
        assert active_at(window, occurrence.starts_at)
    ahead = [minute for minute in expected if first <= minute < first + 2880]
    if ahead:
        assert occurrence is not None
        assert max(occurrence.starts_at, first * 60_000) == min(ahead) * 60_000


# --- how long it takes ---


def seconds_of(window: MaintenancePlan, now: int) -> float:
    began = time.process_time()
    active_at(window, now)
    next_occurrence(window, now)
    return time.process_time() - began


@pytest.mark.parametrize("rrule", ["FREQ=HOURLY", "FREQ=HOURLY;BYMINUTE=0,15,30,45", "FREQ=MONTHLY;BYDAY=-1SU"])
def test_a_rule_that_began_long_ago_is_answered_soon_and_at_once_when_asked_again(rrule: str) -> None:
    window = again(rrule, "1971-01-01T00:07:00Z", 10)
    now = ms("2026-06-01T00:00:00+00:00")
    assert seconds_of(window, now) < 0.1
    again_and_again = [seconds_of(window, now + minute * 60_000) for minute in range(600)]
    assert sorted(again_and_again)[300] < 0.000_5


def test_what_was_found_is_known_when_the_window_is_read_anew() -> None:
    now = ms("2026-06-01T00:00:00+00:00")
    seconds_of(again("FREQ=HOURLY", "1972-01-01T00:07:00Z", 10), now)
    fresh = [again("FREQ=HOURLY", "1972-01-01T00:07:00Z", 10) for _ in range(100)]
    assert sorted(seconds_of(window, now) for window in fresh)[50] < 0.000_5


HOPELESS = [
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=MONTHLY;BYMONTH=4;BYMONTHDAY=31",
    "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6",
    "FREQ=MONTHLY;INTERVAL=2;BYMONTH=2",
    "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=DAILY;INTERVAL=7;BYDAY=MO",
    "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=HOURLY;INTERVAL=23;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=HOURLY;INTERVAL=2;BYHOUR=1",
    "FREQ=DAILY;UNTIL=20251231",
]


@pytest.mark.parametrize("rrule", HOPELESS)
def test_a_rule_that_never_occurs_is_refused_soon(rrule: str) -> None:
    began = time.process_time()
    with pytest.raises(ValidationError, match="rrule: must"):
        again(rrule, "2026-01-01T00:00:00Z")
    assert time.process_time() - began < 1


# --- what is refused ---

START = "2026-03-01T10:00:00Z"
ONCE = {"title": "x", "start": START, "end": "2026-03-01T12:00:00Z"}
AGAIN = {"title": "x", "start": START, "rrule": "FREQ=DAILY", "duration": 60}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no title": ({"start": START, "end": ONCE["end"]}, "title"),
    "empty title": ({**ONCE, "title": ""}, "title"),
    "long title": ({**ONCE, "title": "x" * 201}, "title"),
    "title with a line end": ({**ONCE, "title": "a\nb"}, "title"),
    "neither end nor rule": ({"title": "x", "start": START}, "end"),
    "no start": ({"title": "x", "end": START}, "start"),
    "no offset": ({**ONCE, "start": "2026-03-01T10:00:00"}, "start"),
    "no time": ({**ONCE, "start": "2026-03-01"}, "start"),
    "a day that is none": ({**ONCE, "start": "2026-02-30T10:00:00Z"}, "start"),
    "a number": ({**ONCE, "start": 1_772_359_200_000}, "start"),
    "long ago": ({**ONCE, "start": "1969-01-01T00:00:00Z"}, "start"),
    "end at start": ({**ONCE, "end": START}, "end"),
    "end before start by the offset": ({**ONCE, "end": "2026-03-01T10:30:00+01:00"}, "end"),
    "a year and more": ({**ONCE, "end": "2027-03-02T10:00:01Z"}, "end"),
    "end beside rule": ({**AGAIN, "end": ONCE["end"]}, "end"),
    "no duration": ({"title": "x", "start": START, "rrule": "FREQ=DAILY"}, "duration"),
    "duration without rule": ({**ONCE, "duration": 60}, "duration"),
    "zone without rule": ({**ONCE, "timezone": "UTC"}, "timezone"),
    "short": ({**AGAIN, "duration": 59}, "duration"),
    "long": ({**AGAIN, "duration": 604_801}, "duration"),
    "true": ({**AGAIN, "duration": True}, "duration"),
    "text": ({**AGAIN, "duration": "60"}, "duration"),
    "no zone": ({**AGAIN, "timezone": "Europe/Nowhere"}, "timezone"),
    "a folder": ({**AGAIN, "timezone": "Europe"}, "timezone"),
    "a path": ({**AGAIN, "timezone": "../../etc/passwd"}, "timezone"),
    "zone with leap seconds": ({**AGAIN, "timezone": "right/UTC"}, "timezone"),
    "no targets": ({**ONCE, "targets": []}, "targets"),
    "target without id": ({**ONCE, "targets": ["http://a.example/"]}, "targets.0"),
    "too many targets": ({**ONCE, "targets": [ID] * 501}, "targets"),
    "no tags": ({**ONCE, "tags": []}, "tags"),
    "tag with a comma": ({**ONCE, "tags": ["a,b"]}, "tags.0"),
    "unknown": ({**ONCE, "until": START}, "until"),
    "bad id": ({**ONCE, "id": "x"}, "id"),
}


@pytest.mark.parametrize(("fields", "field"), BAD.values(), ids=BAD)
def test_a_bad_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Maintenance(**fields)
    [problem] = caught.value.errors()
    fault = problem.get("ctx", {}).get("error")
    assert getattr(fault, "field", None) or ".".join(map(str, problem["loc"])) == field
    assert getattr(fault, "field", field) == field


BAD_RULES = {
    "": "parts like FREQ=DAILY",
    "DAILY": "parts like FREQ=DAILY",
    "RRULE:FREQ=DAILY": "parts like FREQ=DAILY",
    "FREQ=DAILY;": "parts like FREQ=DAILY",
    "FREQ=DAILY\nFREQ=DAILY": "parts like FREQ=DAILY",
    "INTERVAL=1": "must have a FREQ",
    "FREQ=MINUTELY": "FREQ of YEARLY",
    "FREQ=SECONDLY": "FREQ of YEARLY",
    "FREQ=DAILY;DTSTART=20260101T000000Z": "must not have DTSTART",
    "FREQ=DAILY;BYSECOND=1": "must not have BYSECOND",
    "FREQ=YEARLY;BYEASTER=0": "must not have BYEASTER",
    "FREQ=DAILY;FREQ=DAILY": "FREQ once",
    "FREQ=DAILY;COUNT=1;UNTIL=20270101": "both COUNT and UNTIL",
    "FREQ=DAILY;COUNT=0": "from 1 to 1000 in COUNT",
    "FREQ=DAILY;COUNT=1001": "from 1 to 1000 in COUNT",
    "FREQ=DAILY;INTERVAL=0": "from 1 to 99 in INTERVAL",
    "FREQ=DAILY;INTERVAL=-1": "from 1 to 99 in INTERVAL",
    "FREQ=DAILY;BYHOUR=24": "from 0 to 23 in BYHOUR",
    "FREQ=DAILY;BYHOUR=-1": "from 0 to 23 in BYHOUR",
    "FREQ=DAILY;BYHOUR=1,,2": "in BYHOUR",
    "FREQ=DAILY;BYMONTHDAY=0": "from 1 to 31 in BYMONTHDAY",
    "FREQ=DAILY;BYMONTHDAY=-32": "from 1 to 31 in BYMONTHDAY",
    "FREQ=DAILY;BYMINUTE=0,10,20,30,40": "at most 4 values in BYMINUTE",
    "FREQ=WEEKLY;BYMONTHDAY=1": "BYMONTHDAY beside FREQ=WEEKLY",
    "FREQ=DAILY;BYSETPOS=1": "BYSETPOS beside FREQ=DAILY",
    "FREQ=MONTHLY;BYWEEKNO=1": "BYWEEKNO beside FREQ=MONTHLY",
    "FREQ=WEEKLY;BYDAY=XX": "in BYDAY",
    "FREQ=WEEKLY;BYDAY=1MO": "numbers in BYDAY",
    "FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO": "numbers in BYDAY",
    "FREQ=MONTHLY;BYDAY=MO,2TU": "every day of BYDAY",
    "FREQ=MONTHLY;BYDAY=0MO": "in BYDAY",
    "FREQ=WEEKLY;WKST=XX": "in WKST",
    "FREQ=DAILY;UNTIL=2027": "in UNTIL",
    "FREQ=DAILY;UNTIL=20270230": "in UNTIL",
    "FREQ=DAILY;UNTIL=99991231": "in UNTIL",
}


@pytest.mark.parametrize(("rrule", "problem"), BAD_RULES.items(), ids=range(len(BAD_RULES)))
def test_a_rule_that_is_none_is_refused_with_what_it_breaks(rrule: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        again(rrule, START)
    [found] = caught.value.errors()
    assert found["loc"] == ("rrule",)
    assert problem in found["msg"]


# --- for whom ---


def test_a_window_without_targets_and_tags_is_for_all() -> None:
    assert covers(once(), ID, None)


def test_a_window_is_for_the_targets_that_it_names_and_for_those_that_carry_a_tag() -> None:
    window = once(targets=[ID], tags=["shop", "db"])
    other = "0" * 16
    assert covers(window, ID, None)
    assert covers(window, other, ["web", "db"])
    assert not covers(window, other, ["web", "Shop"])
    assert not covers(window, other, None)
    assert not covers(once(tags=["shop"]), ID, ())


def test_quiet_is_who_is_covered_by_an_active_window() -> None:
    over, now = once("2026-02-01T10:00:00Z", "2026-02-01T12:00:00Z"), ms("2026-03-01T11:00:00+00:00")
    other, mine = once(targets=["0" * 16]), once(title="Mine", tags=["db"])
    assert is_quiet([over, other, mine], ID, ("db",), now) is mine
    assert is_quiet([over, other, mine], ID, (), now) is None
    assert is_quiet([], ID, (), now) is None
