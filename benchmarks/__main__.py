"""``make bench``: measure what a check costs on this machine, and print it.

``python -m benchmarks --before REVISION`` measures another revision of this project in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.cost import PROJECT, costs, revision
from benchmarks.hanging import TIMEOUT_SECONDS, hanging
from benchmarks.machine import description
from benchmarks.sites import sites


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What a check costs on this machine.")
    parser.add_argument("--before", metavar="REVISION", help="another revision of this project, to compare with")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="targets (2000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        # The path of a Unix socket holds 108 bytes at most.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        trees = {"now": PROJECT}
        if arguments.before:
            trees = {arguments.before: stack.enter_context(revision(arguments.before, folder)), **trees}
        where = stack.enter_context(sites(folder))
        print(description())
        rows = costs(trees, where, _made(folder / "cost"), count=arguments.count, rounds=arguments.rounds)
        print(f"\nCPU of one check, ms, {arguments.count} targets in batches of 400, median of {arguments.rounds}")
        print(f"{'':8}{'revision':>12}{'worker':>9}{'redis':>9}{'total':>9}{'ratio':>8}")
        for row in rows:
            print("{kind:8}{tree:>12}{worker_ms:9.3f}{redis_ms:9.3f}{total_ms:9.3f}{ratio:8.2f}".format(**asdict(row)))
        waited = hanging(where, _made(folder / "hanging"))
        print(f"\n1,000 targets, 50 of them hanging until their timeout of {TIMEOUT_SECONDS} s, one worker")
        print("the other 950 recorded after {good_seconds:.2f} s, all after {all_seconds:.2f} s".format(**waited))
        if arguments.json:
            document = {"machine": description(), "cost": [asdict(row) for row in rows], "hanging": waited}
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
