"""The probe against real local servers: httpbin for the ordinary, hand-written ones for the broken."""

import errno
import gzip
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import brotlicffi  # type: ignore[import-untyped]
import pycurl
import pytest
import trustme
from werkzeug.serving import make_server

from shared.monitor import PHASES, Check, CheckResult, Reason, Target, Verdict
from shared.settings import Settings
from shared.signals import check_retried, check_started
from tests.sites import Answer, RawServer, Received, Site, read_request, redirect, reset
from worker.probe import Engine
from worker.probe.failure import Circumstances, failure_of
from worker.probe.run import CheckRun

Connection = socket.socket


def settings(**overrides: Any) -> Settings:
    return Settings(_env_file=None, **{"default_backoff_factor": 0.01, **overrides})


def target(endpoint: str, **options: Any) -> Target:
    # Not validated: the probe has to hold what the API refuses, too, because names and redirects lead there.
    return Target(endpoint, Check.model_construct(endpoint=endpoint, **options), revision=7, created_at=0)


def finish(probe: Engine, seconds: float = 15) -> list[CheckResult]:
    """Everything in flight, in the order in which it ends."""
    results: list[CheckResult] = []
    deadline = time.monotonic() + seconds
    while probe.in_flight:
        assert time.monotonic() < deadline, f"not finished: {probe.target_ids}"
        results += probe.poll(1)
    return results


def check(
    endpoint: str,
    *,
    with_settings: Settings | None = None,
    ca_file: str | None = None,
    **options: Any,
) -> CheckResult:
    """One check, without retries unless ``options`` say otherwise."""
    with Engine(with_settings or settings(), ca_file=ca_file) as probe:
        probe.add(target(endpoint, **{"retries": 0, "timeout": 5, **options}))
        (result,) = finish(probe)
    return result


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from httpbin import app
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def resolve(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]], silent: threading.Event) -> None:
    """Replaces the system's resolver: ``names`` have addresses, all others no answer before ``silent`` is set."""

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        if host not in names:
            silent.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# --- the ordinary --------------------------------------------------------------------------------------------------


def test_a_good_answer_is_up_with_its_phases_and_no_others(site: Site) -> None:
    site.routes["/"] = Answer(200, b"fine", delay_seconds=0.1)
    result = check(site.url())
    assert result.verdict is Verdict.UP
    assert (result.reason, result.sentence, result.status_code) == (None, None, 200)
    assert set(result.phases) == {"connect", "wait", "transfer"}
    assert result.bottleneck == "wait"
    assert result.phases["wait"] > 90
    assert sum(result.phases.values()) == pytest.approx(result.elapsed_ms)
    assert result.last is not None
    assert result.last.address == f"127.0.0.1:{site.port}"
    assert result.last.phase is None


def test_a_result_carries_what_identifies_it(site: Site) -> None:
    before = int(time.time() * 1000)
    with Engine(settings()) as probe:
        probe.add(target(site.url()), scheduled_at=123)
        (result,) = finish(probe)
    assert (result.target_id, result.revision, result.scheduled_at) == (site.url(), 7, 123)
    assert before <= result.started_at <= result.finished_at <= int(time.time() * 1000)


def test_a_name_has_a_dns_phase(site: Site) -> None:
    result = check(site.url(host="localhost"))
    assert result.verdict is Verdict.UP
    assert list(result.phases) == [phase for phase in PHASES if phase != "tls"]


def test_one_plain_request_is_sent(site: Site) -> None:
    check(site.url("/path?a=b c&d=\u00e9"))
    (request,) = site.requests
    assert (request.method, request.path, request.query) == ("GET", "/path", "a=b%20c&d=%C3%A9")
    assert request.headers["user-agent"].startswith("http-monitoring/")
    assert request.headers["accept"] == "*/*"
    assert "gzip" in request.headers["accept-encoding"]
    assert "cookie" not in request.headers


