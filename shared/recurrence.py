"""What recurs by the wall clock: RRULE of RFC 5545 as moments, within bounded work. Pure.

dateutil goes through a rule from its first occurrence on and cannot be stopped before the next one. So rules are
moved on to the time that is asked for, those that never occur are refused, and what was found is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from dateutil.rrule import DAILY, HOURLY, MONTHLY, WEEKLY, YEARLY, rrule

from shared.recurrence_rule import Frequency, parse, read_until

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall clock has no zone
_MS, _DAY = timedelta(milliseconds=1), timedelta(days=1)
_DAY_MS = 86_400_000
_COUNTED_FOR = 36_525 * _DAY
_CYCLE_YEARS = 400
"""The calendar repeats after so many years, weekdays and all."""
_LAST_CYCLE = 9600
_LAST_DECADES = datetime(9960, 1, 1)  # noqa: DTZ001 - a wall clock has no zone
_STEPS: dict[Frequency, timedelta] = {WEEKLY: timedelta(weeks=1), DAILY: timedelta(days=1), HOURLY: timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class _Span:
    """Every start between two moments (ms), what still lasted at the first, and the first start after them."""

    low: int
    high: int | None
    """None: there is no further start, ever."""
    starts: list[int]


class Recurrence:
    """Occurrences of one rule, each as long as the others; it keeps those around the time that was asked for last.

    The wall clock of ``zone`` recurs. As RFC 5545 3.3.5 has it, a time that the clock skips is read with the offset
    before the gap (02:30 is 03:30 then), and of a time that comes twice the first is meant; where FREQ is HOURLY,
    both, so that no hour is left out. The length is real time. Several threads may ask at once.
    """

    def __init__(self, text: str, start: datetime, length_ms: int, zone: ZoneInfo) -> None:
        """``start`` has an offset; raises ValueError for a rule that is none, or that never occurs after it."""
        self._rule = parse(text)
        self._zone = zone
        self._length_ms = length_ms
        self._start_ms = _ms(start.astimezone(UTC).replace(tzinfo=None, microsecond=0))
        self._first = start.astimezone(zone).replace(tzinfo=None, microsecond=0, fold=0)
        self._by = self._with_defaults()
        self._last: datetime | None = None
        self._until_ms: int | None = None
        if not self._occurs():
            raise ValueError("must have parts that some time fits")
        self._bound()
        self._span = self._look(self._start_ms)
        if not self._span.starts:
            raise ValueError("must occur at least once between start and UNTIL")

    def last_start(self, now: int) -> int | None:
        """The newest start that is not after ``now`` (ms); None where its occurrence would be over anyway."""
        starts = self._around(now).starts
        index = bisect_right(starts, now)
        return starts[index - 1] if index else None

    def next_start(self, now: int) -> int | None:
        """The first start after ``now`` (ms); None: there is none."""
        starts = self._around(now).starts
        index = bisect_right(starts, now)
        return starts[index] if index < len(starts) else None

    # --- the rule ---

    def _with_defaults(self) -> dict[str, Any]:
        """What a rule leaves open follows its first occurrence; written out, so that the rule can be moved on."""
        by, first, frequency = dict(self._rule.by), self._first, self._rule.frequency
        if "byweekno" in by and not by.keys() & {"byweekday", "bymonthday", "byyearday"}:
            by["byweekday"] = first.weekday()
        if not by.keys() & {"byweekday", "bymonthday", "byyearday"}:
            if frequency == WEEKLY:
                by["byweekday"] = first.weekday()
            elif frequency in (MONTHLY, YEARLY):
                by["bymonthday"] = first.day
                if frequency == YEARLY:
                    by.setdefault("bymonth", first.month)
        if frequency != HOURLY:
            by.setdefault("byhour", first.hour)
        by.setdefault("byminute", first.minute)
        by["bysecond"] = first.second
        return by

    def _rule_from(self, start: datetime, until: datetime | None = None) -> rrule:
        return rrule(self._rule.frequency, dtstart=start, interval=self._rule.interval, until=until, **self._by)

    def _occurs(self) -> bool:
        """Whether the rule ever occurs. It is looked for near the end of the calendar, where dateutil has to stop.

        What fits less than once in forty years may be missed, where FREQ is not MONTHLY or YEARLY.
        """
        try:
            return next(iter(self._rule_from(self._late_start())), None) is not None
        except (ValueError, OverflowError):
            # No hour of BYHOUR is ever met, or the search went over the end of the calendar.
            return False

    def _late_start(self) -> datetime:
        """A start that is as good as the first, whole intervals later."""
        first, interval = self._first, self._rule.interval
        step = _STEPS.get(self._rule.frequency)
        if step is not None:
            return first + (_LAST_DECADES - first) // (step * interval) * step * interval
        cycles = (_LAST_CYCLE - first.year - 1) // _CYCLE_YEARS
        # Where the interval does not go into the cycles fewer are skipped, and long intervals soon end anyway.
        while cycles * _CYCLE_YEARS * (12 if self._rule.frequency == MONTHLY else 1) % interval:
            cycles -= 1
        return first.replace(year=first.year + cycles * _CYCLE_YEARS)

    def _bound(self) -> None:
        """Find out where the rule ends, so that nothing has to be counted again."""
        if self._rule.until is not None:
            until = read_until(self._rule.until)
            self._until_ms = _ms(until) if self._rule.until.endswith("Z") else self._moments(until)[-1]
            self._last = _wall(self._until_ms) + _DAY
        if self._rule.count is not None:
            last = self._first
            for last in islice(self._rule_from(self._first), self._rule.count):
                if last - self._first > _COUNTED_FOR:
                    break
            self._last = last

    def _rule_before(self, wall: datetime) -> rrule:
        """The rule moved on by whole intervals, to begin before ``wall`` and not long before."""
        first, interval = self._first, self._rule.interval
        step = _STEPS.get(self._rule.frequency)
        if step is not None:
            return self._rule_from(first + max(0, (wall - first) // (step * interval)) * step * interval, self._last)
        months = interval * (12 if self._rule.frequency == YEARLY else 1)
        ahead = ((wall.year - first.year) * 12 + wall.month - first.month) // months
        if ahead <= 0:
            return self._rule_from(first, self._last)
        month = first.year * 12 + first.month - 1 + ahead * months
        # The day may be missing in that month, and every day of it is after the first occurrence.
        return self._rule_from(_EPOCH.replace(year=month // 12, month=month % 12 + 1), self._last)

    # --- moments ---

    def _around(self, now: int) -> _Span:
        span = self._span
        if now < span.low or (span.high is not None and now > span.high):
            span = self._span = self._look(now)
        return span

    def _look(self, now: int) -> _Span:
        """Find what is around ``now``. A wall clock is less than a day from UTC, on either side."""
        low, high = now - _DAY_MS, now + _DAY_MS
        starts: set[int] = set()
        following: int | None = None
        seen_at: datetime | None = None
        for wall in self._walls(_wall(low - self._length_ms) - _DAY):
            if seen_at is not None and wall - seen_at > _DAY:
                break
            for at in self._moments_of(wall):
                if at <= high:
                    starts.add(at)
                elif following is None or at < following:
                    following, seen_at = at, seen_at or wall
        found = sorted(at for at in starts if at > low - self._length_ms)
        return _Span(low, None, found) if following is None else _Span(low, following - 1, [*found, following])

    def _walls(self, after: datetime) -> Iterator[datetime]:
        for wall in self._rule_before(after):
            if wall >= after:
                yield wall

    def _moments_of(self, wall: datetime) -> list[int]:
        """When the occurrence at this wall clock time begins: once, twice, or not at all."""
        moments = self._moments(wall)
        if self._rule.frequency != HOURLY:
            moments = [self._start_ms] if wall == self._first else moments[:1]
        return [at for at in moments if at >= self._start_ms and (self._until_ms is None or at <= self._until_ms)]

    def _moments(self, wall: datetime) -> list[int]:
        """When clocks show this, or would if they did not skip it."""
        here = wall.replace(tzinfo=self._zone)
        offset, later = here.utcoffset(), here.replace(fold=1).utcoffset()
        assert offset is not None
        assert later is not None
        return [_ms(wall - offset), _ms(wall - later)] if later < offset else [_ms(wall - offset)]


def _ms(utc: datetime) -> int:
    return (utc - _EPOCH) // _MS


def _wall(ms: int) -> datetime:
    """The wall clock of UTC."""
    return _EPOCH + ms * _MS


@lru_cache(maxsize=2048)
def recurrence(text: str, start: datetime, length_ms: int, zone: str) -> Recurrence:
    """The one Recurrence of this process for these arguments, so that what it found is found once."""
    return Recurrence(text, start, length_ms, ZoneInfo(zone))
