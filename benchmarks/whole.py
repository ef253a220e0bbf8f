"""A whole monitor to be measured, every process of the Procfile, with a site that it checks and a server for its mails.

Processes are started again at once, where the supervisor would wait longer each time: a hundred kills are to fit into
minutes.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import requests
from aiosmtpd.smtp import SMTP, Envelope, Session
from honcho.environ import parse_procfile
from redis import Redis

from benchmarks.processes import PROJECT, answers
from benchmarks.waiting import wait_until
from tests.smtp import LocalController
from worker import valkey
from worker.lifeline import die_with_parent

_VALKEY = "valkey"
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
        self._data = Path(self._folder.name, "data")
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "PATH")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(PROJECT),
            "DATA_DIR": str(self._data),
            "API_PORT": str(port),
            **settings,
        }
        procfile = parse_procfile((PROJECT / "Procfile").read_text())
        self._commands = {
            _VALKEY: valkey.command(self._data / "valkey.sock", self._data / "valkey"),
            **{name: shlex.split(line) for name, line in procfile.processes.items()},
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = Redis.from_url(self.redis_url)

    def __enter__(self) -> Self:
        (self._data / "valkey").mkdir(parents=True)
        self._start(_VALKEY)
        wait_until(lambda: answers(self.redis), _PATIENCE_SECONDS, "an answer of Valkey")
        self._start_working()
        wait_until(self.is_ready, _PATIENCE_SECONDS, "a monitor that is ready")
        return self

    def _start_working(self) -> None:
        for name in self._commands:
            if name != _VALKEY:
                self._start(name)

    def __exit__(self, *_: object) -> None:
        self._stop_all()
        self.redis.close()
        self._folder.cleanup()

    def _stop_all(self) -> None:
        working = [name for name in self._processes if name != _VALKEY]
        for names in (working, [_VALKEY]):
            for name in names:
                self._processes[name].terminate()
            for name in names:
                self._wait(name)

    def start_anew(self) -> float:
        """Stop all, empty Valkey, and start all; the moment (monotonic) at which the first process was started."""
        self._stop_all()
        shutil.rmtree(self._data / "valkey")
        (self._data / "valkey").mkdir()
        self._start(_VALKEY)
        wait_until(lambda: answers(self.redis), _PATIENCE_SECONDS, "an answer of Valkey")
        began = time.monotonic()
        self._start_working()
        return began

    def _wait(self, name: str) -> None:
        try:
            self._processes[name].wait(10)
        except subprocess.TimeoutExpired:
            # Whoever waits for a silent mail server does so for longer than a measurement should take.
            self.kill(name)

    def _start(self, name: str) -> None:
        parent = os.getpid()
        with Path(self._folder.name, f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(parent),
            )

    def keep(self) -> None:
        """Start again what has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                self._start(name)

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
        return {name: process.pid for name, process in self._processes.items()}

    def log(self, name: str) -> str:
        """What the process has said so far."""
        return Path(self._folder.name, f"{name}.log").read_text(errors="replace")

    def children(self, name: str) -> list[int]:
        """The pids of what a process has forked: of a worker, the horse with the job."""
        pid = self._processes[name].pid
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self, name: str) -> None:
        """Kill -9 of a process and of its children."""
        children = self.children(name)
        self._processes[name].kill()
        for pid in children:
            kill(pid)
        self._processes[name].wait()

    def restart_redis(self) -> None:
        """SIGTERM, and a start with the same append-only file."""
        self._processes[_VALKEY].terminate()
        self._processes[_VALKEY].wait()
        self._start(_VALKEY)

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


def kill(pid: int) -> None:
    """Kill -9 of a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


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


# --- where its mails go --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """One mail, and when the server said 250 to it (seconds since the epoch)."""

    at: float
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def id(self) -> str:
        return str(self.message["Message-ID"])

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def incident(self) -> str | None:
        """The one incident that the mail is about; None where it is about several, or about the monitor."""
        thread = self.message["References"]
        return str(thread).strip("<>").rpartition("@")[0] if thread else None


@dataclass
class MailServer:
    """What a server took. ``delay_seconds`` go by between a sender and its 250, long before the mail is there."""

    delay_seconds: float = 0.0
    port: int = 0
    mails: list[Taken] = field(default_factory=list)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        await asyncio.sleep(self.delay_seconds)
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = message_from_bytes(
            bytes(envelope.original_content or b""), _class=EmailMessage, policy=policy.default
        )
        self.mails.append(Taken(time.time(), tuple(envelope.rcpt_tos), message))
        return "250 OK"


@contextmanager
def mail_server(delay_seconds: float = 0.0) -> Iterator[MailServer]:
    """A server that takes every mail."""
    server = MailServer(delay_seconds)
    controller = LocalController(server, hostname="127.0.0.1", port=0)
    controller.start()
    server.port = controller.port
    try:
        yield server
    finally:
        controller.stop()


@contextmanager
def tarpit() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]