def test_the_environment_has_no_proxy_for_the_probe(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert check(site.url()).verdict is Verdict.UP


def test_every_check_is_a_connection_of_its_own(site: Site) -> None:
    with Engine(settings()) as probe:
        for _ in range(3):
            probe.add(target(site.url()))
            finish(probe)
    assert site.connections == 3


@pytest.mark.parametrize(
    ("path", "expected", "verdict"),
    [
        ("/status/200", 200, Verdict.UP),
        ("/status/204", 204, Verdict.UP),
        ("/status/404", 404, Verdict.UP),
        ("/status/404", 200, Verdict.DOWN),
        ("/status/418", 200, Verdict.DOWN),
        ("/status/504", 504, Verdict.UP),  # It is in error_codes, and is what is expected.
        ("/delay/1", 200, Verdict.UP),
        ("/gzip", 200, Verdict.UP),
        ("/brotli", 200, Verdict.UP),
        ("/deflate", 200, Verdict.UP),
        ("/redirect/3", 200, Verdict.UP),
        ("/absolute-redirect/3", 200, Verdict.UP),
        ("/redirect/3", 302, Verdict.UP),
        ("/status/304", 304, Verdict.UP),
        ("/basic-auth/anna/secret", 200, Verdict.DOWN),
        ("/drip?duration=0.3&numbytes=5&code=200", 200, Verdict.UP),
        ("/bytes/100000", 200, Verdict.UP),
        ("/stream/5", 200, Verdict.UP),
    ],
)
def test_httpbin(httpbin: str, path: str, expected: int, verdict: Verdict) -> None:
    result = check(httpbin + path, expected_http_code=expected)
    assert result.verdict is verdict
    assert result.reason is (None if verdict is Verdict.UP else Reason.STATUS)
    assert len(result.attempts) == 1


def test_the_user_name_and_password_of_a_url_are_used(httpbin: str) -> None:
    endpoint = httpbin.replace("//", "//anna:s%C3%A9cret@") + "/basic-auth/anna/s\u00e9cret"
    assert check(endpoint).status_code in (200, 401)
    plain = httpbin.replace("//", "//anna:secret@") + "/basic-auth/anna/secret"
    assert check(plain).verdict is Verdict.UP


def test_a_switch_of_protocols_can_be_expected() -> None:
    with RawServer(answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")) as server:
        assert check(server.url(), expected_http_code=101).verdict is Verdict.UP


# --- expected and got, retries -------------------------------------------------------------------------------------


def test_another_status_is_down_at_once(site: Site) -> None:
    site.routes["/"] = Answer(500)
    result = check(site.url(), retries=3)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.STATUS)
    assert result.sentence == "expected 200, got 500"
    assert site.count("/") == 1


def test_a_504_is_tried_again_and_every_attempt_is_seen(site: Site) -> None:
    site.routes["/"] = [Answer(504), Answer(200)]
    result = check(site.url(), retries=3)
    assert result.verdict is Verdict.UP
    assert [(attempt.status_code, attempt.reason) for attempt in result.attempts] == [(504, Reason.STATUS), (200, None)]


def test_retries_end(site: Site) -> None:
    site.routes["/"] = Answer(504)
    result = check(site.url(), retries=3)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.STATUS)
    assert result.sentence == "expected 200, got 504"
    assert [attempt.status_code for attempt in result.attempts] == [504] * 4
    assert site.count("/") == 4


def test_waits_grow_as_the_policy_of_urllib3_says(site: Site) -> None:
    site.routes["/"] = Answer(504)
    result = check(site.url(), retries=3, backoff_factor=0.1)
    starts = [attempt.started_at for attempt in result.attempts]
    waits = [later - sooner for sooner, later in pairwise(starts)]
    assert waits[0] < 150  # At once: the wait comes before the second retry.
    assert 190 <= waits[1] < 390
    assert 390 <= waits[2] < 690


