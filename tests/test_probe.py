"""The probe against real local servers: httpbin for the ordinary, hand-written ones for the broken."""

import errno
import gzip
import os
import resource
import signal
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from itertools import pairwise
from types import FrameType
from typing import Any

import pycurl
import pytest
from werkzeug.serving import make_server

from shared.assertions import Finding
from shared.monitor import PHASES, CheckResult, Reason, Target, Verdict
from shared.signals import check_retried, check_started
from tests.probing import SHORT, Connection, answering, check, finish, free_port, resolve, settings, target
from tests.sites import Answer, RawServer, Received, Site, read_request, redirect, reset
from worker.probe import Engine
from worker.probe.failure import Circumstances, failure_of
from worker.probe.run import CheckRun
from worker.probe.transfer import Transfer


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


# --- coded bodies --------------------------------------------------------------------------------------------------

BROTLI_FINE = b"\x8b\x01\x80fine\x03"
TRAILED = [
    ("gzip", gzip.compress(b"fine", mtime=0) + b"\n"),
    ("gzip", gzip.compress(b"fine", mtime=0) + gzip.compress(b"er", mtime=0)),
    ("deflate", zlib.compress(b"fine") + b"\n"),
    ("br", BROTLI_FINE + b"\n"),
]
UNDECODABLE = [
    ("gzip", b"<html>fine</html>"),
    ("br", b"<html>fine</html>"),
    ("br", b"\x06" * 20),
    ("deflate", b"<html>fine</html>"),
    ("unheard-of", b"fine"),
    ("gzip, unheard-of", b"fine"),
]


