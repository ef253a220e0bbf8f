"""Small real servers for tests: :class:`Site` speaks HTTP as the test writes it, :class:`RawServer` breaks it.

:class:`HttpProxy` and :class:`SocksProxy` forward to them, :class:`Http2Site` speaks HTTP/2.

Each listens on 127.0.0.1 at a free port, serves every connection in a thread of its own, and leaves nothing running
when its ``with`` block ends.

    with Site() as site:
        site.routes["/slow"] = Answer(200, b"at last", delay_seconds=1)
        site.routes["/flaky"] = [Answer(504), Answer(200)]        # one after the other; the last one stays
        site.routes["/echo"] = lambda request: Answer(200, request.body)
        requests.get(site.url("/slow"))
        assert site.count("/slow") == 1
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

Handler = Callable[[socket.socket], None]


def reset(connection: socket.socket) -> None:
    """Closes with a TCP reset in place of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_request(connection: socket.socket) -> bytes:
    """Reads up to the empty line that ends a request's header; b"" when the peer has gone."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
    return received


class RawServer:
    """Calls ``handler`` with each new connection, in a thread; the connection is closed when it returns.

    Without a handler it accepts connections and stays silent. A handler may block in ``recv`` or on ``closing`` (say,
    ``server.closing.wait()``): both end when the server does. An OSError that it meets is the peer's leaving.
    """

    def __init__(
        self, handler: Handler | None = None, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.closing = threading.Event()
        self.connections = 0
        """How many there were."""
        self._handler = handler or self._say_nothing
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._address = address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]

    @property
    def scheme(self) -> str:
        return "https" if self._tls else "http"

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        socket.create_connection((self._address, self.port)).close()  # Wakes the thread that accepts.
        with self._lock:
            for connection in self._open:
                _shut(connection)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a handler of this server does not end"
        self._listener.close()

    def _say_nothing(self, _connection: socket.socket) -> None:
        self.closing.wait()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                if self.closing.is_set():
                    connection.close()
                    return
                self.connections += 1
                self._open.add(connection)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        wrapped = connection
        try:
            if self._tls:
                wrapped = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.add(wrapped)
                    if self.closing.is_set():
                        return
            self._handler(wrapped)
        except OSError:
            pass  # ssl.SSLError is one, too.
        finally:
            with self._lock:
                self._open -= {connection, wrapped}
            _shut(wrapped)
            wrapped.close()
            connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # The peer has gone, or it is closed already.
        connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Received:
    """One request as it came. ``path`` is without the query; names of ``headers`` are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    version: str = "HTTP/1.1"


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    delay_seconds: float = 0.0
    """How long to wait before the first byte."""
    version: str = "1.1"

    def encode(self) -> bytes:
        phrase = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else "Unknown"
        lines = [
            f"HTTP/{self.version} {self.status} {phrase}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Route = Answer | Sequence[Answer] | Callable[[Received], Answer]


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status, headers=[("Location", location)])