def test_a_503_is_tried_again_only_when_it_is_an_error_code(site: Site) -> None:
    site.routes["/"] = Answer(503, headers=[("Retry-After", "60")])
    assert len(check(site.url(), retries=2).attempts) == 1
    assert len(check(site.url(), retries=2, error_codes=(503,)).attempts) == 3
    assert len(check(site.url(), retries=2, with_settings=settings(default_error_codes="503,504")).attempts) == 3


def test_a_failed_connection_is_tried_again() -> None:
    answers = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]

    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(answers.pop(0))

    with RawServer(handler) as server:
        result = check(server.url(), retries=3)
    assert result.verdict is Verdict.UP
    assert [attempt.reason for attempt in result.attempts] == [Reason.RESET, None]


def test_signals_tell_of_starts_and_retries(site: Site) -> None:
    site.routes["/"] = [Answer(504), Answer(200)]
    told: list[tuple[str, Any]] = []

    def started(_sender: object, target: Target, at: int) -> None:
        told.append(("started", (target.id, at > 0)))

    def retried(_sender: object, target: Target, attempt: Any, wait_ms: int) -> None:
        told.append(("retried", (target.id, attempt.status_code, wait_ms)))

    with check_started.connected_to(started), check_retried.connected_to(retried):
        check(site.url(), retries=3)
    assert told == [("started", (site.url(), True)), ("retried", (site.url(), 504, 0))]


# --- connections that fail -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_closed_port_is_refused() -> None:
    port = free_port()
    result = check(f"http://127.0.0.1:{port}/", retries=1)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.REFUSED)
    assert result.sentence == f"connection refused by 127.0.0.1:{port}"
    assert len(result.attempts) == 2
    assert result.last is not None
    assert (result.last.phase, result.last.address, result.last.status_code) == ("connect", None, None)
    assert set(result.phases) == {"connect"}


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    result = check("http://nothing.example/")
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.DNS)
    assert result.sentence == "the name nothing.example does not resolve"
    assert result.last is not None
    assert result.last.phase == "dns"
    assert set(result.phases) == {"dns"}


def test_names_with_silent_servers_hold_up_no_other_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    resolve(monkeypatch, {"fast.example": ["127.0.0.1"]}, silent)
    with Engine(settings()) as probe:
        for number in range(60):
            probe.add(target(f"http://slow{number}.example/", timeout=1, retries=0))
        assert probe.poll(0.1) == []
        began = time.monotonic()
        probe.add(target(site.url(host="fast.example")))
        (fast,) = probe.poll(5)
        assert fast.verdict is Verdict.UP
        assert time.monotonic() - began < 0.8
        results = finish(probe)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5  # Closing does not wait for them either.
    silent.set()
    assert {result.reason for result in results} == {Reason.TIMEOUT}
    assert "no answer within 1 s: slow7.example was still being resolved" in {result.sentence for result in results}
    assert {result.last.phase for result in results if result.last} == {"dns"}


