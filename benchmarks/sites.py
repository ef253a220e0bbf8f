"""The sites that are asked: a process of their own, so that what they cost is not taken for what a check costs."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Sites:
    """Where they listen, all on loopback, and the authority that signed for the HTTPS one (a PEM file)."""

    http: str
    https: str
    hanging: str
    ca_file: str


@contextmanager
def sites(folder: Path) -> Iterator[Sites]:
    """Three sites in one process: one answers at once, one does so over TLS, one takes a request and says nothing."""
    authority = trustme.CA()
    ca_file, identity = folder / "ca.pem", folder / "identity.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(identity))
    command = [sys.executable, "-m", "benchmarks.sites", str(identity)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        http, https, hanging = json.loads(process.stdout.readline())
        try:
            yield Sites(
                f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", f"http://127.0.0.1:{hanging}", str(ca_file)
            )
        finally:
            process.kill()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWER)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # The one who asks may go at any time.
    finally:
        writer.close()


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.read()  # Until the other side gives up.
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _serve(identity: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity)
    servers = [
        await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4000),
        await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4000, ssl=context),
        await asyncio.start_server(_hang, "127.0.0.1", 0, backlog=4000),
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    # Whoever started this process holds its standard input: it ends when they do, whatever ends them.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
