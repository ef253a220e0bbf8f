"""The whole monitor, blackbox_exporter and the plain way side by side: the same targets, in one run, in turns."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.sites import KINDS, Sites, good, sites
from benchmarks.systems import monitor
from benchmarks.systems.plain import WORKERS, Plain
from benchmarks.turns import System, Turn

SYSTEMS = ("monitor", "plain", "blackbox")
SIZES = (100, 1_000, 10_000, 100_000)
LARGE = monitor.MANY
"""From this size on there is one round."""
_HANGING = ("hanging 5 %", "all hanging")
_CHECKS = {kind: 1_000 if kind in _HANGING else 4_000 for kind in KINDS}
"""Checks in one turn at the least, against the ticks of 10 ms: fewer targets are checked several times."""
_PLAIN_SAMPLE = {kind: 20 if kind == "all hanging" else 100 for kind in KINDS}
_BLACKBOX_SAMPLE = 20_000
_IN_FLIGHT = {"hanging 5 %": 300, "all hanging": 1_000}
_IN_FLIGHT_ELSE = 200
_TIMEOUT_SECONDS = {kind: 1.0 if kind in _HANGING else 10.0 for kind in KINDS}
Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="targets (100 ... 100000)")
    kinds = ", ".join(KINDS).replace("%", "%%")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS, metavar="KIND", help=kinds)
    parser.add_argument("--systems", choices=SYSTEMS, nargs="+", default=SYSTEMS, metavar="NAME", help="some of them")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help=f"the median counts (3); {LARGE}: 1")
    parser.add_argument("--checks", type=int, metavar="N", help="in one turn at the least (4000; 1000 where some hang)")
    parser.add_argument("--idle", type=float, default=3.0, metavar="N", help="seconds to learn what idling costs (3)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    missing = {name: why for name in arguments.systems if (why := _why_missing(name))}
    document: Json = {"settings": _settings(arguments.rounds), "missing": missing}
    table.print_settings(document["settings"])
    rows: list[Json] = []
    table.print_head()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, sites(Path(folder)) as where:
        for kind in arguments.kinds:
            plain: Json | None = None
            for size in sorted(arguments.sizes):
                names = [name for name in arguments.systems if name not in missing and (name != "plain" or not plain)]
                rounds = 1 if size >= LARGE else arguments.rounds
                found = _Cell(kind, size, where, arguments.checks or _CHECKS[kind], arguments.idle).measure(
                    names, rounds
                )
                # One job a check costs the same however many there are.
                plain = found.get("plain", plain)
                rows.append(_row(kind, size, {**found, **({"plain": plain} if plain else {})}))
                table.print_row(rows[-1], missing)
    document["rows"] = rows
    table.print_parts(rows)
    return document


def _why_missing(name: str) -> str | None:
    if name != "blackbox":
        return None
    from benchmarks.systems.blackbox import installed

    return None if installed() else "not installed"


def _settings(rounds: int) -> dict[str, str]:
    ours = ", ".join(f"{name}={value}" for name, value in monitor.SETTINGS.items())
    return {
        "monitor": f"the Procfile's scheduler and checks with {monitor.WORKERS} workers, a Valkey;"
        f" jobs of {monitor.BATCH} targets; {ours}",
        "plain": f"requests.get in a job of its own, {WORKERS} stock rq workers, a Valkey; a sample of 100 checks"
        " (all hanging: 20), whatever the number of targets",
        "blackbox": "blackbox_exporter, 200 probes in flight (hanging 5 %: 300, all hanging: 1,000), asked by aiohttp,"
        f" whose CPU is not counted; of {LARGE:,} targets a sample of {_BLACKBOX_SAMPLE:,}, and none that hang",
        "all": "every check is a new connection; timeout 10 s, with hanging targets 1 s; no retries, no second opinion;"
        " https verifies a chain of three against certifi's authorities and ours; what the processes cost idle is taken"
        f" off; memory is PSS, the most during the turn; median of {rounds} turns, of {LARGE:,} targets one",
    }


@dataclass(slots=True)
class _Cell:
    """So many targets of one kind, and so many checks in a turn at the least."""

    kind: str
    size: int
    sites: Sites
    checks: int
    idle_seconds: float
    _systems: dict[str, System] = field(default_factory=dict)

    def measure(self, names: Sequence[str], rounds: int) -> dict[str, Json]:
        """All systems live at the same time; they work in turns."""
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        with ExitStack() as stack:
            for name in names:
                if (system := self._made(name)) is not None:
                    system.idle_seconds = self.idle_seconds
                    self._systems[name] = stack.enter_context(system)
            for _ in range(rounds):
                for name, system in self._systems.items():
                    turns[name].append(system.turn())
        return {name: _outcome(each) for name, each in turns.items() if each}

    def _made(self, name: str) -> System | None:
        """None: not measured with so many targets."""
        timeout_seconds, bundle_file = _TIMEOUT_SECONDS[self.kind], self.sites.bundle_file
        count = self._count(name)
        urls, up = self.sites.urls(self.kind, count), good(self.kind, count)
        cycles = -(-self.checks // count)
        if name == "plain":
            return Plain(urls, up, timeout_seconds=timeout_seconds, bundle_file=bundle_file)
        if name == "monitor":
            return monitor.Monitor(urls, up, timeout_seconds=timeout_seconds, bundle_file=bundle_file, cycles=cycles)
        if self.size >= LARGE and self.kind == "all hanging":
            return None
        from benchmarks.systems.blackbox import Blackbox

        in_flight = min(count, _IN_FLIGHT.get(self.kind, _IN_FLIGHT_ELSE))
        return Blackbox(
            urls, up, cycles=cycles, in_flight=in_flight, timeout_seconds=timeout_seconds, bundle_file=bundle_file
        )

    def _count(self, name: str) -> int:
        """Targets that this system is measured with."""
        if name == "plain":
            return min(self.size, _PLAIN_SAMPLE[self.kind])
        return min(self.size, _BLACKBOX_SAMPLE) if name == "blackbox" else self.size


def _outcome(turns: Sequence[Turn]) -> Json:
    """The turn in the middle by its CPU, as it was."""
    middle = sorted(turns, key=lambda turn: turn.total_cpu_ms)[len(turns) // 2]
    return {
        "cpu_ms": middle.total_cpu_ms,
        "cpu_ms_by_part": dict(middle.cpu_ms),
        "cpu_ms_of_turns": [turn.total_cpu_ms for turn in turns],
        "checks_per_second": middle.checks / middle.seconds,
        "memory_mb": sum(middle.memory_mb.values()),
        "memory_mb_by_part": dict(middle.memory_mb),
        "checks": middle.checks,
        "wrong": sum(turn.wrong for turn in turns),
    }


def _row(kind: str, size: int, found: Mapping[str, Json]) -> Json:
    def ratio(one: str, other: str) -> float | None:
        if one not in found or other not in found:
            return None
        above, below = found[one]["cpu_ms"], found[other]["cpu_ms"]
        return float(above / below) if below else None

    return {
        "kind": kind,
        "targets": size,
        "systems": dict(found),
        "monitor_to_blackbox": ratio("monitor", "blackbox"),
        "plain_to_monitor": ratio("plain", "monitor"),
    }