@pytest.mark.parametrize(
    ("error", "os_error", "phase", "reason"),
    [
        (pycurl.E_COULDNT_CONNECT, errno.ECONNREFUSED, "connect", Reason.REFUSED),
        (pycurl.E_COULDNT_CONNECT, errno.EHOSTUNREACH, "connect", Reason.UNREACHABLE),
        (pycurl.E_COULDNT_CONNECT, errno.ENETUNREACH, "connect", Reason.UNREACHABLE),
        (pycurl.E_COULDNT_CONNECT, errno.ETIMEDOUT, "connect", Reason.TIMEOUT),
        (pycurl.E_COULDNT_CONNECT, errno.EADDRNOTAVAIL, "connect", Reason.INTERNAL),
        (pycurl.E_COULDNT_CONNECT, errno.EMFILE, "connect", Reason.INTERNAL),
        (pycurl.E_COULDNT_CONNECT, errno.ENOBUFS, "connect", Reason.INTERNAL),
        (pycurl.E_COULDNT_CONNECT, 0, "connect", Reason.INTERNAL),
        (pycurl.E_OPERATION_TIMEDOUT, 0, "wait", Reason.TIMEOUT),
        (pycurl.E_OPERATION_TIMEDOUT, errno.EINPROGRESS, "connect", Reason.TIMEOUT),
        (pycurl.E_SSL_CONNECT_ERROR, 0, "tls", Reason.TLS),
        (pycurl.E_SSL_CONNECT_ERROR, errno.ECONNRESET, "tls", Reason.RESET),
        (pycurl.E_PEER_FAILED_VERIFICATION, 0, "tls", Reason.CERTIFICATE),
        (pycurl.E_RECV_ERROR, errno.ECONNRESET, "wait", Reason.RESET),
        (pycurl.E_SEND_ERROR, errno.EPIPE, "wait", Reason.RESET),
        (pycurl.E_GOT_NOTHING, 0, "wait", Reason.RESET),
        (pycurl.E_PARTIAL_FILE, 0, "transfer", Reason.RESET),
        (pycurl.E_HTTP2, 0, "wait", Reason.PROTOCOL),
        (92, 0, "transfer", Reason.PROTOCOL),
        (pycurl.E_OUT_OF_MEMORY, 0, "connect", Reason.INTERNAL),
        (pycurl.E_WRITE_ERROR, 0, "transfer", Reason.INTERNAL),  # A callback of ours broke.
        (pycurl.E_SSL_CACERT_BADFILE, 0, "tls", Reason.INTERNAL),
        (pycurl.E_FAILED_INIT, 0, "connect", Reason.INTERNAL),
    ],
)
def test_numbers_become_reasons(error: int, os_error: int, phase: str, reason: Reason) -> None:
    seen = Circumstances(error, os_error, "", phase, {"connect": 1.0}, 5.0, 0, "192.0.2.1:80")
    assert failure_of(seen).reason is reason


# --- broken answers ------------------------------------------------------------------------------------------------


def answering(answer: bytes) -> Any:
    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(answer)

    return handler


SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_an_answer_that_breaks_off_anywhere_is_down(ending: str) -> None:
    def handler(connection: Connection) -> None:
        length = int(read_request(connection).split()[1][1:])
        connection.sendall(SHORT[:length])
        if ending == "reset":
            reset(connection)

    with RawServer(handler) as server, Engine(settings()) as probe:
        for length in range(len(SHORT)):
            probe.add(target(server.url(f"/{length}"), retries=0))
        results = finish(probe)
    assert len(results) == len(SHORT)
    for result in results:
        assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.RESET), (result.target_id, result.sentence)


@pytest.mark.parametrize(
    ("answer", "reason", "phase"),
    [
        (b"hello, this is HTTP/0.9", Reason.PROTOCOL, "wait"),
        (b"\x00\xff\x80garbage\r\n\r\n" * 100, Reason.PROTOCOL, "wait"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Reason.PROTOCOL, "wait"),
        (b"HTTP/7.3 200 OK\r\n\r\n", Reason.PROTOCOL, "wait"),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", Reason.PROTOCOL, "wait"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip at all", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Line: x\r\n" * 400 + b"\r\n", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400_000 + b"\r\n\r\n", Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 400, Reason.PROTOCOL, "transfer"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n", Reason.PROTOCOL, None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", Reason.PROTOCOL, None),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", Reason.PROTOCOL, None),
        (b"HTTP/1.1 302 Found\r\n\r\n", Reason.STATUS, None),
    ],
)
def test_what_is_no_valid_answer_is_named(answer: bytes, reason: Reason, phase: str | None) -> None:
    with RawServer(answering(answer)) as server:
        result = check(server.url())
    assert (result.verdict, result.reason) == (Verdict.DOWN, reason)
    assert result.last is not None
    assert result.last.phase == phase


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X-Endless: header\r\n"])
def test_a_header_without_end_ends(piece: bytes) -> None:
    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" if b"X" in piece[:1] else b"")
        while True:
            connection.sendall(piece * 100)

    with RawServer(handler) as server:
        began = time.monotonic()
        result = check(server.url(), timeout=5)
    assert result.reason is Reason.PROTOCOL
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("at_once", "slowly", "phase"),
    [
        (b"", b"", "wait"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"", "transfer"),
        (b"", b"HTTP/1.1 200 OK\r\n", "wait"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Slow: " + b"x" * 100, "transfer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"x" * 100, "transfer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 4, "transfer"),
    ],
    ids=["silence", "silence after the header", "slow first line", "slow header", "slow body", "slow continue"],
)
def test_a_timeout_bounds_the_whole_attempt(at_once: bytes, slowly: bytes, phase: str) -> None:
    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(at_once)
        for number in range(len(slowly)):
            connection.sendall(slowly[number : number + 1])
            server.closing.wait(0.05)
        server.closing.wait()

    with RawServer(handler) as server:
        began = time.monotonic()
        result = check(server.url(), timeout=0.6)
        took = time.monotonic() - began
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.TIMEOUT)
    assert 0.6 <= took < 1.1
    assert result.elapsed_ms == pytest.approx(600, abs=100)
    assert result.last is not None
    assert result.last.phase == phase == list(result.phases)[-1]
    if phase == "wait" and not slowly:
        assert re.fullmatch(r"no answer within 0.6 s: connected in \d+ ms, then silence", result.sentence or "")


