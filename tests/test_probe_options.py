"""Every option of a check reaches the wire, and nothing of it reaches anybody else."""

import gzip
import json
import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared.assertions import Finding, finding
from shared.monitor import CheckResult, Reason, Verdict
from tests.probing import answering, ca_path, check, finish, free_port, resolve, settings, target, tls
from tests.sites import (
    Answer,
    Http2Site,
    HttpProxy,
    RawServer,
    Received,
    Site,
    SocksProxy,
    read_request,
    redirect,
)
from worker.probe import Engine


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Site]:
    with Site() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    return ca_path(authority, tmp_path)


def basic(username: str, password: str) -> str:
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


# --- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_the_method_is_sent(site: Site, method: str) -> None:
    assert check(site.url(), method=method).verdict is Verdict.UP
    (request,) = site.requests
    assert request.method == method
    assert request.body == b""
    assert "content-type" not in request.headers
    assert request.headers.get("content-length", "0") == "0"
    assert ("content-length" in request.headers) == (method in ("POST", "PUT", "PATCH"))


def test_the_answer_to_a_head_has_no_body_to_wait_for() -> None:
    def handler(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        server.closing.wait()

    with RawServer(handler) as server:
        result = check(server.url(), method="HEAD", timeout=3)
    assert result.verdict is Verdict.UP
    assert result.elapsed_ms < 1000


@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ({"type": "text", "content": "h\u00e9llo\0"}, "h\u00e9llo\0".encode(), "text/plain; charset=utf-8"),
        ({"type": "text", "content": ""}, b"", "text/plain; charset=utf-8"),
        ({"type": "json", "content": {"a": [1, None]}}, b'{"a": [1, null]}', "application/json"),
        ({"type": "json", "content": None}, b"null", "application/json"),
        ({"type": "json", "content": {}}, b"{}", "application/json"),
        ({"type": "form", "content": {"a b": "c&d"}}, b"a+b=c%26d", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_body_is_sent(site: Site, method: str, body: Any, sent: bytes, content_type: str) -> None:
    check(site.url(), method=method, body=body)
    (request,) = site.requests
    assert (request.method, request.body) == (method, sent)
    assert request.headers["content-type"] == content_type
    assert request.headers["content-length"] == str(len(sent))


def test_a_large_body_is_sent_at_once(site: Site) -> None:
    check(site.url(), method="POST", body={"type": "text", "content": "x" * 65536})
    assert len(site.requests[0].body) == 65536
    assert "expect" not in site.requests[0].headers


def test_headers_are_sent_as_they_are(site: Site) -> None:
    headers = {
        "X-Plain": "one",
        "X-Empty": "",
        "X-Accent": "caf\u00e9 \u20ac",
        "accept": "text/html",
        "Content-Type": "application/xml",
        "Host": "www.example.com",
        "Cookie": "a=b; c=d",
        "Accept-Encoding": "identity",
    }
    check(site.url(), method="POST", headers=headers, body={"type": "text", "content": "<a/>"})
    seen = site.requests[0].headers
    assert seen["x-accent"].encode("latin-1").decode() == "caf\u00e9 \u20ac"
    for name, value in headers.items():
        if name != "X-Accent":
            assert seen[name.lower()] == value
    assert seen["user-agent"].startswith("http-monitoring/")


def test_the_user_agent_is_sent(site: Site) -> None:
    check(site.url(), user_agent="Mozilla/5.0 (x)")
    check(site.url(), headers={"user-agent": "other"})
    assert [request.headers["user-agent"] for request in site.requests] == ["Mozilla/5.0 (x)", "other"]


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"type": "basic", "username": "anna", "password": "s\u00e9cret:\u20ac"}, basic("anna", "s\u00e9cret:\u20ac")),
        ({"type": "basic", "username": "", "password": ""}, basic("", "")),
        ({"type": "bearer", "token": "abc.def"}, "Bearer abc.def"),
    ],
)
def test_credentials_are_sent(site: Site, auth: Any, header: str) -> None:
    check(site.url(), auth=auth)
    assert site.requests[0].headers["authorization"] == header


def test_the_credentials_of_a_url_are_sent_byte_for_byte(site: Site) -> None:
    check(site.url().replace("//", "//anna:%E2%82%AC%40@"))
    assert site.requests[0].headers["authorization"] == basic("anna", "\u20ac@")


