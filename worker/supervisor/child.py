"""One process that is kept running, and how to find all that descends from it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from worker.lifeline import die_with_parent
from worker.supervisor.folder import Lock
from worker.supervisor.log import Log

PROJECT = Path(__file__).resolve().parents[2]

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A process that lived this long is not in a crash loop: its next delay is the first one again."""

HURRY_SECONDS = 1.0

_MARK = "MONITOR_RUN"


class Family:
    """All that descends from this supervisor, known by a mark in the environment it was started with.

    Neither process groups nor sessions would do: the pool's workers and RQ's work horses make groups of their own.
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)

    def environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            # rq-dashboard installs a package `tests` of its own; ours must be found first.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
            "PATH": os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")])),
            _MARK: f"{self._token}:{name}",
        }

    def living(self, name: str | None = None) -> Iterator[int]:
        """The pids of what runs under `name`, or of all; a zombie has no environment and is not among them."""
        mark = f"{_MARK}={self._token}:".encode() if name is None else f"{_MARK}={self._token}:{name}\0".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    yield int(entry.name)

    async def end(self, name: str | None = None) -> list[int]:
        """Kill what still runs, and wait until it is gone; the pids that were killed."""
        killed: list[int] = []
        deadline = time.monotonic() + 5
        while (living := list(self.living(name))) and time.monotonic() < deadline:
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed = sorted({*killed, *living})
            await asyncio.sleep(0.05)
        return killed


class Child:
    """One process that is started again whenever it exits, until it is told to stop."""

    def __init__(
        self, name: str, argv: list[str], family: Family, log: Log, on_start: Callable[[int], None], lock: Lock | None
    ) -> None:
        self.name = name
        self.exits = 0
        self._argv = argv
        self._family = family
        self._log = log
        self._on_start = on_start
        self._descriptors = () if lock is None else (lock.descriptor,)
        self._output = log.pipe(name)
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Ask it to finish and wait; kill all of it after `grace_seconds`, or soon when `hurry` is set."""
        self._is_stopping.set()
        self._ask_to_finish()
        hurrying = asyncio.create_task(hurry.wait())
        await asyncio.wait({self._keeping, hurrying}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        if hurrying.done():
            await asyncio.wait({self._keeping}, timeout=HURRY_SECONDS)
        hurrying.cancel()
        if killed := await self._family.end(self.name):
            self._log.say(f"{self.name} left something behind: killed {', '.join(map(str, killed))}")
        await self._keeping

    async def _keep(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while not self._is_stopping.is_set():
            started = time.monotonic()
            end = await self._run()
            self.exits += 1
            if self._is_stopping.is_set():
                self._log.say(f"{self.name} {end}")
                return
            if time.monotonic() - started >= STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self._log.say(f"{self.name} {end}; it starts again in {delay:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    async def _run(self) -> str:
        """Run it once; how it ended, as the rest of a sentence."""
        supervisor = os.getpid()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=self._family.environment(self.name),
                pass_fds=self._descriptors,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(supervisor),
            )
        except OSError as error:
            return f"cannot be started ({error})"
        self._on_start(self._process.pid)
        if self._is_stopping.is_set():
            # stop() came while the process was being made, and found nobody to ask.
            self._ask_to_finish()
        return _how_it_ended(await self._process.wait())

    def _ask_to_finish(self) -> None:
        # To the process alone and not to its group: a work horse that gets SIGTERM leaves its job as failed.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by {signal.Signals(-code).name}"
