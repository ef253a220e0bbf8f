"""RRULE of RFC 5545 as text: which rules there are, and what each part of one may be. Pure.

It is stricter than dateutil's own reader: what that would ignore, or take for something else, is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from dateutil.rrule import DAILY, FR, HOURLY, MO, MONTHLY, SA, SU, TH, TU, WE, WEEKLY, YEARLY

MOST_OCCURRENCES = 1000
"""What COUNT may be."""
_LONGEST_INTERVAL = 99
_MOST_MINUTES = 4

Frequency = Literal[0, 1, 2, 3, 4, 5, 6]
"""dateutil's numbers."""
_FREQUENCIES: dict[str, Frequency] = {
    "YEARLY": YEARLY,
    "MONTHLY": MONTHLY,
    "WEEKLY": WEEKLY,
    "DAILY": DAILY,
    "HOURLY": HOURLY,
}
_WEEKDAYS = {"MO": MO, "TU": TU, "WE": WE, "TH": TH, "FR": FR, "SA": SA, "SU": SU}
_PART = re.compile(r"([A-Z]+)=([A-Z0-9,+-]+)")
_NUMBER = re.compile(r"[0-9]{1,4}")
_WEEKDAY = re.compile(r"([+-]?[0-9]{1,2})?([A-Z]{2})")
_UNTIL = re.compile(r"([0-9]{8})(T[0-9]{6}(Z)?)?")


class _Numbers(NamedTuple):
    """What a part with numbers may hold; ``is_signed``: also counted from the end."""

    word: str
    """dateutil's."""
    low: int
    high: int
    is_signed: bool
    frequencies: set[Frequency]


_ALL = set(_FREQUENCIES.values())
_BY = {
    "BYMONTH": _Numbers("bymonth", 1, 12, False, _ALL),
    "BYMONTHDAY": _Numbers("bymonthday", 1, 31, True, _ALL - {WEEKLY}),
    "BYYEARDAY": _Numbers("byyearday", 1, 366, True, {YEARLY}),
    "BYWEEKNO": _Numbers("byweekno", 1, 53, True, {YEARLY}),
    "BYHOUR": _Numbers("byhour", 0, 23, False, _ALL),
    "BYMINUTE": _Numbers("byminute", 0, 59, False, _ALL),
    "BYSETPOS": _Numbers("bysetpos", 1, 366, True, {MONTHLY, YEARLY}),
}
_KNOWN = {"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_BY}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it was read."""

    frequency: Frequency
    interval: int
    count: int | None
    until: str | None
    by: dict[str, Any]
    """Arguments of dateutil's."""


def parse(text: str) -> Rule:
    """Read a rule without DTSTART; raises ValueError, which names the part and what it breaks."""
    parts = _split(text)
    if "FREQ" not in parts:
        raise ValueError("must have a FREQ, as in FREQ=WEEKLY;BYDAY=SU")
    if parts["FREQ"] not in _FREQUENCIES:
        raise ValueError("must have a FREQ of YEARLY, MONTHLY, WEEKLY, DAILY or HOURLY")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("must not have both COUNT and UNTIL")
    frequency = _FREQUENCIES[parts["FREQ"]]
    by: dict[str, Any] = {}
    for name, numbers in _BY.items():
        if name in parts:
            by[numbers.word] = _numbers(parts["FREQ"], name, parts[name])
    if "BYDAY" in parts:
        by["byweekday"] = _weekdays(parts["FREQ"], parts["BYDAY"], has_weeks="BYWEEKNO" in parts)
    if len(by.get("byminute", ())) > _MOST_MINUTES:
        raise ValueError(f"must have at most {_MOST_MINUTES} values in BYMINUTE")
    if parts.get("WKST", "MO") not in _WEEKDAYS:
        raise ValueError("must have a day such as MO in WKST")
    # dateutil's own default follows a setting of the process.
    by["wkst"] = _WEEKDAYS[parts.get("WKST", "MO")]
    if "UNTIL" in parts:
        read_until(parts["UNTIL"])
    return Rule(
        frequency,
        _number("INTERVAL", parts.get("INTERVAL", "1"), 1, _LONGEST_INTERVAL),
        _number("COUNT", parts["COUNT"], 1, MOST_OCCURRENCES) if "COUNT" in parts else None,
        parts.get("UNTIL"),
        by,
    )


def _split(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.upper().split(";"):
        match = _PART.fullmatch(part)
        if not match:
            raise ValueError("must be parts like FREQ=DAILY, with semicolons between them")
        if match[1] not in _KNOWN:
            raise ValueError(f"must not have {match[1][:20]}, which is not known here")
        if match[1] in parts:
            raise ValueError(f"must have {match[1]} once")
        parts[match[1]] = match[2]
    return parts


def _number(name: str, text: str, low: int, high: int) -> int:
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"must have a number from {low} to {high} in {name}")
    return int(text)


def _numbers(frequency: str, name: str, text: str) -> tuple[int, ...]:
    _, low, high, is_signed, frequencies = _BY[name]
    if _FREQUENCIES[frequency] not in frequencies:
        raise ValueError(f"must not have {name} beside FREQ={frequency}")
    values = []
    for each in text.split(","):
        digits = each[1:] if is_signed and each.startswith(("+", "-")) else each
        values.append(_number(name, digits, low, high) * (-1 if each.startswith("-") else 1))
    return tuple(values)


def _weekdays(frequency: str, text: str, *, has_weeks: bool) -> tuple[Any, ...]:
    days, numbered = [], 0
    for each in text.split(","):
        match = _WEEKDAY.fullmatch(each)
        if not match or match[2] not in _WEEKDAYS or (match[1] and not 1 <= abs(int(match[1])) <= 53):
            raise ValueError("must have days such as MO, or -1SU for the last Sunday, in BYDAY")
        days.append(_WEEKDAYS[match[2]](int(match[1])) if match[1] else _WEEKDAYS[match[2]])
        numbered += bool(match[1])
    if numbered and (frequency not in ("MONTHLY", "YEARLY") or has_weeks):
        raise ValueError("must have numbers in BYDAY only beside MONTHLY and YEARLY, and not beside BYWEEKNO")
    if numbered not in (0, len(days)):
        # dateutil takes such a list for days that are both.
        raise ValueError("must have a number at every day of BYDAY, or at none")
    return tuple(days)


def read_until(text: str) -> datetime:
    """A wall clock time, or a UTC one where the text ends with Z; a date is its last second."""
    match = _UNTIL.fullmatch(text)
    try:
        if not match or not "1970" <= text[:4] < "3000":
            raise ValueError
        until = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise ValueError("must have a time like 20261231T235959Z, or a date, in UNTIL") from None
    return until if match[2] else until + timedelta(days=1, seconds=-1)