class Site(RawServer):
    """An HTTP/1.1 site. ``routes`` maps a path to what is answered there; any other path is a 404.

    ``requests`` is everything that was asked, in order. With ``tls``, a context that trustme configured, it is https.
    """

    def __init__(
        self,
        routes: dict[str, Route] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__(self._answer, tls=tls, address=address)
        self.routes: dict[str, Route] = routes if routes is not None else {"/": Answer(200, b"fine")}
        self.requests: list[Received] = []

    def count(self, path: str) -> int:
        """How often ``path`` was asked for."""
        return sum(request.path == path for request in list(self.requests))

    def _answer(self, connection: socket.socket) -> None:
        raw = read_request(connection)
        if not raw:
            return
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        path, _, query = target.partition("?")
        request = Received(method, path, query, headers, body, version)
        with self._lock:
            self.requests.append(request)
            route = self.routes.get(path, Answer(404))
            if isinstance(route, Sequence):
                route, *rest = route
                self.routes[path] = rest or route
        answer = route if isinstance(route, Answer) else route(request)
        if answer.delay_seconds:
            self.closing.wait(answer.delay_seconds)
        connection.sendall(answer.encode())


def _join(one: socket.socket, other: socket.socket) -> None:
    """Copies both ways until either side ends."""
    both = [one, other]
    while True:
        for ready in select.select(both, [], [])[0]:
            chunk = ready.recv(65536)
            if not chunk:
                return
            (other if ready is one else one).sendall(chunk)


class HttpProxy(RawServer):
    """An HTTP proxy: CONNECT, and requests with a whole URL. With ``credentials``, "name:password", it wants them.

    ``heads`` are the headers of what it was asked, as they came. Whatever name it is asked for, it goes to 127.0.0.1.
    """

    def __init__(
        self, *, credentials: str | None = None, refusal: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(self._forward, tls=tls)
        self.heads: list[str] = []
        self._credentials = credentials
        self._refusal = refusal

    def _forward(self, connection: socket.socket) -> None:
        raw = read_request(connection)
        if not raw:
            return
        head = raw.partition(b"\r\n\r\n")[0].decode("latin-1")
        self.heads.append(head)
        wanted = b64encode((self._credentials or "").encode()).decode()
        if self._credentials and f"proxy-authorization: basic {wanted}".lower() not in head.lower():
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if self._refusal:
            connection.sendall(f"HTTP/1.1 {self._refusal} No\r\nX-Proxy: yes\r\nContent-Length: 0\r\n\r\n".encode())
            return
        method, place, _ = head.split(" ", 2)
        is_tunnel = method == "CONNECT"
        port = int((place if is_tunnel else urlsplit(place).netloc).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as onward:
            if is_tunnel:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
            else:
                path = urlsplit(place)._replace(scheme="", netloc="").geturl()
                onward.sendall(raw.replace(place.encode(), path.encode(), 1))
            _join(connection, onward)


class SocksProxy(RawServer):
    """A SOCKS5 proxy (RFC 1928), without a sign-in. ``asked`` is what it was asked for: ``("name", "x.example")``.

    It goes to 127.0.0.1, whatever it was asked for, or answers with ``reply``.
    """

    def __init__(self, *, reply: int = 0) -> None:
        super().__init__(self._forward)
        self.asked: list[tuple[str, str]] = []
        self._reply = reply

    def _forward(self, connection: socket.socket) -> None:
        _, methods = connection.recv(2)
        connection.recv(methods)
        connection.sendall(b"\x05\x00")
        kind = connection.recv(4)[3]
        if kind == 3:
            name = connection.recv(connection.recv(1)[0]).decode()
            self.asked.append(("name", name))
        else:
            family, length = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            self.asked.append(("address", socket.inet_ntop(family, connection.recv(length))))
        port = int.from_bytes(connection.recv(2), "big")
        connection.sendall(bytes([5, self._reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        if self._reply:
            return
        with socket.create_connection(("127.0.0.1", port)) as onward:
            _join(connection, onward)


class Http2Site(RawServer):
    """Speaks HTTP/2, with TLS as ALPN has it, without TLS at once; every path answers 200 and ``body``.

    ``requests`` is everything that was asked, ``:authority`` standing for the host.
    """

    def __init__(self, body: bytes = b"fine", *, tls: ssl.SSLContext | None = None) -> None:
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        super().__init__(self._answer, tls=tls)
        self.requests: list[Received] = []
        self._body = body

    def _answer(self, connection: socket.socket) -> None:
        http2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http2.initiate_connection()
        connection.sendall(http2.data_to_send())
        while received := connection.recv(65536):
            for event in http2.receive_data(received):
                if isinstance(event, RequestReceived) and event.stream_id is not None:
                    headers = {str(name): str(value) for name, value in event.headers or ()}
                    method, path = headers[":method"], headers[":path"]
                    self.requests.append(Received(method, path, "", headers, b"", "HTTP/2"))
                    http2.send_headers(event.stream_id, [(":status", "200"), ("server", "two")])
                    http2.send_data(event.stream_id, self._body, end_stream=True)
            connection.sendall(http2.data_to_send())