def coded(status: int, encoding: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(("encoding", "body"), TRAILED + UNDECODABLE)
def test_another_status_is_the_reason_whatever_the_body_is(encoding: str, body: bytes) -> None:
    with RawServer(answering(coded(500, encoding, body))) as server:
        result = check(server.url())
    assert (result.reason, result.sentence) == (Reason.STATUS, "expected 200, got 500")


@pytest.mark.parametrize(("encoding", "body"), TRAILED)
def test_what_stands_behind_the_end_of_a_coded_body_harms_nothing(encoding: str, body: bytes) -> None:
    with RawServer(answering(coded(200, encoding, body))) as server:
        assert check(server.url()).verdict is Verdict.UP
        asserted = check(server.url(), assertions=[{"type": "body_contains", "value": "fine"}])
    if body == TRAILED[1][1]:  # libcurl reads no further member, so that nobody can say what the body holds.
        assert (asserted.reason, asserted.sentence) == (
            Reason.PROTOCOL,
            "the body of the answer is gzip of several members, of which only the first could be read",
        )
    else:
        assert asserted.verdict is Verdict.UP


@pytest.mark.parametrize(("encoding", "body"), UNDECODABLE)
def test_a_body_that_cannot_be_decoded_is_down_where_the_status_is_good(encoding: str, body: bytes) -> None:
    with RawServer(answering(coded(200, encoding, body))) as server:
        result = check(server.url())
    what = (
        "has a Content-Encoding that nobody asked for" if "un" in encoding else "is not what its Content-Encoding says"
    )
    assert (result.reason, result.sentence) == (Reason.PROTOCOL, f"the body of the answer {what}")
    assert result.status_code == 200


def test_a_cut_after_an_interim_answer_is_not_in_the_middle_of_the_answer() -> None:
    with RawServer(answering(b"HTTP/1.1 100 Continue\r\n\r\n")) as server:
        result = check(server.url())
    assert result.reason is Reason.RESET
    assert result.sentence == (
        f"127.0.0.1:{server.port} closed the connection after an interim answer, without a final one"
    )


@pytest.mark.parametrize(
    ("error", "os_error", "sentence"),
    [
        (pycurl.E_COULDNT_CONNECT, errno.ENETUNREACH, "a:1 and [b]:1 cannot be connected to: no route"),
        (pycurl.E_COULDNT_CONNECT, errno.ECONNREFUSED, "a:1 and [b]:1 cannot be connected to: connection refused"),
        (pycurl.E_OPERATION_TIMEDOUT, 0, "no answer within 5 s: a:1 and [b]:1 did not accept the connection"),
    ],
)
def test_where_several_addresses_were_tried_all_are_named(error: int, os_error: int, sentence: str) -> None:
    seen = Circumstances(error, os_error, "", "connect", {"connect": 1.0}, 5.0, 0, "[b]:1", also_tried=("a:1",))
    assert failure_of(seen).sentence == sentence


def test_a_redirect_that_libcurl_cannot_read_is_no_fault_of_ours(site: Site) -> None:
    site.routes["/"] = redirect("http://[::1%25]/")
    assert check(site.url()).reason is Reason.PROTOCOL
    seen = Circumstances(pycurl.E_URL_MALFORMAT, 0, "", "connect", {}, 5.0, 0, None)
    assert failure_of(seen).reason is Reason.PROTOCOL


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
    assert check(site.url(), expected_http_code=301).sentence == (
        f"expected 301, got 302, which leads to {site.url('/two')}"
    )
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


def test_an_engine_that_checks_nothing_has_no_thread() -> None:
    before = threading.active_count()
    engines = [Engine(settings()) for _ in range(3)]
    assert threading.active_count() == before
    for engine in engines:
        engine.close()


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


def test_a_bug_while_evidence_is_gathered_is_unknown(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("s3cr3t")

    monkeypatch.setattr("worker.probe.run.evidence", broken)
    result = check(site.url("/missing"))
    assert (result.verdict, result.reason, len(result.attempts)) == (Verdict.UNKNOWN, Reason.INTERNAL, 1)
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


def dead_resolver(monkeypatch: pytest.MonkeyPatch, names: dict[str, int]) -> None:
    """Names with the EAI number that asking for them ends with; all others have an address."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **named: Any) -> list[Any]:
        if host in names:
            raise socket.gaierror(names[host], "no answer")
        return real("127.0.0.1" if host.endswith(".example") else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def reasons_of(*endpoints: str, **options: Any) -> list[str]:
    with Engine(settings()) as probe:
        for endpoint in endpoints:
            probe.add(target(endpoint, **{"retries": 0, **options}))
        return sorted(str(result.reason) for result in finish(probe))


def test_when_no_name_server_answers_for_any_name_the_monitor_is_at_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"h{number}.example" for number in range(12)]
    dead_resolver(monkeypatch, dict.fromkeys(names, socket.EAI_AGAIN))
    with Engine(settings()) as probe:
        for name in names:
            probe.add(target(f"http://{name}/", retries=1))
        probe.add(target(site.url()))
        results = {result.target_id: result for result in finish(probe)}
    assert results.pop(site.url()).verdict is Verdict.UP
    assert {result.verdict for result in results.values()} == {Verdict.UNKNOWN}
    assert {result.sentence for result in results.values()} == {
        "the monitor could not make the check: no name server answered for any of 12 names"
    }


@pytest.mark.parametrize("answer", [socket.EAI_NONAME, None])
def test_when_one_name_is_answered_the_others_are_down(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    names = dict.fromkeys((f"h{number}.example" for number in range(5)), socket.EAI_AGAIN)
    dead_resolver(monkeypatch, names if answer is None else {**names, "last.example": answer})
    reasons = reasons_of(*(f"http://{name}/" for name in names), site.url(host="last.example"))
    assert reasons == ["None" if answer is None else "dns", *["dns"] * 5]


def test_two_names_without_an_answer_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    dead_resolver(monkeypatch, {"a.example": socket.EAI_AGAIN, "b.example": socket.EAI_AGAIN})
    assert reasons_of("http://a.example/1", "http://a.example/2", "http://b.example/") == ["dns"] * 3


def test_names_that_are_still_being_resolved_at_the_timeout_have_no_answer_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = threading.Event()
    resolve(monkeypatch, {}, silent)
    reasons = reasons_of(*(f"http://h{number}.example/" for number in range(4)), timeout=0.3)
    silent.set()
    assert reasons == ["internal"] * 4


@pytest.mark.parametrize("callback", ["_take_header", "_take_body", "_open_socket"])
def test_a_bug_in_a_callback_is_unknown(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, callback: str
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("s3cr3t")

    site.routes["/"] = Answer(200, b"fine")
    monkeypatch.setattr(Transfer, callback, broken)
    result = check(site.url())
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.INTERNAL)
    assert "KeyError" in caplog.text
    assert "s3cr3t" not in caplog.text


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


def test_an_alarm_gets_out_while_assertions_are_judged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, falls = threading.Event(), threading.Event()

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AlarmError

    def waiting(*_given: Any) -> Finding:
        begun.set()
        falls.wait(30)
        return None

    monkeypatch.setattr("worker.probe.judge.finding", waiting)
    site.routes["/"] = Answer(200, b"x" * 1_000_000)
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        with Engine(settings()) as probe:
            probe.add(target(site.url(), assertions=[{"type": "body_not_contains", "value": "y"}]))
            while not begun.is_set():
                probe.poll(0.01)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(AlarmError):
                probe.poll(10)
            falls.set()
            assert [result.verdict for result in finish(probe)] == [Verdict.UP]
    finally:
        falls.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
