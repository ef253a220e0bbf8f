"""A whole monitor to be measured, every process of the Procfile, and a site that it checks.

Processes are started again at once, where the supervisor would wait longer each time: a hundred kills are to fit into
minutes.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import requests
from honcho.environ import parse_procfile
from redis import Redis

from benchmarks.accounts import children
from benchmarks.processes import PROJECT, VALKEY, Processes, free_port
from benchmarks.waiting import wait_until

_PATIENCE_SECONDS = 60.0
_PAGE = 500


# --- the monitor ---------------------------------------------------------------------------------------------------


class Monitor:
    """Every process of the Procfile and a Valkey, in a folder and on a port of their own.

    To be used by the main thread alone: the kernel ends the processes with the thread that started them.
    """

    def __init__(self, **settings: str) -> None:
        # The path of a Unix socket holds 108 bytes at most.
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        self._data = folder / "data"
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._processes = Processes(folder, {"DATA_DIR": str(self._data), "API_PORT": str(port), **settings})
        self.redis = Redis.from_url(self.redis_url)

    def __enter__(self) -> Self:
        self._start()
        wait_until(self.is_ready, _PATIENCE_SECONDS, "a monitor that is ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self.redis.close()
        self._folder.cleanup()

    def _start(self) -> float:
        """Start all beside an empty Valkey; the moment (monotonic) at which the first of the others was started."""
        folder = self._data / "valkey"
        folder.mkdir(parents=True)
        self._processes.start_valkey(self.redis_url, folder).close()
        began = time.monotonic()
        for name, line in parse_procfile((PROJECT / "Procfile").read_text()).processes.items():
            self._processes.start(name, shlex.split(line))
        return began

    def start_anew(self) -> float:
        """Stop all, empty Valkey, and start all; the moment (monotonic) at which the first process was started."""
        self._processes.stop()
        shutil.rmtree(self._data / "valkey")
        return self._start()

    def keep(self) -> None:
        """Start again what has ended."""
        for name in self._processes.ended():
            self._processes.start_again(name)

    @property
    def url(self) -> str:
        return self._url

    @property
    def redis_url(self) -> str:
        return f"unix://{self._data}/valkey.sock"

    @property
    def snapshot_path(self) -> Path:
        return self._data / "targets.json"

    @property
    def pids(self) -> dict[str, int]:
        """By the name of the process."""
        return self._processes.pids

    def children(self, name: str) -> list[int]:
        """The pids of what a process has forked: of a worker, the horse with the job."""
        return children(self._processes.pid(name))

    def kill(self, name: str) -> None:
        """Kill -9 of a process and of its children."""
        self._processes.kill(name)

    def restart_redis(self) -> None:
        """SIGTERM, and a start with the same append-only file."""
        self._processes.terminate(VALKEY)
        self._processes.start_again(VALKEY)

    # --- asking it ---

    def is_ready(self) -> bool:
        self.keep()
        with suppress(requests.RequestException):
            return requests.get(f"{self._url}/readyz", timeout=5).status_code == 200
        return False

    def get(self, path: str, **query: Any) -> Any:
        answer = requests.get(f"{self._url}{path}", params=query, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> None:
        requests.post(f"{self._url}{path}", json=body, timeout=30).raise_for_status()

    def add(self, targets: list[dict[str, Any]], seconds: float = _PATIENCE_SECONDS) -> list[str]:
        """Post targets, and wait for ``seconds`` at the most until each has its first good result; their ids."""
        ids = []
        for at in range(0, len(targets), _PAGE):
            body = {"targets": targets[at : at + _PAGE]}
            answer = requests.post(f"{self._url}/status", json=body, timeout=60)
            answer.raise_for_status()
            ids += [target["id"] for target in answer.json()["data"]["targets"]]
        wait_until(
            lambda: self.count("up") == len(targets), seconds, "a good result of each target", meanwhile=self.keep
        )
        return ids

    def count(self, status: str) -> int:
        """How many targets have this status."""
        total: int = self.get("/api/v1/targets", status=status, limit=1)["total"]
        return total

    def incidents(self) -> list[dict[str, Any]]:
        """Every incident, the newest first."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.get("/api/v1/incidents", limit=_PAGE, **cursor)
            found += page["incidents"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def outbox(self) -> dict[str, Any]:
        """How many alerts are ``waiting``, ``sending`` and ``dead``, and the ``entries``."""
        found: dict[str, Any] = self.get("/api/v1/outbox")
        return found

    def owes_nothing(self) -> bool:
        self.keep()
        with suppress(requests.RequestException):
            found = self.outbox()
            return not found["waiting"] and not found["sending"]
        return False


# --- what it checks ------------------------------------------------------------------------------------------------


class Site:
    """Answers 200 to every path, 503 to those in ``broken``; with :meth:`refuse` it takes no connection at all."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def take(self) -> None:
        """Take connections, at the same port as before."""
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def refuse(self) -> None:
        """Take no connection any more."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._answer, "127.0.0.1", self._port, backlog=4000)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            status = b"503 Service Unavailable" if path in self.broken else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The one who asks may go at any time.
        finally:
            writer.close()
