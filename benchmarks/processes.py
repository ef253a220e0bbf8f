"""Processes that are measured: started in a folder of their own, ended with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.waiting import wait_until
from worker import valkey
from worker.lifeline import die_with_parent

PROJECT = Path(__file__).resolve().parent.parent
_PATIENCE_SECONDS = 30.0


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
        self._running[name] = process
        return process.pid

    def start_valkey(self, url: str) -> Redis:
        """The embedded server as the product starts it, with its socket and its file in the folder."""
        socket_path = Path(url.removeprefix("unix://"))
        self.start("valkey", valkey.command(socket_path, self._folder))
        client = Redis.from_url(url)
        wait_until(lambda: answers(client), _PATIENCE_SECONDS, "an answer of Valkey")
        return client

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def check(self) -> None:
        """Raises RuntimeError when one of them has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                said = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} has ended with {process.returncode}:\n{said}")

    def stop(self) -> None:
        """All of them, in the reverse order of their start."""
        for process in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def answers(client: Redis) -> bool:
    """Whether there is a server, and it has read its file."""
    try:
        return bool(client.ping())
    except RedisError:
        return False
