"""``make bench``: measure the monitor on this machine, and print what was found.

``python -m benchmarks COMMAND --help`` tells what each measurement can be asked. A command is a module of this package
that offers ``add_arguments(parser)`` and ``run(arguments)``, which prints for people and returns what goes into the
JSON; it is registered by its line in ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.machine import description

COMMANDS = {
    "compare": "the whole monitor beside blackbox_exporter and the plain way; some twenty minutes",
    "growth": "how the API, the scheduler and the snapshot stand 100,000 targets",
    "memory": "what a target takes in Redis, and a worker with 2,000 checks under way",
    "outage": "10,000 targets that hang all at once, and come back",
    "steady": "100,000 targets at 300 s: CPU, and how late checks begin",
    "cost": "what a check costs; --before: and what it cost at another revision",
    "alerts": "how soon, how many, and what is lost; some ten minutes",
}
"""By the name of the module of this package."""
ALL = ("compare", "steady", "outage", "growth", "memory")
"""What ``all`` runs, in this order."""


def main(words: Sequence[str]) -> None:
    """Run one command; with ``--json`` write ``{"machine": ..., command: what it found}`` as well."""
    arguments = _parser().parse_args(words)
    print(description(), flush=True)
    names = ALL if arguments.command == "all" else (arguments.command,)
    document: dict[str, object] = {"machine": description()}
    for name in names:
        of_command = arguments if name == arguments.command else _parser().parse_args([name])
        document[name] = import_module(f"benchmarks.{name}").run(of_command)
        # After each: what was measured stays when a later one fails.
        if arguments.json:
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.picture:
        from benchmarks.picture import draw

        draw(document, arguments.picture)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the monitor on this machine.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    everything = commands.add_parser("all", help=f"in turn: {', '.join(ALL)}")
    parsers = {"all": everything}
    for name, purpose in COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=purpose)
        import_module(f"benchmarks.{name}").add_arguments(parsers[name])
    for name, command in parsers.items():
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
        command.set_defaults(picture=None)
        if name in ("all", "compare"):
            command.add_argument("--picture", type=Path, metavar="FILE", help="draw the comparison there, an SVG")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
