"""Whatever a server does, its check ends at its deadline, in little memory, and delays no other.

The checks run in a process of their own, so that its memory is the probe's, and the servers do not slow it down.
"""

import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import IO, Any

import brotlicffi  # type: ignore[import-untyped]
import pytest
import trustme

from shared.monitor import Reason, Verdict
from tests.probing import Connection, ca_path, check, tls
from tests.sites import Answer, RawServer, Site, read_request, redirect, reset

TIMEOUT_SECONDS = 0.6
GRACE_SECONDS = 0.5
MOST_MEGABYTES = 20
GOOD_TARGETS = 20

CHECKER = """
import json, sys, time
from tests.probing import settings, target
from worker.probe import Engine

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024

def run(order):
    began, took, found = time.monotonic(), {}, {}
    with Engine(settings(max_per_host=100), ca_file=sys.argv[1]) as probe:
        for number, url in enumerate(order["hostile"]):
            probe.add(target(url, retries=0, **order["options"]))
        for number in range(order["good_targets"]):
            probe.add(target(order["good"] + f"?{number}", retries=0))
        while probe.in_flight:
            for result in probe.poll(0.2):
                took[result.target_id] = time.monotonic() - began
                found[result.target_id] = result
    hostile = [found[url] for url in order["hostile"]]
    good = [each for url, each in found.items() if url not in order["hostile"]]
    return {
        "reasons": [each.reason for each in hostile],
        "sentences": [each.sentence for each in hostile],
        "took": max((took[url] for url in order["hostile"]), default=0),
        "good": [each.verdict for each in good],
        "good_took": max((took[each.target_id] for each in good), default=0),
    }

for line in sys.stdin:
    order = json.loads(line)
    open("/proc/self/clear_refs", "w").write("5")  # The peak begins anew.
    before = memory("VmRSS")
    answer = run(order)
    answer["grew"] = memory("VmHWM") - before
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Checker:
    """The process that checks; ``ca_file`` is what it trusts."""

    orders: IO[str]
    answers: IO[str]
    good: str
    authority: trustme.CA

    def run(self, *hostile: str, good_targets: int = GOOD_TARGETS, **options: Any) -> dict[str, Any]:
        options = {"timeout": TIMEOUT_SECONDS, **options}
        order = {"hostile": hostile, "good": self.good, "good_targets": good_targets, "options": options}
        self.orders.write(json.dumps(order) + "\n")
        self.orders.flush()
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checker]:
    authority = trustme.CA()
    command = [sys.executable, "-c", CHECKER, ca_path(authority, tmp_path_factory.mktemp("trust"))]
    root = Path(__file__).parent.parent
    with (
        Site() as good,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        checker = Checker(process.stdin, process.stdout, good.url(), authority)
        checker.run()  # What is loaded once is loaded now.
        yield checker
        process.stdin.close()


def bounded(answer: dict[str, Any], *reasons: Reason | None) -> None:
    """In time, in memory, with one of the reasons, and without harm to the others."""
    assert set(answer["reasons"]) <= set(reasons), answer
    assert answer["took"] < TIMEOUT_SECONDS + GRACE_SECONDS, answer
    assert answer["grew"] < MOST_MEGABYTES, answer
    assert answer["good"] == [Verdict.UP] * GOOD_TARGETS
    assert answer["good_took"] < 1, answer


# --- HTTP/1 --------------------------------------------------------------------------------------------------------

Send = Callable[[bytes], None]


def endless(piece: bytes) -> Callable[[Send], None]:
    def go(send: Send) -> None:
        while True:
            send(piece)

    return go


def slowly(piece: bytes, seconds: float = 0.05) -> Callable[[Send], None]:
    def go(send: Send) -> None:
        for number in count():
            send(piece[number % len(piece) :][:1])
            time.sleep(seconds)  # The server's pace is what is tested.

    return go


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: /end\r\n"
KIB = b"x" * 65536


@cache
def bomb(coding: str) -> bytes:
    zeros = b"\0" * (64 * 1024 * 1024)
    if coding == "br":
        return bytes(brotlicffi.compress(zeros, quality=1))
    packed = gzip.compress(zeros, 1)
    return gzip.compress(packed, 9) if coding == "gzip, gzip" else packed


def coded(status: int, coding: str) -> bytes:
    body = bomb(coding)
    head = f"HTTP/1.1 {status} X\r\nLocation: /end\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


CASES: dict[str, tuple[bytes, Callable[[Send], None] | None, list[Reason | None]]] = {
    "silence": (b"", None, [Reason.TIMEOUT]),
    "drip in the first line": (b"", slowly(OK), [Reason.TIMEOUT]),
    "drip in the header": (OK, slowly(b"X-Drip: x\r\n"), [Reason.TIMEOUT]),
    "drip in the body": (OK + b"Content-Length: 1000\r\n\r\n", slowly(b"x"), [Reason.TIMEOUT]),
    "drip in chunks": (CHUNKED, slowly(b"1\r\nx\r\n"), [Reason.TIMEOUT]),
    "slow 100 Continue": (b"", slowly(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01), [Reason.TIMEOUT]),
    "endless 100 Continue": (b"", endless(b"HTTP/1.1 100 Continue\r\n\r\n"), [Reason.PROTOCOL]),
    "endless 103": (b"", endless(b"HTTP/1.1 103 Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"), [Reason.PROTOCOL]),
    "endless headers": (OK, endless(b"X-Endless: header\r\n"), [Reason.PROTOCOL]),
    "one endless header": (OK + b"X: ", endless(KIB), [Reason.PROTOCOL]),
    "endless folding": (OK + b"X: y\r\n", endless(b" folded\r\n" * 100), [Reason.PROTOCOL]),
    "endless first line": (b"", endless(KIB), [Reason.PROTOCOL]),
    "endless empty lines": (b"", endless(b"\r\n"), [Reason.PROTOCOL]),
    "endless zeros": (b"", endless(b"\0"), [Reason.PROTOCOL]),
    "HTTP/0.9": (b"hello, this is HTTP/0.9\r\n", None, [Reason.PROTOCOL]),
    "10 GB": (OK + b"Content-Length: 10000000000\r\n\r\n", endless(KIB), [None]),
    "a body without end": (OK + b"\r\n", endless(KIB), [None]),
    "endless chunks": (CHUNKED, endless(b"10000\r\n" + KIB + b"\r\n"), [None]),
    "endless tiny chunks": (CHUNKED, endless(b"1\r\nx\r\n" * 5000), [None, Reason.TIMEOUT]),
    "an endless extension of a chunk": (CHUNKED + b"1;", endless(KIB), [Reason.PROTOCOL, Reason.TIMEOUT]),
    "endless trailers": (CHUNKED + b"0\r\n", endless(b"X-Trailer: x\r\n"), [Reason.PROTOCOL]),
    "one endless trailer": (CHUNKED + b"0\r\nX: ", endless(KIB), [Reason.PROTOCOL]),
    "10 GB of a redirect": (MOVED + b"Content-Length: 10000000000\r\n\r\n", endless(KIB), [None]),
    "a long Location": (b"HTTP/1.1 302 Found\r\nLocation: /" + b"x" * 200_000 + b"\r\n\r\n", None, [Reason.PROTOCOL]),
    "gzip bomb": (coded(200, "gzip"), None, [None]),
    "brotli bomb": (coded(200, "br"), None, [None]),
    "gzip bomb in gzip": (coded(200, "gzip, gzip"), None, [None]),
    "gzip bomb of a redirect": (coded(302, "gzip"), None, [None]),
    "brotli bomb of a redirect": (coded(302, "br"), None, [None]),
    "many codings": (OK + b"Content-Encoding: " + b"gzip, " * 50 + b"gzip\r\n\r\n", None, [Reason.PROTOCOL]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("assertions", [None, [{"type": "body_not_contains", "value": "never"}]], ids=["", "kept"])
def test_a_hostile_server(checker: Checker, name: str, assertions: Any) -> None:
    at_once, then, reasons = CASES[name]

    def handler(connection: Connection) -> None:
        if b"GET /end" in read_request(connection):
            connection.sendall(OK + b"Content-Length: 0\r\n\r\n")
            return
        connection.sendall(at_once)
        if then is not None:
            then(connection.sendall)
        server.closing.wait()

    with RawServer(handler) as server:
        answer = checker.run(*(server.url(f"/{number}") for number in range(3)), assertions=assertions)
    bounded(answer, *reasons)


def test_all_of_them_at_once_take_no_more_memory(checker: Checker) -> None:
    def handler(connection: Connection) -> None:
        path = read_request(connection).split()[1]
        if path == b"/end":
            connection.sendall(OK + b"Content-Length: 0\r\n\r\n")
            return
        at_once, then, _ = list(CASES.values())[int(path[1:])]
        connection.sendall(at_once)
        if then is not None:
            then(connection.sendall)
        server.closing.wait()

    with RawServer(handler) as server:
        answer = checker.run(*(server.url(f"/{number}") for number in range(len(CASES))), timeout=2)
    assert answer["grew"] < MOST_MEGABYTES, answer
    assert answer["took"] < 2 + GRACE_SECONDS, answer
    assert answer["good_took"] < 1, answer
    assert answer["good"] == [Verdict.UP] * GOOD_TARGETS


def test_many_large_bodies_that_are_kept_take_little_memory(checker: Checker) -> None:
    with Site() as site:
        site.routes["/"] = Answer(200, b"x" * 1024 * 1024)
        urls = [site.url(f"/?{number}") for number in range(150)]
        rules = [{"type": "body_size", "min": 1024 * 1024}]
        answer = checker.run(*urls, assertions=rules, timeout=20)
    assert set(answer["reasons"]) == {None}, answer["sentences"]
    assert answer["grew"] < 100, answer["grew"]


@pytest.mark.parametrize("unit", [b"[],", b'{"a":1},', b'{"id":12345,"ok":true},'])
def test_no_document_takes_much_memory(checker: Checker, unit: bytes) -> None:
    body = b"[" + unit * (1_040_000 // len(unit)) + b"0]"
    with Site() as site:
        site.routes["/"] = Answer(200, body)
        rules = [{"type": "json", "path": "$[0]", "operator": "exists"}]
        answer = checker.run(site.url(), assertions=rules, timeout=10)
    assert set(answer["reasons"]) <= {None, Reason.INTERNAL}, answer["sentences"]
    assert answer["grew"] < MOST_MEGABYTES, answer["grew"]


def test_many_headers_without_end_take_little_memory(checker: Checker) -> None:
    header = b"".join(b"X-%03d: %s\r\n" % (number, b"a" * 850) for number in range(280))

    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(OK + header)
        server.closing.wait()

    with RawServer(handler) as server:
        answer = checker.run(*(server.url(f"/{number}") for number in range(100)), timeout=3)
    assert set(answer["reasons"]) == {Reason.PROTOCOL}, answer["sentences"]
    assert answer["grew"] < MOST_MEGABYTES, answer["grew"]


def test_a_reset_at_any_byte_is_no_trouble_to_others(checker: Checker) -> None:
    whole = OK + b"Content-Length: 10\r\n\r\n0123456789"

    def handler(connection: Connection) -> None:
        connection.sendall(whole[: int(read_request(connection).split()[1][1:])])
        reset(connection)

    with RawServer(handler) as server:
        bounded(checker.run(*(server.url(f"/{length}") for length in range(len(whole)))), Reason.RESET)


@pytest.mark.parametrize("growing", [False, True])
def test_a_redirect_loop_ends(checker: Checker, growing: bool) -> None:
    with Site() as site:
        site.routes["/"] = lambda request: redirect(f"/?{request.query if growing else ''}{'x' * 1000}")
        bounded(checker.run(site.url(), max_redirects=20), Reason.TOO_MANY_REDIRECTS)


# --- HTTP/2 and TLS ------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
HELLO = frame(SETTINGS, 0, 0)
STATUS_200 = b"\x88"  # HPACK's index of ":status: 200".
ANSWERED = HELLO + frame(HEADERS, 4, 1, STATUS_200)
LITERAL = b"\x00\x01x\x64" + b"y" * 100
INDEXED = b"\x40\x01x\x7f\x80\x1e" + b"y" * 3967  # An entry of the table of 3,968 bytes, then one byte refers to it.

HTTP2_CASES: dict[str, tuple[bytes, Callable[[Send], None] | None, list[Reason | None]]] = {
    "garbage": (b"garbage, not a frame at all" * 100, None, [Reason.PROTOCOL, Reason.TIMEOUT]),
    "an answer in HTTP/1": (OK + b"Content-Length: 0\r\n\r\n", None, [Reason.PROTOCOL, Reason.TIMEOUT]),
    "silence": (HELLO, None, [Reason.TIMEOUT]),
    "silence after the header": (ANSWERED, None, [Reason.TIMEOUT]),
    "endless settings": (HELLO, endless(frame(SETTINGS, 0, 0) * 100), [Reason.PROTOCOL, Reason.TIMEOUT]),
    "endless pings": (HELLO, endless(frame(PING, 0, 0, b"12345678") * 100), [Reason.PROTOCOL, Reason.TIMEOUT]),
    "endless unknown frames": (HELLO, endless(frame(99, 0, 0, b"x" * 100) * 100), [Reason.TIMEOUT, Reason.PROTOCOL]),
    "endless window updates": (
        HELLO,
        endless(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")),
        [Reason.PROTOCOL, Reason.TIMEOUT],
    ),
    "endless continuation": (
        HELLO + frame(HEADERS, 0, 1, STATUS_200),
        endless(frame(CONTINUATION, 0, 1, LITERAL * 10)),
        [Reason.PROTOCOL],
    ),
    "endless empty continuation": (
        HELLO + frame(HEADERS, 0, 1, STATUS_200),
        endless(frame(CONTINUATION, 0, 1) * 100),
        [Reason.PROTOCOL, Reason.TIMEOUT],
    ),
    "a bomb of headers": (
        HELLO + frame(HEADERS, 0, 1, STATUS_200 + INDEXED + b"\xbe" * 4000),
        endless(frame(CONTINUATION, 0, 1, b"\xbe" * 8000)),
        [Reason.PROTOCOL],
    ),
    "endless empty data": (ANSWERED, endless(frame(DATA, 0, 1) * 100), [Reason.TIMEOUT, Reason.PROTOCOL]),
    "endless data": (ANSWERED, endless(frame(DATA, 0, 1, b"x" * 16384)), [None, Reason.PROTOCOL, Reason.TIMEOUT]),
    "endless interim answers": (HELLO, endless(frame(HEADERS, 4, 1, b"\x08\x03103")), [Reason.PROTOCOL]),
    "pushes": (HELLO, endless(frame(PUSH, 4, 1, b"\0\0\0\2" + STATUS_200)), [Reason.PROTOCOL]),
    "go away": (HELLO + frame(GOAWAY, 0, 0, b"\0" * 8), None, [Reason.PROTOCOL, Reason.RESET, Reason.TIMEOUT]),
    "reset of the stream": (HELLO + frame(RST_STREAM, 0, 1, b"\0\0\0\2"), None, [Reason.PROTOCOL]),
    "reset in the middle": (ANSWERED + frame(RST_STREAM, 0, 1, b"\0\0\0\2"), None, [Reason.PROTOCOL]),
}


@pytest.mark.parametrize("name", HTTP2_CASES)
def test_a_hostile_server_in_http2(checker: Checker, name: str) -> None:
    at_once, then, reasons = HTTP2_CASES[name]

    def handler(connection: Connection) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        connection.sendall(at_once)
        if then is not None:
            then(connection.sendall)
        while connection.recv(65536):
            pass

    context = tls(checker.authority.issue_cert("127.0.0.1"))
    context.set_alpn_protocols(["h2"])
    with RawServer(handler, tls=context) as secure, RawServer(handler) as plain:
        bounded(checker.run(*(secure.url(f"/{number}") for number in range(2))), *reasons)
        bounded(checker.run(*(plain.url(f"/{number}") for number in range(2)), http_version="2"), *reasons)


@pytest.mark.parametrize(
    ("at_once", "then", "reasons"),
    [
        (b"", slowly(b"\x16\x03\x03\x40\x00"), [Reason.TIMEOUT]),
        (b"", endless(KIB), [Reason.TLS]),
        (b"", endless(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 100), [Reason.PROTOCOL]),
        (b"\x15\x03\x03\x00\x02\x02\x28", None, [Reason.TLS]),
        (b"\x16\x03\x03\x40\x00\x02\xff\xff\xff", endless(KIB), [Reason.TLS]),
    ],
    ids=["drip", "garbage", "endless hello requests", "alert", "a message of 16 MB"],
)
def test_a_hostile_handshake(
    checker: Checker, at_once: bytes, then: Callable[[Send], None] | None, reasons: list[Reason | None]
) -> None:
    def handler(connection: Connection) -> None:
        connection.recv(65536)
        connection.sendall(at_once)
        if then is not None:
            then(connection.sendall)
        server.closing.wait()

    with RawServer(handler) as server:
        url = server.url().replace("http:", "https:")
        bounded(checker.run(url, url + "2"), *reasons)


# --- the words for it ----------------------------------------------------------------------------------------------


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
