"""``python -m worker.supervisor``: read the settings, claim DATA_DIR, run until a signal comes."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from honcho.environ import parse_procfile

from shared.monitor import MonitorError
from shared.settings import Settings, read_settings
from worker.lifeline import die_with_parent
from worker.supervisor.child import PROJECT
from worker.supervisor.folder import claim
from worker.supervisor.order import StartError, Supervisor


def _read_commands(procfile: Path) -> dict[str, str]:
    try:
        commands: dict[str, str] = dict(parse_procfile(procfile.read_text()).processes)
    except OSError as error:
        raise StartError(f"the Procfile cannot be read: {error}") from None
    if not commands:
        raise StartError(f"{procfile} names no process")
    return commands


async def _supervise(settings: Settings, commands: dict[str, str], parent: int | None) -> None:
    await Supervisor(settings, commands, parent).run()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.supervisor", description="Run the whole monitor.")
    parser.add_argument("--procfile", type=Path, default=PROJECT / "Procfile", help="the processes to keep running")
    parser.add_argument("--with-parent", action="store_true", help="stop when the process that started this one ends")
    options = parser.parse_args(arguments)
    parent = os.getppid() if options.with_parent else None
    if parent is not None:
        die_with_parent(parent)
    try:
        settings = read_settings()
        commands = _read_commands(options.procfile)
        lock = claim(settings.data_dir)
        # Imported late: these are the first imports that need the store.
        from shared.snapshot import preflight
        from worker.alerts.notifier import check_channels

        preflight(settings)
        check_channels(settings)
        asyncio.run(_supervise(settings, commands, parent))
    except MonitorError as error:
        print(f"http-monitoring: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    os.close(lock.descriptor)
    return 0


if __name__ == "__main__":
    sys.exit(main())
