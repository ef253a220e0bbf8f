"""Who owns DATA_DIR: one supervisor at a time, and the Valkey that it started."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared.monitor import MonitorError


class FolderTakenError(MonitorError):
    """Another process holds the lock; the text names the file and that process."""


class Lock:
    """A lock on a file that lasts as long as a process holds its descriptor, kill -9 included.

    The lock (flock) belongs to the open file, not to the process: a child that inherits ``descriptor`` holds it too,
    and it is free when the last of them is gone. No pid is ever asked whether it lives, because pids are reused and
    zombies answer. The pid in the file is for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> None:
        """Raises FolderTakenError at once when it is held already."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTakenError(f"{self.path} is held by process {self._written_pid()}") from None

    def write_pid(self, pid: int) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"{pid}\n".encode(), 0)

    def _written_pid(self) -> str:
        return os.pread(self.descriptor, 32, 0).decode(errors="replace").strip() or "(not known yet)"


def claim(folder: Path) -> Lock:
    """Make `folder` and own it until this process ends. Raises FolderTakenError when another supervisor runs on it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = Lock(folder / "lock")
        lock.take()
    except FolderTakenError as error:
        raise FolderTakenError(
            f"DATA_DIR {folder.absolute()} is in use by another `make run`: {error}. "
            "Stop that one first, or give this one a DATA_DIR and an API_PORT of its own."
        ) from None
    except OSError as error:
        raise MonitorError(f"DATA_DIR {folder.absolute()} cannot be used: {error}") from None
    lock.write_pid(os.getpid())
    return lock
