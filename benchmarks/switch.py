"""A site on many addresses of loopback that answers all requests, or takes them and says nothing, as it is told.

A process of its own, which listens at one port of each address: 127.0.0.1, 127.0.0.2 and so on.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_BACKLOG = 4000


def address(number: int) -> str:
    """The address of that number, from 0: none ends in 0 or 255."""
    rest, last = divmod(number, 250)
    return f"127.0.{rest}.{last + 1}"


class Switch:
    """The site, as who tells it what to do sees it; it answers at first."""

    def __init__(self, addresses: int = 1) -> None:
        self._addresses = addresses
        self._process: subprocess.Popen[str]
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.switch", str(self._addresses)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = self._heard()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process as process:
            process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, number: int) -> str:
        """The URL of the target of that number: the addresses take turns."""
        return f"http://{address(number % self._addresses)}:{self.port}/{number}"

    def answer(self) -> None:
        """Answer what is asked from now on; who has been asking goes on hanging."""
        self._say("answer")

    def hang(self) -> None:
        self._say("hang")

    def connections(self) -> int:
        """How many are open now."""
        return self._say("count")

    def _say(self, word: str) -> int:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)
        return self._heard()

    def _heard(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


# --- the process ---------------------------------------------------------------------------------------------------


class _Site:
    def __init__(self) -> None:
        self.is_answering = True
        self.open = 0


class _Connection(asyncio.Protocol):
    def __init__(self, site: _Site) -> None:
        self._site = site
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._site.open += 1

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._site.open -= 1

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n") and self._site.is_answering:
            self._transport.write(_ANSWER)
            self._transport.close()


async def _serve(addresses: int) -> None:
    loop, site = asyncio.get_running_loop(), _Site()
    port = 0
    for number in range(addresses):
        listener = socket.create_server((address(number), port), backlog=_BACKLOG)
        port = listener.getsockname()[1]
        await loop.create_server(lambda: _Connection(site), sock=listener, backlog=_BACKLOG)
    print(port, flush=True)
    # Whoever started this process holds its standard input: it ends when they do, whatever ends them.
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if word != "count":
            site.is_answering = word == "answer"
        print(site.open, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
