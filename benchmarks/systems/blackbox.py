"""blackbox_exporter of Prometheus, where it is installed, asked by a local client that keeps many probes in flight.

The client is aiohttp on uvloop, with connections that stay open, as Prometheus's do. What it costs is not counted.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import aiohttp
import uvloop

from benchmarks.processes import Processes, free_port
from benchmarks.turns import System
from benchmarks.waiting import wait_until

COMMANDS = ("prometheus-blackbox-exporter", "blackbox_exporter")
"""Debian's name, and its own."""
_CONFIGURATION = """\
modules:
  bench:
    prober: http
    timeout: {timeout_seconds:g}s
    http:
      method: GET
      valid_status_codes: [200]
      preferred_ip_protocol: ip4
"""
_PATIENCE_SECONDS = 600.0


def installed() -> str | None:
    """Where it is; None: nowhere."""
    return next((found for name in COMMANDS if (found := shutil.which(name))), None)


class Blackbox(System):
    """Each of ``urls``, of which so many are ``good``, ``cycles`` times a turn, ``in_flight`` of them at once."""

    def __init__(
        self,
        urls: Sequence[str],
        good: int,
        *,
        cycles: int,
        in_flight: int,
        timeout_seconds: float,
        bundle_file: str,
    ) -> None:
        super().__init__()
        self._urls, self._good, self._cycles, self._in_flight = urls, good, cycles, in_flight
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._file = Path(self._folder.name, "blackbox.yml")
        self._file.write_text(_CONFIGURATION.format(timeout_seconds=timeout_seconds))
        # The ordinary authorities with ours among them, which it reads once; a ca_file would be read for each probe.
        self._processes = Processes(Path(self._folder.name), {"SSL_CERT_FILE": bundle_file})
        self._port = free_port()

    def __enter__(self) -> Self:
        command = installed()
        assert command is not None, "blackbox_exporter is not installed"
        listen = f"--web.listen-address=127.0.0.1:{self._port}"
        self._processes.start("blackbox", [command, f"--config.file={self._file}", listen, "--log.level=error"])
        wait_until(self._is_listening, 30, "an answer of blackbox_exporter")
        # Once before it counts: the authorities are read, connections are open.
        uvloop.run(self._probe(self._urls[: self._in_flight], cycles=1))
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self._folder.cleanup()

    def _is_listening(self) -> bool:
        self._processes.check()
        with closing(socket.socket()) as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def parts(self) -> Mapping[str, Sequence[int]]:
        return {"blackbox": [self._processes.pid("blackbox")]}

    def is_at_rest(self) -> bool:
        return True

    def work(self) -> tuple[int, int]:
        up = uvloop.run(self._probe(self._urls, cycles=self._cycles))
        return self._cycles * len(self._urls), abs(up - self._cycles * self._good)

    async def _probe(self, urls: Sequence[str], *, cycles: int) -> int:
        """Probe each, so many times, and say how many had success."""
        waiting = iter([url for _ in range(cycles) for url in urls])
        connector = aiohttp.TCPConnector(limit=self._in_flight)
        patience = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{self._port}", connector=connector, timeout=patience, auto_decompress=False
        ) as session:
            session.headers["Accept-Encoding"] = "identity"
            each = await asyncio.gather(*(self._probe_one_by_one(session, waiting) for _ in range(self._in_flight)))
        return sum(each)

    @staticmethod
    async def _probe_one_by_one(session: aiohttp.ClientSession, waiting: Iterator[str]) -> int:
        up = 0
        for url in waiting:
            async with session.get("/probe", params={"module": "bench", "target": url}) as answer:
                answer.raise_for_status()
                up += b"\nprobe_success 1\n" in await answer.read()
        return up
