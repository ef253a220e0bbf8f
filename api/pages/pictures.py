"""Small pictures, as numbers that a template draws: response times, uptime by time, the phases of a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

from msgspec import Struct

from api.pages.words import clock, milliseconds, response_words
from shared.monitor import PHASES, Verdict

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
Sum = tuple[int, int, int, int, int]
"""Hour or day since the epoch, up, down, unknown, ms: a row of ``Recording.sums``."""
CHART_SIZE = (600, 90)
"""Width and height, in the units of the picture."""
_BAR, _GAP = 12, 3
_LOWEST = 2.0
"""So that also what took no time can be seen."""


# --- response times ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One result. ``kind`` is its verdict; the numbers are units of the picture, from its top left."""

    kind: str
    x: int
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Response times, the newest at the right; a result that was not good is marked over the whole height."""

    columns: list[Column]
    bar: int
    top: str
    """How long the full height stands for."""
    usual: str
    usual_y: float | None
    """Where the line of what is usual is; None: not known, or above the picture."""
    first: str
    last: str
    said: str
    """The same in a sentence."""


def chart(results: Sequence[Mapping[str, Any]], *, usual_ms: float | None) -> Chart | None:
    """Of results, newest first, as ``Recording.history`` gives them; None where there is none."""
    if not results:
        return None
    width, height = CHART_SIZE
    # A timeout of seconds would flatten all others; what failed is marked, whatever it took.
    good = [each["elapsed_ms"] for each in results if not _is_failed(each)]
    highest = max(good or [each["elapsed_ms"] for each in results]) or 1.0
    columns = []
    for place, result in enumerate(results):
        tall = max(_LOWEST, min(1.0, result["elapsed_ms"] / highest) * height)
        x = width - (place + 1) * _BAR
        columns.append(Column(str(result["verdict"]), x, round(height - tall, 1), round(tall, 1), _title(result)))
    failed = sum(map(_is_failed, results))
    return Chart(
        columns=columns[::-1],
        bar=_BAR - _GAP,
        top=milliseconds(highest),
        usual=milliseconds(usual_ms) if usual_ms else "",
        usual_y=round(height * (1 - usual_ms / highest), 1) if usual_ms and usual_ms <= highest else None,
        first=clock(results[-1]["started_at"]),
        last=clock(results[0]["started_at"]),
        said=f"The newest {len(results)} checks, of which {failed} failed",
    )


def _is_failed(result: Mapping[str, Any]) -> bool:
    return result["verdict"] in (Verdict.DOWN, Verdict.UNKNOWN)


def _title(result: Mapping[str, Any]) -> str:
    words = [clock(result["started_at"]), response_words(result), milliseconds(result["elapsed_ms"])]
    return ", ".join([*words, result["sentence"]] if result["sentence"] else words)


# --- uptime --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour or day; ``kind`` is up, degraded (some failed), down (half of them or more) or none."""

    kind: str
    x: int
    title: str


@dataclass(frozen=True, slots=True)
class Uptime:
    """A span as cells of equal width, the newest at the right."""

    span: str
    share: str
    failed: str
    cells: list[Cell]
    width: int


def uptime(span: str, sums: Sequence[Sum], present: int, count: int, unit_ms: int) -> Uptime:
    """Of the newest ``count`` hours or days; ``present`` is the number of the one that goes on."""
    known = {row[0]: row for row in sums}
    stamps = range(present - count + 1, present + 1)
    up, down = _counted(sums, present, count)
    return Uptime(
        span=span,
        share=share(sums, present, count),
        failed=f"{down:,} of {up + down:,} checks failed" if up + down else "no check yet",
        cells=[_cell(known.get(stamp), stamp * unit_ms, 10 * place) for place, stamp in enumerate(stamps)],
        width=10 * count,
    )


def _cell(row: Sum | None, at: int, x: int) -> Cell:
    up, down = row[1:3] if row else (0, 0)
    begins = clock(at).removesuffix(":00 UTC") + " UTC"
    if not up + down:
        return Cell("none", x, f"{begins}: nothing known")
    kind = "up" if not down else "down" if down >= up else "degraded"
    return Cell(kind, x, f"{begins}: {down:,} of {up + down:,} failed")


def share(sums: Sequence[Sum], present: int, count: int) -> str:
    """Up of all that ended up or down, as percent; it never says 100 where a check failed. Empty: nothing is known."""
    up, down = _counted(sums, present, count)
    if not up + down:
        return ""
    return f"{floor(10_000 * up / (up + down)) / 100:g} %"


def _counted(sums: Sequence[Sum], present: int, count: int) -> tuple[int, int]:
    rows = [row for row in sums if row[0] > present - count]
    return sum(row[1] for row in rows), sum(row[2] for row in rows)


# --- phases --------------------------------------------------------------------------------------------------------


class Phase(Struct, frozen=True):
    """A piece of the bar of phases; ``start`` and ``width`` are percent."""

    name: str
    start: float
    width: float


def phases(measured: Mapping[str, float]) -> list[Phase]:
    """The phases that happened, in order, as shares of their sum."""
    total = sum(measured.values())
    found, start = [], 0.0
    for name in PHASES:
        width = 100 * measured.get(name, 0.0) / total if total else 0.0
        if width:
            found.append(Phase(name, round(start, 2), round(width, 2)))
        start += width
    return found
