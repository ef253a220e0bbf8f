"""``make bench``: measure what a check costs on this machine, and print it.

``python -m benchmarks cost --before REVISION`` measures another revision of this project in the same run;
``python -m benchmarks alerts`` measures what becomes of alerts, in some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cost import PROJECT, costs, revision
from benchmarks.hanging import TIMEOUT_SECONDS, hanging
from benchmarks.machine import description
from benchmarks.sites import sites

ALERTS = ("delay", "storm", "chaos", "tarpit")
LARGE = {
    "growth": ("benchmarks.growth", "how the API, the scheduler and the snapshot stand 100,000 targets"),
    "memory": ("benchmarks.memory", "what a target takes in Redis, and 2,000 hanging checks in a worker"),
    "outage": ("benchmarks.outage", "10,000 targets that hang all at once"),
    "steady": ("benchmarks.steady", "100,000 targets at 300 s: CPU and lateness"),
}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the monitor on this machine.")
    commands = parser.add_subparsers(dest="command", metavar="cost | alerts | growth | memory | outage | steady")
    cost = commands.add_parser("cost", help="what a check costs (unless said otherwise)")
    cost.add_argument("--before", metavar="REVISION", help="another revision of this project, to compare with")
    cost.add_argument("--count", type=int, default=2000, metavar="N", help="targets (2000)")
    cost.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured (5)")
    alerts = commands.add_parser("alerts", help="how soon, how many, and what is lost; some ten minutes")
    alerts.add_argument("--only", choices=ALERTS, action="append", help="this measurement; may be given again")
    alerts.add_argument("--breaks", type=int, default=100, metavar="N", help="breaks to time, twice (100)")
    alerts.add_argument("--targets", type=int, default=1000, metavar="N", help="targets of the storm (1000)")
    alerts.add_argument("--kills", type=int, default=100, metavar="N", help="of the e-mail worker (100)")
    alerts.add_argument("--restarts", type=int, default=20, metavar="N", help="of Valkey (20)")
    alerts.add_argument("--seconds", type=float, default=35.0, metavar="N", help="beside a silent server (35)")
    for name, (module, text) in LARGE.items():
        large = commands.add_parser(name, help=text)
        import_module(module).add_arguments(large)
        large.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    for command in (cost, alerts):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    is_named = any(word in ("cost", "alerts", *LARGE, "-h", "--help") for word in words[:1])
    arguments = parser.parse_args(words if is_named else ["cost", *words])
    print(description())
    if arguments.command in LARGE:
        document = import_module(LARGE[arguments.command][0]).run(arguments)
    else:
        document = _alerts(arguments) if arguments.command == "alerts" else _cost(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": description(), **document}, indent=1) + "\n")


def _cost(arguments: argparse.Namespace) -> dict[str, object]:
    with ExitStack() as stack:
        # The path of a Unix socket holds 108 bytes at most.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        trees = {"now": PROJECT}
        if arguments.before:
            trees = {arguments.before: stack.enter_context(revision(arguments.before, folder)), **trees}
        where = stack.enter_context(sites(folder))
        rows = costs(trees, where, _made(folder / "cost"), count=arguments.count, rounds=arguments.rounds)
        print(f"\nCPU of one check, ms, {arguments.count} targets in batches of 400, median of {arguments.rounds}")
        print(f"{'':8}{'revision':>12}{'worker':>9}{'redis':>9}{'total':>9}{'ratio':>8}")
        for row in rows:
            print("{kind:8}{tree:>12}{worker_ms:9.3f}{redis_ms:9.3f}{total_ms:9.3f}{ratio:8.2f}".format(**asdict(row)))
        waited = hanging(where, _made(folder / "hanging"))
        print(f"\n1,000 targets, 50 of them hanging until their timeout of {TIMEOUT_SECONDS} s, one worker")
        print("the other 950 recorded after {good_seconds:.2f} s, all after {all_seconds:.2f} s".format(**waited))
    return {"cost": [asdict(row) for row in rows], "hanging": waited}


def _alerts(arguments: argparse.Namespace) -> dict[str, object]:
    # Imported late: a whole monitor and a mail server, with which the cost of a check has nothing to do.
    from benchmarks.alerts import chaos, delay, lateness, storm

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
    for name in arguments.only or ALERTS:
        title, runs = measurements[name]
        print(f"\n{title}", flush=True)
        rows = [asdict(run()) for run in runs]
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


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
