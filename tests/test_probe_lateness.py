"""A loop that has its hands full does not blame the targets for it, nor does it flatter them."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared import signals
from shared.monitor import CheckResult, Reason, Verdict
from tests.probing import ca_path, finish, settings, target
from tests.probing import tls as server_side
from tests.sites import RawServer, Site, read_request
from tests.waiting import eventually
from worker.probe import Engine
from worker.probe.exchange import length_of
from worker.probe.lateness import Lateness
from worker.probe.witness import Witness

Handler = Callable[[socket.socket], None]

BUSY_SECONDS = 0.01
ANSWER_MS = 200
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def slow_listener() -> Iterator[None]:
    """Somebody who listens to the signals and takes his time."""

    def work(*_: object, **__: object) -> None:
        time.sleep(BUSY_SECONDS)

    with signals.check_started.connected_to(work), signals.check_retried.connected_to(work):
        yield


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def slow_answer(*pieces: bytes) -> Handler:
    """Answers with these pieces, the last of them late."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces[:-1]:
            connection.sendall(piece)
        time.sleep(ANSWER_MS / 1000)
        connection.sendall(pieces[-1])

    return answer


def answer_all(server: socket.socket) -> None:
    """Each connection in a thread of its own, for some never ask for anything."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if connection.recv(4096):
                connection.sendall(HEAD + b"ok")

    with suppress(OSError):  # It is shut down.
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def refused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


def seen_by_a_busy_loop(url: str, ca_file: str | None = None, **options: Any) -> CheckResult:
    """The result of a check, begun with so many others that fail at once that telling of them takes 0.6 s."""
    first = target(url, **{"retries": 0, "timeout": 10, **options})
    results: list[CheckResult] = []
    with signals.check_started.muted(), Engine(settings(max_per_host=1000), ca_file=ca_file) as probe:
        probe.add(first)
        elsewhere = refused_url()
        for _ in range(60):
            probe.add(target(elsewhere, retries=1, backoff_factor=0.05, timeout=10))
        deadline = time.monotonic() + 30
        while not results:
            assert time.monotonic() < deadline
            results = [result for result in probe.poll(0.1) if result.target_id == first.id]
    return results[0]


@pytest.mark.usefixtures("slow_listener")
@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((HEAD + b"ok",), id="at once"),
        pytest.param((HEAD, b"ok"), id="the body late"),
        pytest.param((HEAD[:20], HEAD[20:] + b"ok"), id="in the midst of the header"),
        pytest.param((b"HTTP/1.1 103 Early Hints\r\n\r\n", HEAD + b"ok"), id="behind an interim answer"),
        pytest.param((b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"ok"), id="to the end of the connection"),
    ],
)
def test_an_answer_came_when_it_came(
    pieces: tuple[bytes, ...], is_tls: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    context = server_side(authority.issue_cert("127.0.0.1")) if is_tls else None
    with RawServer(slow_answer(*pieces), tls=context) as site:
        result = seen_by_a_busy_loop(site.url(), ca_path(authority, tmp_path))
    (attempt,) = result.attempts
    assert attempt.status_code == 200
    assert attempt.phases["connect"] < ANSWER_MS
    assert attempt.elapsed_ms >= ANSWER_MS - 2
    if not is_tls or b"Content-Length" in pieces[-1] + pieces[0]:  # Else the farewell may come in just then.
        assert attempt.elapsed_ms < ANSWER_MS + 250


@pytest.mark.usefixtures("slow_listener")
def test_an_answer_behind_the_session_ticket_of_a_proxy_is_not_said_to_have_come_with_it(
    authority: trustme.CA, tmp_path: Path
) -> None:
    context = server_side(authority.issue_cert("127.0.0.1"))
    with RawServer(slow_answer(HEAD + b"ok"), tls=context) as proxy:
        url = proxy.url().rstrip("/")
        result = seen_by_a_busy_loop("http://127.0.0.9:1/", ca_path(authority, tmp_path), proxy=url)
    assert result.verdict is Verdict.UP
    assert result.attempts[0].elapsed_ms >= ANSWER_MS - 2


@pytest.mark.usefixtures("slow_listener")
def test_what_is_slow_by_itself_is_degraded_all_the_same() -> None:
    with RawServer(slow_answer(HEAD + b"ok")) as site:
        result = seen_by_a_busy_loop(site.url(), degraded_ms=ANSWER_MS - 50)
    assert result.verdict is Verdict.DEGRADED


@pytest.mark.usefixtures("slow_listener")
def test_what_is_slow_by_our_doing_is_not_degraded() -> None:
    with RawServer(slow_answer(HEAD + b"ok")) as site:
        result = seen_by_a_busy_loop(site.url(), degraded_ms=ANSWER_MS + 250)
    assert result.verdict is Verdict.UP


@pytest.mark.usefixtures("slow_listener")
@pytest.mark.parametrize("path", ["/silent", "/redirect"])
def test_a_timeout_takes_its_time(path: str) -> None:
    def answer(connection: socket.socket) -> None:
        if b"/redirect" in read_request(connection):
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /silent\r\nContent-Length: 0\r\n\r\n")
        else:
            server.closing.wait(10)

    with RawServer(answer) as server:
        result = seen_by_a_busy_loop(server.url(path), timeout=1)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.TIMEOUT)
    assert result.attempts[0].elapsed_ms > 900


@pytest.mark.usefixtures("slow_listener")
def test_many_that_begin_do_not_make_an_answer_late() -> None:
    """It comes 0.2 s before its deadline, in the midst of others whose beginning takes 1.3 s."""
    with RawServer(slow_answer(HEAD + b"ok")) as site, Site() as elsewhere:
        first = target(site.url(), retries=0, timeout=ANSWER_MS / 1000 + 0.2)
        with Engine(settings(max_per_host=1000)) as probe:
            probe.add(first)
            for number in range(128):
                probe.add(target(elsewhere.url(f"/?{number}"), retries=0, timeout=30))
            (result,) = (each for each in finish(probe, 30) if each.target_id == first.id)
    assert result.verdict is Verdict.UP


@pytest.mark.usefixtures("slow_listener")
@pytest.mark.parametrize("url", ["http://127.255.255.255:9/", "http://240.0.0.1/"])
def test_what_fails_at_once_is_told_at_once(url: str) -> None:
    with Engine(settings()) as probe:
        probe.add(target(url, retries=0, timeout=5))
        began = time.monotonic()
        (result,) = probe.poll(10)
    assert time.monotonic() - began < 2
    assert result.verdict is Verdict.DOWN


def test_one_address_that_fails_is_not_what_the_other_was_late_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is refused late, the second answers later, and both while the loop has its hands full."""

    def both(_host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with ExitStack() as stack:
        second = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = second.getsockname()[1]
        first = stack.enter_context(socket.create_server(("::1", port), family=socket.AF_INET6, backlog=0))
        for address in (("127.0.0.1", port), ("::1", port)) * 2:  # Nobody else gets a place in the backlog.
            filling = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET))
            filling.setblocking(False)
            filling.connect_ex(address)
        began = time.monotonic()
        probe = stack.enter_context(Engine(settings()))
        probe.add(target(f"http://both.example:{port}/", retries=0, timeout=10))
        results = probe.poll(0.5)
        first.close()  # The next SYN to it, a second after the first one, is refused.
        threading.Thread(target=answer_all, args=(second,), daemon=True).start()
        results += probe.poll(max(0.0, began + 0.95 - time.monotonic()))
        assert not results
        while time.monotonic() < began + 1.6:  # The next SYN to the other goes out 0.2 s later.
            probe._wire.hear()
        ended = finish(probe, 30)
        second.shutdown(socket.SHUT_RDWR)
    (attempt,) = ended[0].attempts
    assert attempt.status_code == 200
    assert attempt.phases["connect"] > 1150


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one, over TCP: ours first."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            yield ours, theirs