def test_one_check_leaves_nothing_to_the_next_on_the_same_handle(site: Site) -> None:
    with Engine(settings(), max_transfers=1) as probe:
        special: dict[str, Any] = {
            "method": "POST",
            "headers": {"X-Secret": "one"},
            "body": {"type": "json", "content": [1]},
            "http_version": "1.0",
            "verify_tls": False,
            "auth": {"type": "bearer", "token": "t"},
        }
        probe.add(target(site.url("/?1"), **special))
        finish(probe)
        probe.add(target(site.url("/?2")))
        finish(probe)
        probe.add(target(site.url("/?3"), method="HEAD"))
        finish(probe)
        probe.add(target(site.url("/?4")))
        finish(probe)
    assert [(request.method, request.version) for request in site.requests] == [
        ("POST", "HTTP/1.0"),
        ("GET", "HTTP/1.1"),
        ("HEAD", "HTTP/1.1"),
        ("GET", "HTTP/1.1"),
    ]
    for request in (site.requests[1], site.requests[3]):
        assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding"}
        assert request.body == b""


# --- what is expected ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "status", "sentence"),
    [
        (("200-299",), 204, None),
        (("200-299", 404), 404, None),
        (("200-299", 404), 500, "expected 200-299, 404, got 500"),
        ((301,), 301, None),
    ],
)
def test_expected_codes(site: Site, codes: Any, status: int, sentence: str | None) -> None:
    site.routes["/"] = Answer(status)
    result = check(site.url(), expected_http_codes=codes)
    assert result.sentence == sentence


def test_slower_than_wanted_is_degraded(site: Site) -> None:
    site.routes["/"] = Answer(200, delay_seconds=0.1)
    result = check(site.url(), degraded_ms=50)
    assert (result.verdict, result.reason) == (Verdict.DEGRADED, None)
    assert result.sentence is not None
    assert result.sentence.endswith(" ms, slower than 50 ms")
    assert check(site.url(), degraded_ms=5000).verdict is Verdict.UP
    site.routes["/"] = Answer(500, delay_seconds=0.1)
    assert check(site.url(), degraded_ms=50).verdict is Verdict.DOWN


# --- assertions ----------------------------------------------------------------------------------------------------


def test_assertions_are_held_against_the_last_answer(site: Site) -> None:
    site.routes |= {"/": redirect("/end"), "/end": Answer(200, gzip.compress(b'{"status": "ok"}'))}
    site.routes["/end"] = Answer(200, gzip.compress(b"all is well"), [("Content-Encoding", "gzip"), ("X-A", "b")])
    good = [
        {"type": "body_contains", "value": "all is"},
        {"type": "header", "name": "x-a", "operator": "equals", "value": "b"},
        {"type": "max_response_ms", "value": 5000},
        {"type": "body_size", "min": 11, "max": 11},
    ]
    assert check(site.url(), assertions=good).verdict is Verdict.UP
    result = check(site.url(), assertions=[*good, {"type": "body_contains", "value": "ill"}], retries=3)
    assert (result.verdict, result.reason, result.status_code) == (Verdict.DOWN, Reason.ASSERTION, 200)
    assert "ill" in (result.sentence or "")
    assert len(result.attempts) == 1  # A page that does not say what it should is not asked again.
    assert result.answer is not None
    assert result.answer.body == "all is well"


def test_a_wrong_status_comes_before_the_assertions(site: Site) -> None:
    site.routes["/"] = Answer(500, b"oops")
    result = check(site.url(), assertions=[{"type": "body_contains", "value": "fine"}])
    assert result.reason is Reason.STATUS


def test_the_certificate_can_be_asserted(authority: trustme.CA, ca_file: str, site: Site) -> None:
    rule = [{"type": "certificate_days", "value": 30}]
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure:
        assert check(secure.url(), ca_file=ca_file, assertions=rule).verdict is Verdict.UP
        with Engine(settings(), ca_file=ca_file) as probe:
            probe.add(target(secure.url(), assertions=rule), scheduled_at=0)
            assert finish(probe)[0].verdict is Verdict.UP
    assert check(site.url(), assertions=rule).reason is Reason.ASSERTION


def test_a_whole_mebibyte_can_be_asserted(site: Site) -> None:
    site.routes["/"] = Answer(200, b"x" * (1024 * 1024 - 3) + b"end and more than that")
    assert check(site.url(), assertions=[{"type": "body_contains", "value": "xend"}]).verdict is Verdict.UP
    assert check(site.url(), assertions=[{"type": "body_contains", "value": "more"}]).verdict is Verdict.DOWN


def test_memory_for_bodies_is_bounded_and_every_check_ends_well(site: Site) -> None:
    site.routes["/"] = Answer(200, b"x" * 1_000_000 + b"end")
    rule = [{"type": "body_contains", "value": "end"}]
    with Engine(settings(max_per_host=100), body_memory_bytes=3 * 1024 * 1024) as probe:
        for number in range(40):
            probe.add(target(site.url(f"/?{number}"), assertions=rule, timeout=10))
        for number in range(5):
            probe.add(target(site.url(f"/?post{number}"), assertions=rule, timeout=10, method="POST"))
        results = finish(probe)
    assert [result.verdict for result in results] == [Verdict.UP] * 45
    assert all(len(result.attempts) == 1 for result in results)
    assert sum(request.method == "POST" for request in site.requests) == 5  # None of them was sent twice.


