"""Processes that are measured: started in a folder of their own, ended with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.accounts import children
from benchmarks.waiting import wait_until
from worker import valkey
from worker.lifeline import die_with_parent

PROJECT = Path(__file__).resolve().parent.parent
VALKEY = "valkey"
"""Its name among the processes: it is the last to be stopped."""
_PATIENCE_SECONDS = 60.0


class Processes:
    """By name. To be used by the main thread alone: the kernel ends them with the thread that started them."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """``settings`` is their environment, beside what the machine needs."""
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("HOME", "LANG")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(PROJECT),
            **settings,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Sequence[str]] = {}

    def start(self, name: str, command: Sequence[str]) -> int:
        """Returns its pid; what it says is in ``NAME.log`` of the folder."""
        parent = os.getpid()
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(parent),
            )
        self._running[name], self._commands[name] = process, command
        return process.pid

    def start_again(self, name: str) -> None:
        """One that has ended, by the same command; its log goes on."""
        self.start(name, self._commands[name])

    def start_valkey(self, url: str, folder: Path | None = None) -> Redis:
        """The embedded server as the product starts it, with its file in this folder, or in that of all; a client."""
        socket_path = Path(url.removeprefix("unix://"))
        self.start(VALKEY, valkey.command(socket_path, folder or self._folder))
        client = Redis.from_url(url)
        wait_until(lambda: answers(client), _PATIENCE_SECONDS, "an answer of Valkey")
        return client

    def pid(self, name: str) -> int:
        return self._running[name].pid

    @property
    def pids(self) -> dict[str, int]:
        """By the name of the process."""
        return {name: process.pid for name, process in self._running.items()}

    def log(self, name: str) -> str:
        """What it has said so far."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def ended(self) -> list[str]:
        """Those that have ended and were not stopped."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def check(self) -> None:
        """Raises RuntimeError when one of them has ended."""
        for name in self.ended():
            raise RuntimeError(f"{name} has ended with {self._running[name].returncode}:\n{self.log(name)[-2000:]}")

    def terminate(self, name: str) -> None:
        """SIGTERM, and wait for its end."""
        self._running[name].terminate()
        self._running[name].wait()

    def kill(self, name: str) -> None:
        """Kill -9 of a process and of its children."""
        process = self._running[name]
        its = children(process.pid)
        process.kill()
        for pid in its:
            kill(pid)
        process.wait()

    def stop(self) -> None:
        """All of them at once, and at last their Valkey."""
        others = [name for name in self._running if name != VALKEY]
        for names in (others, self._running.keys() & {VALKEY}):
            for name in names:
                self._running[name].terminate()
            for name in names:
                self._wait(name)
        self._running.clear()

    def _wait(self, name: str) -> None:
        try:
            self._running[name].wait(10)
        except subprocess.TimeoutExpired:
            # Whoever waits for a silent server does so for longer than a measurement should take.
            self.kill(name)


def kill(pid: int) -> None:
    """Kill -9 of a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(client: Redis) -> bool:
    """Whether there is a server, and it has read its file."""
    try:
        return bool(client.ping())
    except RedisError:
        return False