def test_a_big_body_is_read_up_to_a_mebibyte_and_is_fine() -> None:
    sent = 0

    def handler(connection: Connection) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 65536)

    with RawServer(handler) as server:
        result = check(server.url())
    assert result.verdict is Verdict.UP
    assert result.elapsed_ms < 2000
    assert sent < 64 * 1024 * 1024  # What the system's buffers take; far from ten gigabytes.


@pytest.mark.parametrize("status", [200, 302])
@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_bomb_does_not_go_off(site: Site, coding: str, status: int) -> None:
    zeros = b"\0" * (64 * 1024 * 1024)
    bomb = gzip.compress(zeros, 1) if coding == "gzip" else brotlicffi.compress(zeros, quality=1)
    site.routes["/"] = Answer(status, bomb, [("Content-Encoding", coding), ("Location", "/end")])
    site.routes["/end"] = Answer(200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = check(site.url())
    assert result.verdict is Verdict.UP
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


# --- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_the_last_answer_is_judged(site: Site, status: int) -> None:
    site.routes |= {"/": redirect("/two?a=b", status), "/two": redirect("three here", status)}
    site.routes["/three%20here"] = Answer(404, delay_seconds=0.1)
    result = check(site.url())
    assert [request.path for request in site.requests] == ["/", "/two", "/three%20here"]
    assert (result.reason, result.status_code) == (Reason.STATUS, 404)
    assert result.sentence == "expected 200, got 404 after 2 redirects"
    assert sum(result.phases.values()) == pytest.approx(result.elapsed_ms)
    assert result.phases["wait"] > 90


def test_a_redirect_that_is_expected_is_not_followed(site: Site) -> None:
    site.routes["/"] = redirect("/two")
    assert check(site.url(), expected_http_code=302).verdict is Verdict.UP
    assert check(site.url(), expected_http_code=301).sentence == "expected 301, got 302"
    assert site.count("/two") == 0


def test_redirects_without_end(site: Site) -> None:
    site.routes["/"] = redirect("/")
    result = check(site.url(), retries=3)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.TOO_MANY_REDIRECTS)
    assert site.count("/") == 11


def test_ten_redirects_are_allowed(site: Site) -> None:
    site.routes |= {f"/{number}": redirect(f"/{number + 1}") for number in range(10)}
    site.routes["/10"] = Answer(200)
    assert check(site.url("/0")).verdict is Verdict.UP


def test_the_timeout_bounds_all_hops_together(site: Site) -> None:
    site.routes["/"] = Answer(302, headers=[("Location", "/")], delay_seconds=0.25)
    result = check(site.url(), timeout=0.6)
    assert (result.reason, result.status_code) == (Reason.TIMEOUT, None)
    assert result.elapsed_ms == pytest.approx(600, abs=100)


