"""The order in which all processes of a monitor are started and stopped."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.monitor import MonitorError
from shared.settings import Settings
from worker import valkey
from worker.lifeline import is_blocking
from worker.supervisor.child import Child, Family
from worker.supervisor.folder import FolderTakenError, Lock
from worker.supervisor.log import Log

GRACE_SECONDS: Mapping[str, float] = {"scheduler": 10.0, "web": 12.0, "valkey": 20.0}
"""How long after SIGTERM a process may still take; the web's is a little more than gunicorn's own graceful_timeout."""
WORK_GRACE_SECONDS = 30.0
"""The same for what works on jobs: more than a batch of checks takes with all its attempts."""

ORPHANS_SECONDS = 20.0
"""How long to wait for what a killed supervisor left behind."""

_PARENT_SECONDS = 0.5


class StartError(MonitorError):
    """Something the monitor cannot run without is missing; the text says what."""


class Supervisor:
    """All processes of one monitor, from the first to the last."""

    def __init__(self, settings: Settings, commands: dict[str, str], parent: int | None = None) -> None:
        self._settings = settings
        self._commands = commands
        self._parent = parent
        self._family = Family()
        self._log = Log(["monitor", *(["valkey"] if settings.is_redis_embedded else []), *commands])
        self._children: dict[str, Child] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop_asked_at = 0.0

    async def run(self) -> None:
        """Start all, wait for a signal, stop all. Raises StartError when it could not start."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal, signum)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        watching = asyncio.create_task(self._watch_parent())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                starting.result()
                await stopping
        finally:
            starting.cancel()
            stopping.cancel()
            watching.cancel()
            await self._stop_all()
            self._log.finish()

    def _on_signal(self, signum: signal.Signals) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._stop_asked_at = now
            self._log.say(f"{signum.name}: finishing what is being worked on (again to hurry)")
            self._stop.set()
        elif now - self._stop_asked_at > 1 and not self._hurry.is_set():
            # Within a second it is the same request, sent to us as well as by our parent.
            self._log.say(f"{signum.name} again: hurrying")
            self._hurry.set()

    async def _watch_parent(self) -> None:
        """Stop when the parent was interrupted and did not pass it on.

        GNU make passes SIGTERM on to us but not SIGINT, which it expects the terminal to send to all; a SIGINT for
        make alone would have it wait inside its handler, for us, for ever.
        """
        if self._parent is None or is_blocking(self._parent, signal.SIGINT):
            return
        while not is_blocking(self._parent, signal.SIGINT):
            await asyncio.sleep(_PARENT_SECONDS)
        if not self._stop.is_set():
            self._on_signal(signal.SIGINT)

    # --- starting ---

    async def _start(self) -> None:
        if self._settings.is_redis_embedded:
            await self._start_valkey()
        else:
            await self._wait_for_redis()
        if "web" in self._commands:
            await self._wait_for_port()
        for name, command in self._commands.items():
            self._add(name, shlex.split(command))
        if "web" in self._commands:
            await self._announce()

    def _add(
        self, name: str, argv: list[str], on_start: Callable[[int], None] = lambda _: None, lock: Lock | None = None
    ) -> Child:
        child = Child(name, argv, self._family, self._log, on_start, lock)
        self._children[name] = child
        return child

    async def _start_valkey(self) -> None:
        folder = self._settings.data_dir.absolute() / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = Lock(folder / "lock")
        await self._wait_for_orphan(lock)
        argv = valkey.command(self._settings.socket_path, folder)
        child = self._add("valkey", argv, on_start=lock.write_pid, lock=lock)
        while await self._redis_problem() is not None:
            if child.exits:
                raise StartError("the embedded Valkey does not start; its last lines above say why")
            await asyncio.sleep(0.05)

    async def _wait_for_orphan(self, lock: Lock) -> None:
        """Wait for the Valkey of a supervisor that was killed: it holds its lock until it has saved and left."""
        deadline = time.monotonic() + ORPHANS_SECONDS
        has_said = False
        while True:
            try:
                return lock.take()
            except FolderTakenError as error:
                if time.monotonic() > deadline:
                    raise StartError(f"the Valkey of an earlier run does not leave: {error}") from None
                if not has_said:
                    self._log.say(f"waiting for the Valkey of an earlier run to leave: {error}")
                    has_said = True
            await asyncio.sleep(0.1)

    async def _wait_for_redis(self) -> None:
        said = ""
        while (problem := await self._redis_problem()) is not None:
            if problem != said:
                self._log.say(f"waiting for the server of REDIS_URL: {problem}")
                said = problem
            await asyncio.sleep(0.5)

    async def _redis_problem(self) -> str | None:
        """Why Redis cannot be used yet, loading its data included; None when it can."""
        url = self._settings.redis
        retry = Retry(NoBackoff(), 0)
        async with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=retry) as client:
            try:
                await client.ping()
            except (RedisError, OSError) as error:
                return str(error)
        return None

    async def _wait_for_port(self) -> None:
        """Wait until nobody listens where the web process will: it may be the orphan of a killed supervisor."""
        host, port = self._settings.api_host, self._settings.api_port
        deadline = time.monotonic() + ORPHANS_SECONDS
        has_said = False
        while not _is_free(host, port):
            if time.monotonic() > deadline:
                raise StartError(f"API_PORT {port} on {host} is in use by another program; choose another API_PORT")
            if not has_said:
                self._log.say(f"waiting for port {port} on {host}: another program listens there")
                has_said = True
            await asyncio.sleep(0.2)

    async def _announce(self) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.api_host, self._settings.api_host)  # noqa: S104 -- read, not bound
        port = self._settings.api_port
        shown = f"[{host}]" if ":" in host else host
        while not await _lives(host, port, f"{shown}:{port}"):
            await asyncio.sleep(0.1)
        self._log.say(f"the monitor is open at http://{shown}:{port}/ (Control-C stops it)")

    # --- stopping ---

    async def _stop_all(self) -> None:
        """The scheduler first, so that no more work comes; then the web process, so that nobody asks for any; then all
        that works, at the same time; and Valkey last, when nobody has anything left to write.
        """
        workers = [name for name in self._children if name not in GRACE_SECONDS]
        for names in (["scheduler"], ["web"], workers, ["valkey"]):
            children = [self._children[name] for name in names if name in self._children]
            await asyncio.gather(
                *(
                    # Valkey is not hurried: it has only to write what it holds, and killing it saves no time.
                    child.stop(
                        GRACE_SECONDS.get(child.name, WORK_GRACE_SECONDS),
                        asyncio.Event() if child.name == "valkey" else self._hurry,
                    )
                    for child in children
                )
            )
        await self._family.end()
        self._log.say("stopped")


def _is_free(host: str, port: int) -> bool:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            return False
    return True


async def _lives(host: str, port: int, host_header: str) -> bool:
    """Whether the web process answers ``GET /livez``."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /livez HTTP/1.0\r\nHost: {host_header}\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