def test_hanging_checks_with_assertions_hold_up_no_other(site: Site) -> None:
    rule = [{"type": "body_contains", "value": "fine"}]
    with RawServer() as silent, Engine(settings(max_per_host=1000), body_memory_bytes=1) as probe:
        for number in range(100):
            probe.add(target(silent.url(f"/?{number}"), assertions=rule, timeout=3, retries=0))
        for number in range(20):
            probe.add(target(site.url(f"/?{number}"), assertions=rule))
        good: list[CheckResult] = []
        while len(good) < 20:
            good += probe.poll(1)
        assert {result.verdict for result in good} == {Verdict.UP}


LONG_RULE = [{"type": "body_not_matches", "pattern": "never[0-9]{40}"}]
"""More than is judged at once on a body of a mebibyte."""


@pytest.fixture
def gavel(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing that takes long is judged before it falls."""
    falls = threading.Event()

    def waiting(*given: Any) -> Finding:
        falls.wait(30)
        return finding(*given)

    monkeypatch.setattr("worker.probe.judge.finding", waiting)
    yield falls
    falls.set()


def test_assertions_that_take_long_hold_up_no_other(site: Site, gavel: threading.Event) -> None:
    site.routes["/large"] = Answer(200, b"ab" * 500_000)
    with Engine(settings(max_per_host=100)) as probe:
        for number in range(20):
            probe.add(target(site.url(f"/large?{number}"), assertions=LONG_RULE))
        for number in range(20):
            probe.add(target(site.url(f"/?{number}"), assertions=[{"type": "body_size", "max": 100}]))
        first: list[CheckResult] = []
        while len(first) < 20:
            first += probe.poll(1)
        assert {result.verdict for result in first} == {Verdict.UP}
        assert not any("large" in result.target_id for result in first)
        assert probe.poll(0) == []
        gavel.set()
        assert [result.verdict for result in finish(probe)] == [Verdict.UP] * 20


def test_closing_waits_for_no_judgement(site: Site, gavel: threading.Event) -> None:
    site.routes["/"] = Answer(200, b"ab" * 500_000)
    with Engine(settings()) as probe:
        probe.add(target(site.url(), assertions=LONG_RULE))
        while not any(thread.name == "probe-judge" for thread in threading.enumerate()):
            probe.poll(0.01)
    assert not gavel.is_set()
    assert probe.in_flight == 0


def test_what_is_not_judged_in_time_is_unknown(
    site: Site, gavel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.probe.engine.JUDGED_WITHIN_SECONDS", 0.0)
    site.routes["/"] = Answer(200, b"ab" * 500_000)
    with Engine(settings()) as probe:
        probe.add(target(site.url(), assertions=LONG_RULE, timeout=1, retries=2))
        (result,) = finish(probe)
        assert (result.verdict, result.reason, len(result.attempts)) == (Verdict.UNKNOWN, Reason.INTERNAL, 1)
        assert result.sentence == "the monitor had no time to judge this check's assertions"
        gavel.set()
        probe.add(target(site.url(), assertions=LONG_RULE))  # What comes too late harms nobody.
        assert finish(probe)[0].verdict is Verdict.UP


def test_a_bug_in_a_judgement_ends_only_that_check(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(assertions: Any, *rest: Any) -> Finding:
        if assertions[0].pattern.startswith("bug"):
            raise KeyError("s3cr3t")
        return finding(assertions, *rest)

    monkeypatch.setattr("worker.probe.judge.finding", broken)
    site.routes["/"] = Answer(200, b"ab" * 500_000)
    with Engine(settings()) as probe:
        probe.add(target(site.url("/?1"), assertions=[{"type": "body_not_matches", "pattern": "bug"}]))
        probe.add(target(site.url("/?2"), assertions=LONG_RULE))
        results = {result.target_id[-1]: result for result in finish(probe)}
    assert (results["1"].verdict, results["1"].reason) == (Verdict.UNKNOWN, Reason.INTERNAL)
    assert results["2"].verdict is Verdict.UP


def test_what_the_monitor_cannot_decide_is_unknown_and_not_down(site: Site) -> None:
    site.routes["/"] = Answer(200, b"[" + b"[]," * 300_000 + b"0]")
    result = check(site.url(), assertions=[{"type": "json", "path": "$[0]", "operator": "exists"}], retries=2)
    assert (result.verdict, result.reason, len(result.attempts)) == (Verdict.UNKNOWN, Reason.INTERNAL, 1)
    assert result.sentence == (
        "the monitor could not decide an assertion, json $[0] exists: "
        "the body has more objects, arrays and values than are read as JSON"
    )


def test_no_thread_is_started_for_what_is_judged_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.probe.engine.Judge.ask", pytest.fail)
    site.routes["/"] = Answer(200, b'{"status": "ok", "items": [1, 2, 3]}')
    rules = [
        {"type": "json", "path": "$.status", "operator": "equals", "value": "ok"},
        {"type": "body_matches", "pattern": "ok"},
        {"type": "body_contains", "value": "items"},
        {"type": "max_response_ms", "value": 5000},
    ]
    assert check(site.url()).verdict is Verdict.UP
    assert check(site.url(), assertions=rules).verdict is Verdict.UP


def test_time_that_the_monitor_lost_itself_makes_nobody_slow(site: Site) -> None:
    site.routes["/"] = Answer(200, delay_seconds=0.1)
    with Engine(settings()) as probe:
        probe.add(target(site.url("/?asserted"), assertions=[{"type": "max_response_ms", "value": 400}], timeout=9))
        probe.add(target(site.url("/?degraded"), degraded_ms=400, timeout=9))
        assert probe.poll(0.02) == []
        threading.Event().wait(0.6)  # The owner is away; the answers have come meanwhile.
        results = {result.target_id.partition("?")[2]: result for result in finish(probe)}
    assert all(result.elapsed_ms > 400 for result in results.values())
    assert results["degraded"].verdict is Verdict.UP
    assert (results["asserted"].verdict, results["asserted"].reason) == (Verdict.UNKNOWN, Reason.INTERNAL)
    assert "the monitor itself was held up" in (results["asserted"].sentence or "")


def test_json_in_many_small_chunks_is_read_to_its_end() -> None:
    lines = [b'{"id":%6d,"s":"ok"},\n' % number for number in range(20_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in [b"[", *lines, b"{}]"]) + b"0\r\n\r\n"

    def handler(connection: Any) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)

    rules = [
        {"type": "json", "path": "$[0].s", "operator": "equals", "value": "ok"},
        {"type": "body_contains", "value": "{}]"},
        {"type": "body_size", "min": 480_004, "max": 480_004},
    ]
    with RawServer(handler) as server:
        assert check(server.url(), assertions=rules).sentence is None


# --- redirects -----------------------------------------------------------------------------------------------------


def test_redirects_are_followed_as_the_check_says(site: Site) -> None:
    site.routes |= {"/": redirect("/end"), "/end": Answer(200)}
    assert check(site.url(), follow_redirects=False, expected_http_code=302).verdict is Verdict.UP
    result = check(site.url(), follow_redirects=False)
    assert result.sentence == f"expected 200, got 302, which leads to {site.url('/end')}"
    assert site.count("/end") == 0
    assert check(site.url(), follow_redirects=True, expected_http_codes=("200-399",)).status_code == 200
    assert check(site.url(), expected_http_codes=("200-399",)).status_code == 302


@pytest.mark.parametrize("limit", [0, 1, 20])
def test_the_limit_of_redirects(site: Site, limit: int) -> None:
    site.routes |= {f"/{number}": redirect(f"/{number + 1}") for number in range(30)}
    result = check(site.url("/0"), max_redirects=limit)
    assert result.reason is Reason.TOO_MANY_REDIRECTS
    assert result.sentence == f"more than {limit} redirect{'' if limit == 1 else 's'}"
    assert len(site.requests) == limit + 1
    site.routes[f"/{limit}"] = Answer(200)
    assert check(site.url("/0"), max_redirects=limit).verdict is Verdict.UP


@pytest.mark.parametrize(
    ("status", "method", "then", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (302, "HEAD", "HEAD", False),
        (302, "PUT", "PUT", True),
        (301, "DELETE", "DELETE", False),
        (307, "POST", "POST", True),
        (308, "PATCH", "PATCH", True),
        (307, "GET", "GET", False),
    ],
)
def test_the_method_after_a_redirect(site: Site, status: int, method: str, then: str, keeps_body: bool) -> None:
    site.routes |= {"/": redirect("/end", status), "/end": Answer(200)}
    body = {"type": "json", "content": {"a": 1}} if method in ("POST", "PUT", "PATCH") else None
    assert check(site.url(), method=method, body=body, headers={"X-Own": "yes"}).verdict is Verdict.UP
    last = site.requests[-1]
    assert (last.path, last.method, last.headers["x-own"]) == ("/end", then, "yes")
    assert (last.body == b'{"a": 1}') == keeps_body
    assert ("content-type" in last.headers) == keeps_body


@pytest.mark.parametrize("status", [302, 307])
def test_nothing_of_ours_crosses_to_another_origin_or_comes_back(site: Site, other: Site, status: int) -> None:
    site.routes |= {"/": redirect(other.url("/there"), status), "/back": Answer(200)}
    other.routes |= {"/there": redirect(site.url("/back"), status)}
    check(
        site.url(),
        method="POST",
        headers={"X-Own": "s", "Cookie": "a=s", "Content-Language": "de", "Accept": "text/html", "Host": "x.example"},
        user_agent="mine",
        auth={"type": "bearer", "token": "s"},
        body={"type": "form", "content": {"a": "s"}},
    )
    first, last = site.requests
    assert first.headers["x-own"] == "s"
    for request in (*other.requests, last):
        names = set(request.headers) - {"content-length"}
        assert names == {"host", "user-agent", "accept", "accept-encoding"}
        assert (request.headers["user-agent"], request.headers["accept"]) == ("http-monitoring/1.0", "*/*")
        assert request.headers["host"].startswith("127.0.0.1:")
        assert (request.method, request.body) == ("POST" if status == 307 else "GET", b"")


def test_http_and_https_of_one_host_are_two_origins(authority: trustme.CA, ca_file: str, site: Site) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure:
        secure.routes["/"] = redirect(site.url("/down"))
        site.routes["/down"] = Answer(200)
        check(secure.url(), ca_file=ca_file, headers={"X-Own": "s"}, auth={"type": "bearer", "token": "s"})
    assert secure.requests[0].headers["x-own"] == "s"
    assert not {"x-own", "authorization"} & set(site.requests[0].headers)


def test_the_credentials_that_a_redirect_names_are_used_there(site: Site, other: Site) -> None:
    site.routes["/"] = redirect(other.url().replace("//", "//guest:g@"))
    check(site.url(), auth={"type": "bearer", "token": "s"})
    assert other.requests[0].headers["authorization"] == basic("guest", "g")


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_an_unverified_certificate_is_as_good_as_any(authority: trustme.CA, site: Site) -> None:
    with Site(tls=tls(authority.issue_cert("other.example"))) as secure, Engine(settings()) as probe:
        probe.add(target(secure.url(), verify_tls=False))
        assert finish(probe)[0].verdict is Verdict.UP
        probe.add(target(secure.url()))
        assert finish(probe)[0].reason is Reason.CERTIFICATE


def test_authorities_of_the_check_are_trusted_in_place_of_the_usual_ones(
    authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    private = trustme.CA()
    with (
        Site(tls=tls(private.issue_cert("127.0.0.1"))) as inside,
        Site(tls=tls(authority.issue_cert("127.0.0.1"))) as outside,
    ):
        pem = private.cert_pem.bytes().decode()
        assert check(inside.url(), ca_file=ca_file, ca_certificate=pem).verdict is Verdict.UP
        assert check(outside.url(), ca_file=ca_file, ca_certificate=pem).reason is Reason.CERTIFICATE
        assert check(outside.url(), ca_file=ca_file).verdict is Verdict.UP
        assert check(inside.url(), ca_file=ca_file).reason is Reason.CERTIFICATE


def demanding(authority: trustme.CA) -> ssl.SSLContext:
    context = tls(authority.issue_cert("127.0.0.1", "localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    # In TLS 1.3 the client is through before the server has looked, and the server's reset may overtake its alert.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context


def client_pem(authority: trustme.CA) -> str:
    return authority.issue_cert("me@example.com").private_key_and_cert_chain_pem.bytes().decode()


def test_a_client_certificate_is_shown_to_its_own_origin_only(authority: trustme.CA, ca_file: str) -> None:
    pem = client_pem(authority)
    with Site(tls=demanding(authority)) as first, Site(tls=demanding(authority)) as second:
        assert check(first.url(), ca_file=ca_file, client_certificate=pem).verdict is Verdict.UP
        first.routes["/"] = redirect(second.url())
        result = check(first.url(), ca_file=ca_file, client_certificate=pem)
    assert result.reason is Reason.TLS
    assert result.sentence == f"the TLS handshake with 127.0.0.1:{second.port} failed"
    assert second.requests == []


def test_a_client_certificate_that_is_missing_or_wrong(authority: trustme.CA, ca_file: str) -> None:
    with Site(tls=demanding(authority)) as site:
        missing = check(site.url(), ca_file=ca_file)
        wrong = check(site.url(), ca_file=ca_file, client_certificate=client_pem(trustme.CA()))
    assert (missing.reason, wrong.reason) == (Reason.TLS, Reason.TLS)
    assert missing.sentence == f"the TLS handshake with 127.0.0.1:{site.port} failed"
    assert wrong.sentence == f"127.0.0.1:{site.port} does not accept the client certificate"


NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_certificates_that_cannot_be_used_are_results(authority: trustme.CA, ca_file: str) -> None:
    one, two = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    mixed = one.cert_chain_pems[0].bytes().decode() + two.private_key_pem.bytes().decode()
    broken = NO_CERTIFICATE + one.private_key_pem.bytes().decode()
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as site:
        unusable: list[tuple[dict[str, Any], str]] = [
            ({"ca_certificate": NO_CERTIFICATE}, "the ca_certificate of this check cannot be read"),
            ({"client_certificate": broken}, "the client certificate of this check cannot be used"),
            (
                {"client_certificate": mixed},
                "the private key of this check's client certificate does not belong to it",
            ),
        ]
        for options, sentence in unusable:
            result = check(site.url(), ca_file=ca_file, retries=3, **options)
            assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.CERTIFICATE)
            assert result.sentence == sentence
            assert len(result.attempts) == 1


# --- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "sent"), [("1.0", "HTTP/1.0"), ("1.1", "HTTP/1.1"), (None, "HTTP/1.1")])
def test_the_version_of_http_is_spoken(
    authority: trustme.CA, ca_file: str, site: Site, version: str | None, sent: str
) -> None:
    site.routes["/"] = Answer(200, version=sent[-3:])
    assert check(site.url(), http_version=version).verdict is Verdict.UP
    assert site.requests[0].version == sent
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure:
        assert check(secure.url(), ca_file=ca_file, http_version=version).verdict is Verdict.UP
    assert secure.requests[0].version == sent


def test_http2_is_spoken(authority: trustme.CA, ca_file: str) -> None:
    with Http2Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure, Http2Site() as plain:
        for version in (None, "2"):
            result = check(
                secure.url(),
                ca_file=ca_file,
                http_version=version,
                headers={"X-Own": "yes"},
                assertions=[{"type": "body_contains", "value": "fine"}],
            )
            assert result.verdict is Verdict.UP, result.sentence
            assert set(result.phases) == {"connect", "tls", "wait", "transfer"}
            assert result.answer is not None
            assert result.answer.headers == (("server", "two"),)
        assert check(plain.url(), http_version="2").verdict is Verdict.UP
    assert [request.version for request in (*secure.requests, *plain.requests)] == ["HTTP/2"] * 3
    assert secure.requests[0].headers["x-own"] == "yes"


def test_http2_that_is_wanted_and_not_spoken_is_down(authority: trustme.CA, ca_file: str, site: Site) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure:
        result = check(secure.url(), ca_file=ca_file, http_version="2")
    assert (result.reason, result.sentence) == (Reason.PROTOCOL, "expected HTTP/2, got HTTP/1.1")
    result = check(site.url(), http_version="2")
    assert result.reason in (Reason.PROTOCOL, Reason.RESET)


def test_only_addresses_of_the_version_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"both.example": ["127.0.0.1", "::1"], "four.example": ["127.0.0.1"]})
    with Site(address="::1") as site:
        six = check(site.url(host="both.example"), ip_version=6)
        four = check(site.url(host="both.example"), ip_version=4)
        none = check(site.url(host="four.example"), ip_version=6)
        literal = check(site.url(host="[::1]"), ip_version=6)
        wrong = check(site.url(host="[::1]"), ip_version=4)
    assert (six.verdict, literal.verdict) == (Verdict.UP, Verdict.UP)
    assert six.last is not None
    assert six.last.address == f"[::1]:{site.port}"
    assert four.reason is Reason.REFUSED
    assert (none.reason, none.sentence) == (Reason.DNS, "the name four.example has no IPv6 address")
    assert (wrong.reason, wrong.sentence) == (Reason.UNREACHABLE, "::1 is no IPv4 address")
    assert wrong.verdict is Verdict.DOWN


# --- proxies -------------------------------------------------------------------------------------------------------


def test_an_http_proxy_forwards(
    site: Site, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    site.routes["/secret"] = Answer(200)
    with HttpProxy(credentials="anna:s:\u00e9") as proxy, Site(tls=tls(authority.issue_cert("127.0.0.1"))) as secure:
        url = f"http://anna:s%3A%C3%A9@127.0.0.1:{proxy.port}"
        plain = check(site.url("/secret"), proxy=url)
        tunnelled = check(secure.url(), proxy=url, ca_file=ca_file, auth={"type": "bearer", "token": "ours"})
        unauthorized = check(secure.url(), proxy=f"http://127.0.0.1:{proxy.port}", ca_file=ca_file)
    assert (plain.verdict, tunnelled.verdict) == (Verdict.UP, Verdict.UP)
    assert tunnelled.answer is not None
    assert "x-proxy" not in dict(tunnelled.answer.headers)
    assert "proxy-authorization" not in site.requests[0].headers or not plain.sentence
    assert proxy.heads[0].startswith(f"GET {site.url('/secret')} ")
    assert proxy.heads[1].startswith(f"CONNECT 127.0.0.1:{secure.port} ")
    assert "ours" not in proxy.heads[1]
    assert secure.requests[0].headers["authorization"] == "Bearer ours"
    assert "proxy-authorization" not in secure.requests[0].headers
    assert unauthorized.reason is Reason.UNREACHABLE
    assert unauthorized.sentence == "the proxy answered the request for a connection with 407"


def test_a_name_goes_to_the_proxy_even_if_nobody_here_knows_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"proxy.example": ["127.0.0.1"]})
    with HttpProxy() as proxy:
        result = check(site.url(host="inside.example"), proxy=f"http://proxy.example:{proxy.port}")
    assert result.verdict is Verdict.UP, result.sentence
    assert site.requests[0].headers["host"] == f"inside.example:{site.port}"
    assert result.last is not None
    assert result.last.address == f"127.0.0.1:{proxy.port}"
    unknown = check(site.url(), proxy="http://nowhere.example:1")
    assert (unknown.reason, unknown.sentence) == (
        Reason.DNS,
        "the name nowhere.example of the proxy does not resolve",
    )


def test_an_https_proxy_is_verified(site: Site, authority: trustme.CA, ca_file: str) -> None:
    with HttpProxy(tls=tls(authority.issue_cert("127.0.0.1"))) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        assert check(site.url(), proxy=url, ca_file=ca_file).verdict is Verdict.UP
        result = check(site.url(), proxy=url, verify_tls=False)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.CERTIFICATE)


@pytest.mark.parametrize(
    ("scheme", "asked"), [("socks5", ("address", "127.0.0.1")), ("socks5h", ("name", "named.example"))]
)
def test_a_socks_proxy_forwards(
    site: Site,
    authority: trustme.CA,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    asked: tuple[str, str],
) -> None:
    forbidden = ["169.254.169.254"] if scheme == "socks5" else []  # It is given an address, and so a good one.
    resolve(monkeypatch, {"named.example": [*forbidden, "127.0.0.1"]})
    with SocksProxy() as proxy, Site(tls=tls(authority.issue_cert("named.example"))) as secure:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        plain = check(site.url(host="named.example"), proxy=url)
        verified = check(secure.url(host="named.example"), proxy=url, ca_file=ca_file)
    assert (plain.verdict, verified.verdict) == (Verdict.UP, Verdict.UP), (plain.sentence, verified.sentence)
    assert proxy.asked == [asked, asked]
    assert site.requests[0].headers["host"] == f"named.example:{site.port}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(1, Reason.UNREACHABLE), (2, Reason.UNREACHABLE), (4, Reason.UNREACHABLE), (5, Reason.REFUSED)],
)
def test_why_a_socks_proxy_does_not_forward(site: Site, reply: int, reason: Reason) -> None:
    with SocksProxy(reply=reply) as proxy:
        result = check(site.url(), proxy=f"socks5h://127.0.0.1:{proxy.port}")
    assert (result.verdict, result.reason) == (Verdict.DOWN, reason)
    assert (result.sentence or "").startswith("the proxy ")


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_a_proxy_that_is_not_there(site: Site, scheme: str) -> None:
    port = free_port()
    result = check(site.url(), proxy=f"{scheme}://127.0.0.1:{port}")
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.REFUSED)
    assert result.sentence == f"connection refused by 127.0.0.1:{port}"


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("answer", [b"", b"\0\0\0\0garbage", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000])
def test_a_proxy_that_misbehaves(authority: trustme.CA, scheme: str, answer: bytes) -> None:
    def handler(connection: Any) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with RawServer(handler) as proxy:
        result = check("https://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{proxy.port}", timeout=2)
    assert result.verdict is Verdict.DOWN, result.sentence
    assert result.reason in (Reason.PROTOCOL, Reason.RESET, Reason.UNREACHABLE, Reason.TLS)


@pytest.mark.parametrize(
    ("scheme", "endpoint"),
    [("http", "https://127.0.0.1:1/"), ("socks5", "http://127.0.0.1:1/"), ("socks5h", "http://127.0.0.1:1/")],
)
def test_a_proxy_that_says_nothing_is_said_to_be_silent(scheme: str, endpoint: str) -> None:
    with RawServer() as proxy:
        result = check(endpoint, proxy=f"{scheme}://127.0.0.1:{proxy.port}", timeout=0.3)
    assert (result.reason, set(result.phases)) == (Reason.TIMEOUT, {"connect"})
    assert re.fullmatch(
        r"no answer within 0\.3 s: connected in \d+ ms, then the proxy was silent", result.sentence or ""
    )


@pytest.mark.parametrize(
    ("answer", "reason", "sentence"),
    [
        (b"", Reason.RESET, "the proxy closed the connection"),
        (b"HTTP/1.1 2", Reason.RESET, "the proxy closed the connection"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            Reason.PROTOCOL,
            "the proxy answered the request for a connection with 100",
        ),
    ],
)
def test_a_proxy_that_makes_no_tunnel_is_no_fault_of_ours(answer: bytes, reason: Reason, sentence: str) -> None:
    with RawServer(answering(answer)) as proxy:
        result = check("https://127.0.0.1:1/", proxy=f"http://127.0.0.1:{proxy.port}", timeout=2)
    assert (result.reason, result.sentence) == (reason, sentence)


def test_a_proxy_that_is_silent_is_a_timeout(site: Site) -> None:
    with RawServer() as proxy:
        for scheme in ("http", "socks5h"):
            result = check(site.url(), proxy=f"{scheme}://127.0.0.1:{proxy.port}", timeout=0.3)
            assert result.reason is Reason.TIMEOUT


# --- the cap of a host ---------------------------------------------------------------------------------------------


def test_no_host_gets_more_than_its_share_and_no_other_waits(site: Site, other: Site) -> None:
    held: list[int] = []
    most = 0

    def route(_: Received) -> Answer:
        nonlocal most
        held.append(1)
        most = max(most, len(held))
        site.closing.wait(0.1)
        held.pop()
        return Answer(200)

    site.routes["/"] = route
    with Engine(settings(max_per_host=4)) as probe:
        for number in range(16):
            probe.add(target(site.url(f"/?{number}"), timeout=0.3, retries=0))
        for number in range(4):
            probe.add(target(other.url(f"/?{number}", host="localhost")))
        results = finish(probe)
    assert [result.verdict for result in results] == [Verdict.UP] * 20, [result.sentence for result in results]
    assert most == 4
    assert {result.target_id for result in results[:4]} == {
        other.url(f"/?{number}", host="localhost") for number in range(4)
    }
    crowd = sorted(result.started_at for result in results if str(site.port) in result.target_id)
    assert crowd[-1] - crowd[0] >= 250  # The line is no part of anybody's check: 0.4 s of it against 0.3 s each.
    assert all(result.elapsed_ms < 300 for result in results)


def most_at_once(endpoints: list[str], **options: Any) -> int:
    """How many of silent targets are under way together, where a host may have two."""
    with Engine(settings(max_per_host=2)) as probe:
        for endpoint in endpoints:
            probe.add(target(endpoint, timeout=5, retries=0, **options))
        probe.poll(0.3)
        return len(probe._line.begun)


def test_all_ports_and_spellings_of_a_host_share_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"one.example": ["127.0.0.1"], "one.example.": ["127.0.0.1"]})
    with RawServer() as first, RawServer() as second:
        ports = (first.port, second.port)
        assert most_at_once([f"http://127.0.0.1:{port}/{path}" for port in ports for path in "ab"]) == 2
        assert (
            most_at_once([f"http://{name}:{ports[0]}/" for name in ("one.example", "ONE.example", "one.example.")]) == 2
        )


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_is_the_host_that_is_counted(scheme: str) -> None:
    with RawServer() as proxy:
        endpoints = [f"http://192.0.2.{number}/" for number in range(1, 7)]
        assert most_at_once(endpoints, proxy=f"{scheme}://127.0.0.1:{proxy.port}") == 2


def test_who_is_to_begin_at_once_waits_for_no_other(site: Site) -> None:
    with RawServer() as silent, Engine(settings(max_per_host=1), max_transfers=2) as probe:
        for number in range(5):
            probe.add(target(silent.url(f"/{number}"), timeout=3, retries=0))
        probe.add(target(silent.url("/x").replace("127.0.0.1", "localhost"), timeout=3, retries=0))
        probe.poll(0.1)
        probe.add(target(site.url()), at_once=True)
        assert [result.target_id for result in probe.poll(1)] == [site.url()]


def test_a_retry_waits_outside_the_share_of_its_host(site: Site) -> None:
    site.routes |= {"/again": [Answer(504), Answer(504), Answer(200)], "/": Answer(200)}
    with Engine(settings(max_per_host=1)) as probe:
        probe.add(target(site.url("/again"), retries=3, backoff_factor=0.2))
        probe.add(target(site.url()))
        assert [result.target_id for result in finish(probe)] == [site.url(), site.url("/again")]


def test_a_url_that_cannot_be_prepared_is_unknown_and_harms_nobody(site: Site) -> None:
    with Engine(settings(max_per_host=1)) as probe:
        probe.add(target("http://[/"))
        probe.add(target("http://[/"))
        probe.add(target(site.url()))
        verdicts = sorted(result.verdict for result in finish(probe))
    assert verdicts == [Verdict.UNKNOWN, Verdict.UNKNOWN, Verdict.UP]


def test_a_json_body_arrives_as_it_was(site: Site) -> None:
    document = {"text": "\u00e9\u20ac", "list": [1.5, True, None]}
    check(site.url(), method="POST", body={"type": "json", "content": document})
    assert json.loads(site.requests[0].body) == document