def test_the_body_of_a_redirect_is_not_waited_for() -> None:
    def handler(connection: Connection) -> None:
        if b"GET /end" in read_request(connection):
            connection.sendall(SHORT)
        else:
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 9\r\n\r\n")
            server.closing.wait()

    with RawServer(handler) as server:
        assert check(server.url(), timeout=2).verdict is Verdict.UP


def test_credentials_stay_with_their_origin(site: Site) -> None:
    with Site() as other:
        other.routes["/"] = Answer(200)
        site.routes |= {"/": redirect("/same"), "/same": redirect(other.url())}
        endpoint = site.url().replace("//", "//anna:secret@")
        result = check(endpoint)
    assert result.verdict is Verdict.UP
    assert all(request.headers["authorization"].startswith("Basic ") for request in site.requests)
    assert len(site.requests) == 2
    assert "authorization" not in other.requests[0].headers


def test_no_sentence_tells_a_secret(site: Site) -> None:
    secret = site.url("/?token=s3cr3t").replace("//", "//anna:s3cr3t@")
    for route in (
        Answer(404),
        redirect("/?token=s3cr3t"),
        redirect("ftp://anna:s3cr3t@x/"),
        redirect("http://[s3cr3t"),
    ):
        site.routes["/"] = route
        assert "s3cr3t" not in repr(check(secret).sentence)
    closed = f"http://anna:s3cr3t@127.0.0.1:{free_port()}/?token=s3cr3t"
    assert "s3cr3t" not in repr(check(closed).document())


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.0.192",
        "100.100.100.200",
        "[::]",
        "[fe80::1]",
        "[ff02::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "0xa9fea9fe",
        "2852039166",
        "169.254.43518",
    ],
)
def test_forbidden_addresses_are_blocked_in_every_notation(host: str) -> None:
    result = check(f"http://{host}/", retries=3)
    assert (result.verdict, result.reason, len(result.attempts)) == (Verdict.DOWN, Reason.BLOCKED, 1)


def test_a_redirect_to_a_forbidden_address_is_blocked(site: Site) -> None:
    site.routes["/"] = redirect("http://169.254.169.254/latest/meta-data/")
    result = check(site.url())
    assert result.reason is Reason.BLOCKED
    assert result.sentence == "the address 169.254.169.254 is one that no check may connect to"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_blocked_when_the_settings_say_so(site: Site, host: str) -> None:
    result = check(site.url(host=host), with_settings=settings(block_private_networks=True))
    assert result.reason is Reason.BLOCKED
    assert site.connections == 0


def test_of_several_addresses_only_the_forbidden_ones_are_skipped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"mixed.example": ["169.254.169.254", "127.0.0.1"], "bad.example": ["169.254.169.254", "0.0.0.0"]}
    resolve(monkeypatch, names, threading.Event())
    assert check(site.url(host="mixed.example")).verdict is Verdict.UP
    assert check(site.url(host="bad.example")).reason is Reason.BLOCKED


@pytest.mark.parametrize(
    "host", ["UPPER.example", "dot.example.", "under_score.example", "b\u00fccher.example", "9.a1"]
)
def test_libcurl_takes_the_addresses_that_our_resolver_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked = host.lower().replace("b\u00fccher", "xn--bcher-kva")
    resolve(monkeypatch, {asked: ["127.0.0.1"]}, threading.Event())
    result = check(site.url(host=host))
    assert result.verdict is Verdict.UP, result.sentence
    assert "dns" in result.phases


def test_a_name_is_resolved_anew_for_every_check(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"moving.example": ["127.0.0.1"]}
    resolve(monkeypatch, names, threading.Event())
    with Engine(settings()) as probe:
        probe.add(target(site.url(host="moving.example")))
        assert finish(probe)[0].verdict is Verdict.UP
        names["moving.example"] = ["169.254.169.254"]
        probe.add(target(site.url(host="moving.example")))
        assert finish(probe)[0].reason is Reason.BLOCKED


