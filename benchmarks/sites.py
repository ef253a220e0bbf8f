"""The sites that are asked: a process of their own, so that what they cost is not taken for what a check costs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import certifi
import trustme

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 21))
"""Twenty addresses: from one to one there are 28,000 ports, and a port rests for a minute after its connection."""
_BACKLOG = 4000
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_HANGING = 20
"""Of so many targets of the kind ``hanging 5 %`` one hangs."""
KINDS = ("http", "https", "hanging 5 %", "all hanging", "all refused")


@dataclass(frozen=True, slots=True)
class Sites:
    """Where they listen: ports, the same at each of ``HOSTS``; nobody listens at ``refused``.

    ``ca_file`` holds the authority of the HTTPS one (PEM), ``bundle_file`` the ordinary ones as well.
    """

    http_port: int
    https_port: int
    hanging_port: int
    refused_port: int
    ca_file: str
    bundle_file: str

    @property
    def http(self) -> str:
        return f"http://{HOSTS[0]}:{self.http_port}"

    @property
    def https(self) -> str:
        return f"https://{HOSTS[0]}:{self.https_port}"

    @property
    def hanging(self) -> str:
        return f"http://{HOSTS[0]}:{self.hanging_port}"

    def urls(self, kind: str, count: int) -> list[str]:
        """``count`` different targets of one of ``KINDS``, spread over all addresses."""
        return [self._url(kind, number) for number in range(count)]

    def _url(self, kind: str, number: int) -> str:
        host = HOSTS[number // _HANGING % len(HOSTS)]
        hangs = kind == "all hanging" or (kind == "hanging 5 %" and number % _HANGING == 0)
        if kind == "https":
            return f"https://{host}:{self.https_port}/{number}"
        port = self.hanging_port if hangs else self.refused_port if kind == "all refused" else self.http_port
        return f"http://{host}:{port}/{number}"


def good(kind: str, count: int) -> int:
    """How many of so many targets of a kind are up."""
    return {"http": count, "https": count, "hanging 5 %": count - -(-count // _HANGING)}.get(kind, 0)


@contextmanager
def sites(folder: Path) -> Iterator[Sites]:
    """Three sites in one process: one answers at once, one does so over TLS, one takes a request and says nothing."""
    authority = trustme.CA()
    ca_file, bundle_file, identity = folder / "ca.pem", folder / "bundle.pem", folder / "identity.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    bundle_file.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
    # As certificates are in public: an elliptic key, and an authority in between that the server shows, too.
    certificate = authority.create_child_ca().issue_cert(*HOSTS)
    certificate.private_key_and_cert_chain_pem.write_to_path(str(identity))
    command = [sys.executable, "-m", "benchmarks.sites", str(identity)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        http, https, hanging, refused = json.loads(process.stdout.readline())
        try:
            yield Sites(http, https, hanging, refused, str(ca_file), str(bundle_file))
        finally:
            process.kill()


class _Answering(asyncio.Protocol):
    """Says 200 to a request and closes: whoever closes first has the port that rests."""

    _transport: asyncio.Transport
    _head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._transport.write(_ANSWER)
            self._transport.close()


async def _serve(identity: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity)
    http, https = await _listen(_Answering), await _listen(_Answering, context)
    hanging = await _listen(asyncio.Protocol)
    # Bound, so that nobody else takes the port, and without listen(): connections are refused.
    with socket.socket() as refusing:
        refusing.bind(("0.0.0.0", 0))
        print(json.dumps([http, https, hanging, refusing.getsockname()[1]]), flush=True)
        # Whoever started this process holds its standard input: it ends when they do, whatever ends them.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _listen(protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None = None) -> int:
    """Serve at one port of all addresses, which is returned."""
    port = 0
    for host in HOSTS:
        server = await asyncio.get_running_loop().create_server(protocol, host, port, ssl=context, backlog=_BACKLOG)
        port = server.sockets[0].getsockname()[1]
    return port


if __name__ == "__main__":
    import uvloop  # needed by this process alone

    uvloop.run(_serve(sys.argv[1]))
