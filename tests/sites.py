"""Small real servers for tests: :class:`Site` speaks HTTP as the test writes it, :class:`RawServer` breaks it.

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

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

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

    def __init__(self, handler: Handler | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.closing = threading.Event()
        self.connections = 0
        """How many there were."""
        self._handler = handler or self._say_nothing
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
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
        socket.create_connection(("127.0.0.1", self.port)).close()  # Wakes the thread that accepts.
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


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    delay_seconds: float = 0.0
    """How long to wait before the first byte."""

    def encode(self) -> bytes:
        phrase = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}", f"Content-Length: {len(self.body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Route = Answer | Sequence[Answer] | Callable[[Received], Answer]


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status, headers=[("Location", location)])


class Site(RawServer):
    """An HTTP/1.1 site. ``routes`` maps a path to what is answered there; any other path is a 404.

    ``requests`` is everything that was asked, in order. With ``tls``, a context that trustme configured, it is https.
    """

    def __init__(self, routes: dict[str, Route] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._answer, tls=tls)
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
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        path, _, query = target.partition("?")
        request = Received(method, path, query, headers, body)
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