@pytest.mark.parametrize(
    ("is_read", "comes", "is_whole", "is_certain"),
    [
        pytest.param(True, b"", False, True, id="nothing more"),
        pytest.param(True, b"more", False, True, id="more that nobody reads"),
        pytest.param(False, b"more", False, False, id="more that is read"),
        pytest.param(True, None, True, True, id="the end behind a whole answer"),
        pytest.param(True, None, False, False, id="the end of what only that ends"),
        pytest.param(False, b"more", True, False, id="the rest of an answer"),
    ],
)
def test_a_witness_says_what_came_in_meanwhile(
    is_read: bool, comes: bytes | None, is_whole: bool, is_certain: bool
) -> None:
    with connection() as (ours, theirs):
        theirs.sendall(b"answer")
        assert select.select([ours], [], [], 5)[0]
        witness = Witness.of(ours.fileno())
        assert witness is not None
        if is_read:
            assert ours.recv(6) == b"answer"
        if comes is None:
            theirs.shutdown(socket.SHUT_WR)
        else:
            theirs.sendall(comes)
        if comes != b"":
            assert select.select([ours], [], [], 5)[0]
        if not is_read:
            eventually(lambda: ours.recv(20, socket.MSG_PEEK) == b"answer" + (comes or b""), 5)
            assert ours.recv(20)
        if is_whole:
            witness.look()
        ours.close()
        assert witness.leave() is is_certain


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_is_read_behind_the_last_piece_is_its_end_unless_that_is_known(is_whole: bool) -> None:
    """The last chunk of a body, which is empty, is no piece of it; the farewell of TLS may be all that ends it."""
    with connection() as (ours, theirs):
        theirs.sendall(b"answer")
        assert ours.recv(6) == b"answer"
        witness = Witness.of(ours.fileno())
        assert witness is not None
        if is_whole:
            witness.look()
        theirs.sendall(b"0")
        assert ours.recv(1) == b"0"
        assert witness.leave() is is_whole


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((b"Content-Length: 12",), 12),
        ((b"content-length:0",), 0),
        ((b"X-Length: 12",), None),
        ((b"Content-Length: 12", b"Content-Encoding: gzip"), None),
        ((b"Content-Length: 12", b"Transfer-Encoding: chunked"), None),
        ((b"Content-Length: -1",), None),
        ((b"Content-Length: 12, 12",), None),
        ((b"Content-Length: " + b"9" * 5000,), None),
        ((), None),
    ],
)
def test_how_long_an_answer_says_that_it_is(lines: tuple[bytes, ...], length: int | None) -> None:
    assert length_of([b"HTTP/1.1 200 OK\r\n", *(line + b"\r\n" for line in lines)]) == length


@pytest.mark.parametrize(
    ("begun", "end", "late_ms"),
    [
        (0, 1_500_000, 300.0),  # It ended when that was handed over.
        (1_500_000, 3_500_000, 700.0),  # What ended it counts, not what was handed over before.
        (3_500_000, 4_500_000, 0.0),  # It ended by itself.
        (0, 500_000, 0.0),
    ],
)
def test_a_phase_is_late_by_what_ended_it(
    begun: int, end: int, late_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Lateness()
    assert not account.is_known
    assert account.milliseconds(begun, end) == account.last_ms == 0
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    account.begin()
    monkeypatch.setattr(time, "monotonic", lambda: 101.0)
    account.begin()  # A second socket: libcurl counts from the first.
    for now, seconds in ((101.0, 0.3), (102.0, 0.5), (103.0, 0.7)):
        account.note(now, seconds)
    assert account.is_known
    assert account.milliseconds(begun, end) == pytest.approx(late_ms)
    assert account.last_ms == pytest.approx(700)
