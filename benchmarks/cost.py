"""What a check costs, here and at another revision: :mod:`benchmarks.costs` and :mod:`benchmarks.hanging`."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.costs import costs, revision
from benchmarks.hanging import TIMEOUT_SECONDS, hanging
from benchmarks.processes import PROJECT
from benchmarks.sites import sites


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", metavar="REVISION", help="another revision of this project, to compare with")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="targets (2000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured (5)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
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


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
