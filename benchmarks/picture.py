"""The comparison as a picture: CPU of a check by kind, and by the number of targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_NAMES = {"monitor": "http-monitoring", "blackbox": "blackbox_exporter", "plain": "requests.get, one rq job a check"}
_COLOURS = {"monitor": "#0072b2", "blackbox": "#e69f00", "plain": "#999999"}
_MARKS = {"http": ("o", "-"), "https": ("s", "--")}
_KINDS_AT = 10_000


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw what ``compare`` has found, ``document["compare"]``, as an SVG that is the same for the same figures."""
    rows = document["compare"]["rows"]
    with matplotlib.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        by_kind, by_size = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_kinds(by_kind, rows)
        _draw_sizes(by_size, rows)
        figure.legend(
            *by_kind.get_legend_handles_labels(), loc="outside lower center", ncols=len(_NAMES), frameon=False
        )
        figure.suptitle(f"CPU of one check, all processes, the lower the better ({document['machine']})")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _cpu_ms(row: Mapping[str, Any], name: str) -> float | None:
    found = row["systems"].get(name)
    return found["cpu_ms"] if found and found["cpu_ms"] else None


def _draw_kinds(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    size = max((row["targets"] for row in rows if row["targets"] <= _KINDS_AT), default=rows[0]["targets"])
    chosen = [row for row in rows if row["targets"] == size]
    width = 0.8 / len(_NAMES)
    for place, (name, label) in enumerate(_NAMES.items()):
        bars = [(at, value) for at, row in enumerate(chosen) if (value := _cpu_ms(row, name)) is not None]
        places = [at + (place - (len(_NAMES) - 1) / 2) * width for at, _ in bars]
        drawn = axes.bar(places, [value for _, value in bars], width, label=label, color=_COLOURS[name])
        axes.bar_label(drawn, fmt=_short, padding=2, fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(chosen)), [row["kind"] for row in chosen])
    axes.set_ylabel("milliseconds, logarithmic")
    axes.set_title(f"by kind, {size:,} targets")
    _tidy(axes)


def _draw_sizes(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for kind, (marker, line) in _MARKS.items():
        axes.plot([], [], line, marker=marker, color="black", label=kind)
    for name in _NAMES:
        for kind, (marker, line) in _MARKS.items():
            points = [(row["targets"], _cpu_ms(row, name)) for row in rows if row["kind"] == kind]
            found = [(size, value) for size, value in points if value is not None]
            if found:
                sizes, values = zip(*found, strict=True)
                axes.plot(sizes, values, line, marker=marker, color=_COLOURS[name])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("targets")
    axes.set_title("by the number of targets")
    axes.legend(frameon=False)
    _tidy(axes)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _tidy(axes: Any) -> None:
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