# --- certificates --------------------------------------------------------------------------------------------------


def test_https_has_a_tls_phase(authority: trustme.CA, ca_file: str) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1", "localhost"))) as site:
        result = check(site.url(), ca_file=ca_file)
        named = check(site.url(host="localhost"), ca_file=ca_file)
    assert result.verdict is Verdict.UP, result.sentence
    assert set(result.phases) == {"connect", "tls", "wait", "transfer"}
    assert tuple(named.phases) == PHASES


def test_certificates_that_are_not_good(authority: trustme.CA, ca_file: str) -> None:
    now = datetime.now(UTC)
    old = authority.issue_cert("127.0.0.1", not_before=now - timedelta(9), not_after=now - timedelta(3))
    early = authority.issue_cert("127.0.0.1", not_before=now + timedelta(3), not_after=now + timedelta(9))
    for certificate, sentence in [
        (authority.issue_cert("other.example"), "the certificate is not valid for this host"),
        (trustme.CA().issue_cert("127.0.0.1"), "the certificate was not signed by a known authority"),
        (old, "the certificate has expired"),
        (early, "the certificate is not valid yet"),
    ]:
        with Site(tls=tls(certificate)) as site:
            result = check(site.url(), ca_file=ca_file, retries=3)
        assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.CERTIFICATE)
        assert result.sentence == sentence
        assert len(result.attempts) == 1
        assert result.last is not None
        assert (result.last.phase, list(result.phases)) == ("tls", ["connect", "tls"])


def test_a_certificate_for_another_name(authority: trustme.CA, ca_file: str) -> None:
    with Site(tls=tls(authority.issue_cert("other.example"))) as site:
        result = check(site.url(host="localhost"), ca_file=ca_file)
    assert result.sentence == "the certificate is not valid for this host"


def test_an_unknown_authority_is_refused_by_default(authority: trustme.CA) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as site:
        assert check(site.url()).reason is Reason.CERTIFICATE


def test_the_authorities_of_ssl_cert_file_are_trusted(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as site:
        assert check(site.url()).verdict is Verdict.UP


def test_a_file_of_authorities_that_is_missing_is_our_fault(authority: trustme.CA) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as site:
        result = check(site.url(), ca_file="/nonexistent")
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INTERNAL)


def test_a_server_that_does_not_speak_tls() -> None:
    def handler(connection: Connection) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(handler) as server:
        result = check(server.url().replace("http:", "https:"))
    assert result.reason is Reason.TLS
    assert result.last is not None
    assert result.last.phase == "tls"


def test_silence_in_the_handshake_is_a_timeout_in_tls() -> None:
    with RawServer() as server:
        result = check(f"https://127.0.0.1:{server.port}/", timeout=0.4)
    assert result.reason is Reason.TIMEOUT
    assert result.last is not None
    assert result.last.phase == "tls"


# --- many at once --------------------------------------------------------------------------------------------------


def test_a_hung_target_delays_no_other(site: Site) -> None:
    with RawServer() as server, Engine(settings()) as probe:
        probe.add(target(server.url(), timeout=2, retries=0))
        for number in range(50):
            probe.add(target(site.url(f"/?{number}")))
        began = time.monotonic()
        results: list[CheckResult] = []
        while len(results) < 50:
            results += probe.poll(1)
        assert time.monotonic() - began < 1.5
        assert all(result.verdict is Verdict.UP for result in results)
        assert probe.target_ids == [server.url()]
        assert [result.reason for result in finish(probe)] == [Reason.TIMEOUT]


def test_targets_are_added_while_others_are_under_way(site: Site) -> None:
    site.routes["/"] = Answer(200, delay_seconds=0.3)
    site.routes["/fast"] = Answer(200)
    with Engine(settings()) as probe:
        probe.add(target(site.url()))
        assert probe.poll(0.05) == []
        probe.add(target(site.url("/fast")))
        assert [result.target_id for result in finish(probe)] == [site.url("/fast"), site.url()]
        assert probe.poll(0.01) == []


