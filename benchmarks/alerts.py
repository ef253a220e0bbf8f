"""What becomes of alerts: :mod:`benchmarks.alerting`, as a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

MEASUREMENTS = ("delay", "storm", "chaos", "tarpit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="this measurement; may be given again")
    parser.add_argument("--breaks", type=int, default=100, metavar="N", help="breaks to time, twice (100)")
    parser.add_argument("--targets", type=int, default=1000, metavar="N", help="targets of the storm (1000)")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="of the e-mail worker (100)")
    parser.add_argument("--restarts", type=int, default=20, metavar="N", help="of Valkey (20)")
    parser.add_argument("--seconds", type=float, default=35.0, metavar="N", help="beside a silent server (35)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    # Imported late: a whole monitor and a mail server, with which other commands have nothing to do.
    from benchmarks.alerting import chaos, delay, lateness, storm

    seconds, kills = arguments.seconds, arguments.kills
    measurements: dict[str, tuple[str, list[Callable[[], Any]]]] = {
        "delay": (
            "Seconds from the end of the first failed check, and from the break itself, until a server took the mail",
            [lambda: delay(10, arguments.breaks), lambda: delay(1, arguments.breaks)],
        ),
        "storm": (
            "Mails to one recipient when all targets went down within a minute, and came back within another",
            [lambda: storm(arguments.targets)],
        ),
        "chaos": (
            "Alerts while the e-mail worker is killed and Valkey restarted, two or three targets breaking each second",
            [lambda: chaos(kills, arguments.restarts, targets=4 * kills)],
        ),
        "tarpit": (
            "Seconds from the turn of a check to its start, beside a mail server that takes mails, and one that hangs",
            [lambda: lateness(is_silent=False, seconds=seconds), lambda: lateness(is_silent=True, seconds=seconds)],
        ),
    }
    found: dict[str, object] = {}
    for name in arguments.only or MEASUREMENTS:
        title, runs = measurements[name]
        print(f"\n{title}", flush=True)
        rows = [asdict(measure()) for measure in runs]
        found[name] = rows
        _print_table(rows)
    return found


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One column a field, as wide as its name."""
    names = [name.replace("_", " ") for name in rows[0]]
    print("  ".join(f"{name:>8}" for name in names))
    for row in rows:
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
        print("  ".join(f"{cell:>{max(8, len(name))}}" for cell, name in zip(cells, names, strict=True)), flush=True)
