"""A whole monitor for tests: the supervisor with the project's own Procfile, in a folder and on a port of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import requests
from redis import Redis

from tests.waiting import eventually

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 40.0


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class MonitorRun:
    """Starts, asks, kills and stops a monitor; its folder outlives a stop, so that it can be started again."""

    def __init__(self, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="monitor-")
        self.data = Path(self._folder.name, "data")
        self.log = Path(self._folder.name, "log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAIL_", "API_", "DEFAULT_"))},
            "DATA_DIR": str(self.data),
            "API_PORT": str(self.port),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._folder.cleanup()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.supervisor", "--with-parent"],
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            try:
                return requests.get(f"{self.url}/readyz", timeout=3).status_code == 200
            except requests.RequestException:
                return False

        eventually(is_ready, START_SECONDS)

    def stop(self) -> int:
        """Ask it to stop as a service manager does; returns its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._process = None
        return code

    def kill_all(self) -> None:
        """Kill -9 of the whole tree, as a power cut would."""
        assert self._process is not None
        pids = self.pids()
        self._process.kill()
        self._process.wait()
        self._process = None
        for pid in pids:
            _kill(pid)
        eventually(lambda: not self.pids(), 20)

    def pids(self, containing: str = "") -> list[int]:
        """The processes of this monitor, except the supervisor, whose command line holds ``containing``."""
        mark = f"DATA_DIR={self.data}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if containing in command and "worker.supervisor" not in command:
                        found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self, containing: str) -> None:
        """Kill -9 of every process whose command line holds ``containing``."""
        pids = self.pids(containing)
        assert pids, f"no process holds {containing!r}"
        for pid in pids:
            _kill(pid)

    def redis(self) -> Redis:
        """A client of its embedded Valkey."""
        return Redis.from_url(f"unix://{self.data}/valkey.sock")

    def post(self, path: str, document: Any, **params: Any) -> Any:
        answer = requests.post(f"{self.url}{path}", json=document, params=params, timeout=40)
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str, **params: Any) -> Any:
        answer = requests.get(f"{self.url}{path}", params=params, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def target(self, endpoint: str) -> dict[str, Any]:
        """The one target with this endpoint, as ``GET /status`` shows it."""
        found: dict[str, Any] = self.get("/status", endpoint=endpoint)["data"]["targets"][0]
        return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