def test_beyond_max_transfers_they_wait_in_line(site: Site) -> None:
    under_way = most = 0
    lock = threading.Lock()

    def route(_: Received) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        site.closing.wait(0.05)
        with lock:
            under_way -= 1
        return Answer(200)

    site.routes["/"] = route
    with Engine(settings(), max_transfers=3) as probe:
        for _ in range(12):
            probe.add(target(site.url()))
        assert probe.in_flight == 12
        assert all(result.verdict is Verdict.UP for result in finish(probe))
    assert most == 3


def test_a_retry_that_waits_holds_no_place(site: Site) -> None:
    site.routes |= {"/again": [Answer(504), Answer(504), Answer(200)], "/": Answer(200)}
    with Engine(settings(), max_transfers=1) as probe:
        probe.add(target(site.url("/again"), retries=3, backoff_factor=0.2))
        probe.add(target(site.url()))
        assert [result.target_id for result in finish(probe)] == [site.url(), site.url("/again")]


def test_closing_drops_everything(site: Site) -> None:
    site.routes["/"] = Answer(200, delay_seconds=5)
    probe = Engine(settings())
    for _ in range(5):
        probe.add(target(site.url()))
    assert probe.poll(0.2) == []
    began = time.monotonic()
    probe.close()
    probe.close()
    assert time.monotonic() - began < 0.5
    assert probe.in_flight == 0


# --- faults of our own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_descriptor_left_is_unknown_and_not_down(host: str) -> None:
    endpoint = f"http://{host}:{free_port()}/"  # Without a server, which would free descriptors of this process.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Engine(settings()) as probe:
        probe.add(target(endpoint, retries=0))
        assert finish(probe)[0].reason is Reason.REFUSED
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            probe.add(target(endpoint, retries=3))
            (result,) = finish(probe)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INTERNAL)
        assert result.sentence == "the monitor could not make the check: it has no file descriptor left"
        assert len(result.attempts) == 1
        probe.add(target(endpoint, retries=0))
        assert finish(probe)[0].reason is Reason.REFUSED


def test_a_bug_while_one_target_is_handled_ends_only_that_check(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = CheckRun.exchanged

    def broken(run: CheckRun, exchange: Any) -> bool:
        if "broken" in run.target.id:
            raise KeyError("s3cr3t")
        return real(run, exchange)

    monkeypatch.setattr(CheckRun, "exchanged", broken)
    with Engine(settings()) as probe:
        for path in ("/?broken", "/", "/?other"):
            probe.add(target(site.url(path)))
        verdicts = {result.target_id: result.verdict for result in finish(probe)}
    assert [verdicts[site.url(path)] for path in ("/?broken", "/", "/?other")] == ["unknown", "up", "up"]
    assert "KeyError" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_timeout_while_nobody_polled_says_nothing_of_the_target(site: Site) -> None:
    site.routes["/"] = Answer(200, delay_seconds=0.1)
    with Engine(settings()) as probe:
        probe.add(target(site.url(), timeout=0.4, retries=3))
        assert probe.poll(0.02) == []
        threading.Event().wait(0.5)  # The owner is away, past the deadline; the answer has come meanwhile.
        (result,) = finish(probe)
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INTERNAL)


class AlarmError(Exception):
    """Like rq's JobTimeoutException: raised by a signal handler, anywhere in the main thread."""


def test_an_alarm_always_gets_out_and_nothing_is_lost(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AlarmError

    previous = signal.signal(signal.SIGALRM, ring)
    results: list[CheckResult] = []
    alarms = 0
    try:
        with Engine(settings()) as probe:
            for number in range(200):
                probe.add(target(site.url(f"/?{number}")))
            while probe.in_flight:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002)
                    results += probe.poll(1)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except AlarmError:
                    alarms += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert alarms > 5
    assert len(results) == 200
    assert {result.verdict for result in results} == {Verdict.UP}
    assert capfd.readouterr().err == ""
