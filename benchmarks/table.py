"""The comparison as people read it: one table, what it was measured with, and where the monitor's CPU goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SYSTEMS = ("monitor", "plain", "blackbox")
_WIDTH = 10
_PARTS_AT = 10_000


def print_settings(settings: Mapping[str, str]) -> None:
    print()
    for name, words in settings.items():
        print(f"{name}: {words}")


def print_head() -> None:
    groups = ("CPU of a check, ms", "checks a second", "memory, MB")
    ratios = f"{'monitor /':>{_WIDTH}}{'plain /':>{_WIDTH}}"
    print(f"\n{'':23}" + "".join(f"{group:^{3 * _WIDTH}}" for group in groups) + ratios)
    names = "".join(f"{name:>{_WIDTH}}" for name in SYSTEMS) * len(groups)
    print(f"{'kind':12}{'targets':>11}{names}{'blackbox':>{_WIDTH}}{'monitor':>{_WIDTH}}", flush=True)


def print_row(row: Mapping[str, Any], missing: Mapping[str, str]) -> None:
    """``missing``: why a system was not measured at all, by its name."""
    cells = [
        _cell(row["systems"].get(name, {}).get(figure), digits, missing.get(name))
        for figure, digits in (("cpu_ms", 3), ("checks_per_second", 0), ("memory_mb", 0))
        for name in SYSTEMS
    ]
    cells += [_cell(row["monitor_to_blackbox"], 2, None), _cell(row["plain_to_monitor"], 0, None)]
    wrong = ", ".join(
        f"{name}: {found['wrong']} results were wrong" for name, found in row["systems"].items() if found["wrong"]
    )
    print(f"{row['kind']:12}{row['targets']:>11,}{''.join(cells)}  {wrong}".rstrip(), flush=True)


def _cell(value: float | None, digits: int, missing: str | None) -> str:
    if value is None:
        return f"{'absent' if missing else '-':>{_WIDTH}}"
    return f"{value:>{_WIDTH},.{digits}f}"


def print_parts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Of the monitor: CPU of a check, and memory, by part, with so many targets as there are up to 10,000."""
    sizes = {row["targets"] for row in rows if row["targets"] <= _PARTS_AT and "monitor" in row["systems"]}
    if not sizes:
        return
    found = [row for row in rows if row["targets"] == max(sizes)]
    parts = list(found[0]["systems"]["monitor"]["cpu_ms_by_part"])
    print(f"\nThe monitor by part, {max(sizes):,} targets; workers: with the work horse of each job")
    print(f"{'':13}{'CPU of a check, ms':^{(len(parts) + 1) * _WIDTH}}{'memory, MB':^{len(parts) * _WIDTH}}")
    names = [*parts, "all", *parts]
    print(f"{'kind':13}" + "".join(f"{name:>{_WIDTH}}" for name in names))
    for row in found:
        figures = row["systems"]["monitor"]
        cells = [_cell(figures["cpu_ms_by_part"][part], 3, None) for part in parts]
        cells += [_cell(figures["cpu_ms"], 3, None)]
        cells += [_cell(figures["memory_mb_by_part"][part], 0, None) for part in parts]
        print(f"{row['kind']:13}{''.join(cells)}", flush=True)
