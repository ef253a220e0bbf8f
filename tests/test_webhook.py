"""The webhook as a real receiver gets it, and what becomes of it when the receiver does not take it."""

import hashlib
import hmac
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.fakes import BEGAN_AT, alert
from tests.sites import Answer, RawServer, Site, read_request, redirect, reset
from worker.alerts.webhook import DELIVERY, SIGNATURE, Refusal, Webhook, answered, is_final, sign, status, verify

SECRET = "whsec-3e1f"
TITLE = "Shop & Kasse 支払い"
PATIENCE_SECONDS = 0.3


def webhook(url: str, secret: str | None = SECRET, *, timeout_seconds: float = PATIENCE_SECONDS) -> Webhook:
    return Webhook(url, secret, timeout_seconds=timeout_seconds, public_url="https://monitor.example")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "NETRC"):
            monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/hook": Answer(200, b"thanks")}) as opened:
        yield opened


@contextmanager
def struck(seconds: float, error: BaseException) -> Iterator[None]:
    """Raises ``error`` in the main thread after a while, as RQ does when a job takes too long."""

    def strike(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- what arrives --------------------------------------------------------------------------------------------------


def test_a_receiver_gets_every_documented_field(site: Site) -> None:
    before = time.time()
    told = alert(title=TITLE, detected_at=BEGAN_AT + 412, to=("private@example.org",))
    assert webhook(site.url("/hook")).send("m1", [told]) is None
    (request,) = site.requests
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    body = json.loads(request.body)
    assert abs(time.mktime(time.strptime(body.pop("sent_at"), "%Y-%m-%dT%H:%M:%S.%fZ")) - time.timezone - before) < 5
    assert body == {
        "id": "m1",
        "alerts": [
            {
                "id": "t1-1",
                "kind": "down",
                "status": "down",
                "target_id": "t1",
                "title": TITLE,
                "endpoint": "https://www.google.com/",
                "url": "https://monitor.example/targets/t1",
                "incident": "t1-1",
                "began_at": "2026-11-22T17:01:05.000Z",
                "detected_at": "2026-11-22T17:01:05.412Z",
                "at": "2026-11-22T17:01:06.000Z",
                "reason": "status",
                "sentence": "The server answered 503, and 200 was expected.",
                "expected": "200",
                "got": 503,
                "elapsed_ms": 412.4,
                "bottleneck": "wait",
                "address": "142.250.74.36:443",
                "is_up": None,
                "flips": None,
            }
        ],
    }


def test_an_alert_about_the_monitor_has_the_same_fields_with_nulls(site: Site) -> None:
    trouble = alert(kind="trouble", target_id="", endpoint="", incident=None, got=None)
    webhook(site.url("/hook")).send("m1", [alert(), trouble])
    of_target, of_monitor = json.loads(site.requests[0].body)["alerts"]
    assert of_target.keys() == of_monitor.keys()
    assert {name for name, value in of_monitor.items() if value is None} == {
        *("target_id", "endpoint", "url", "incident", "got", "detected_at", "is_up", "flips")
    }


@pytest.mark.parametrize(
    ("kind", "is_up", "said"),
    [
        ("down", None, "down"),
        ("reminder", None, "down"),
        ("trouble", None, "down"),
        ("flapping", None, "down"),
        ("flapping", True, "up"),
        ("calm", False, "down"),
        ("calm", None, "up"),
        ("up", None, "up"),
        ("well", None, "up"),
    ],
)
def test_the_status_is_what_holds_after_the_alert(kind: str, is_up: bool | None, said: str) -> None:
    assert status(alert(kind=kind, is_up=is_up)) == said


def test_a_repetition_is_known_by_its_id(site: Site) -> None:
    for _ in range(2):
        webhook(site.url("/hook")).send("m1", [alert()])
    assert [request.headers[DELIVERY.lower()] for request in site.requests] == ["m1", "m1"]
    assert [json.loads(request.body)["id"] for request in site.requests] == ["m1", "m1"]


def test_a_name_and_password_in_the_url_sign_in(site: Site) -> None:
    webhook(site.url("/hook").replace("http://", "http://me:pass@")).send("m1", [alert()])
    assert site.requests[0].headers["authorization"] == "Basic bWU6cGFzcw=="


# --- signed --------------------------------------------------------------------------------------------------------


def test_the_signature_fits_the_bytes_that_arrived(site: Site) -> None:
    webhook(site.url("/hook")).send("m1", [alert(title=TITLE)])
    (request,) = site.requests
    header = request.headers[SIGNATURE.lower()]
    at, mac = (part.partition("=")[2] for part in header.split(","))
    # As a receiver in another language would do it.
    assert mac == hmac.new(SECRET.encode(), f"{at}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert verify(SECRET, header, request.body, now=time.time())
    assert not verify(SECRET, header, request.body + b" ", now=time.time())


def test_without_a_secret_there_is_no_signature(site: Site) -> None:
    webhook(site.url("/hook"), None).send("m1", [alert()])
    assert SIGNATURE.lower() not in site.requests[0].headers


GOOD = sign(SECRET, b"body", now=1000)


@pytest.mark.parametrize(
    ("header", "now", "is_good"),
    [
        (GOOD, 1000, True),
        (GOOD, 1300, True),
        (GOOD, 700, True),
        (GOOD, 1301, False),
        (GOOD, 699, False),
        (GOOD.replace(",", " , "), 1000, True),
        (GOOD + ",v2=later", 1000, True),
        (GOOD.replace("v1=", "v1=00,v1="), 1000, True),
        (sign("another", b"body", now=1000), 1000, False),
        (sign(SECRET, b"other", now=1000), 1000, False),
        (GOOD.replace("t=1000", "t=1001"), 1000, False),
        (GOOD.replace("t=1000", "t=1000,t=1000"), 1000, False),
        (GOOD.replace("t=1000,", ""), 1000, False),
        (GOOD.partition(",")[0], 1000, False),
        ("t=1000,v1=", 1000, False),
        ("t=1e3,v1=" + GOOD[-64:], 1000, False),
        ("t=\u0661\u0660\u0660\u0660,v1=" + GOOD[-64:], 1000, False),
        ("t=1000,v1=\u00e9\udc80", 1000, False),
        ("t=" + "9" * 5000, 1000, False),
        ("", 1000, False),
        (",,==,", 1000, False),
    ],
)
def test_only_a_fresh_signature_of_the_secret_is_good(header: str, now: float, is_good: bool) -> None:
    assert verify(SECRET, header, b"body", now=now) is is_good


# --- refused, or worth another try ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 204])
def test_any_2xx_is_taken(site: Site, code: int) -> None:
    site.routes["/hook"] = Answer(code)
    assert webhook(site.url("/hook")).send("m1", [alert()]) is None


@pytest.mark.parametrize(
    ("code", "for_good"),
    [
        *((code, True) for code in (400, 401, 403, 404, 410, 413, 422)),
        *((code, False) for code in (302, 408, 425, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_a_4xx_is_final_unless_it_says_later(site: Site, code: int, for_good: bool) -> None:
    site.routes["/hook"] = Answer(code, b"no")
    refusal = webhook(site.url("/hook")).send("m1", [alert()])
    assert refusal is not None
    assert refusal.answer.startswith(str(code))
    assert refusal.is_final is is_final(code) is for_good
    assert not refusal.may_have_arrived


def test_a_refusal_says_the_code_in_words_of_ours() -> None:
    assert answered(503) == Refusal("503 Service Unavailable")
    assert answered(599) == Refusal("599")
    assert not answered(200).is_final


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(site: Site, code: int) -> None:
    site.routes["/moved"] = redirect(site.url("/hook"), code)
    refusal = webhook(site.url("/moved")).send("m1", [alert()])
    assert refusal is not None
    assert not refusal.is_final
    assert site.count("/hook") == 0


def unheard(url: str) -> Refusal:
    """What a webhook says that got no answer; it must say so in time, and that it is worth another try."""
    began = time.monotonic()
    refusal = webhook(url).send("m1", [alert()])
    assert time.monotonic() - began < PATIENCE_SECONDS * 2 + 2
    assert refusal is not None
    assert refusal.answer.startswith("000 ")
    assert not refusal.is_final
    return refusal


def test_a_receiver_that_nobody_runs_has_got_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert unheard(f"http://127.0.0.1:{port}/") == Refusal("000 no connection")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid", "a..b"])
def test_a_name_that_leads_nowhere_has_got_nothing(host: str) -> None:
    refusal = webhook(f"http://{host}/", timeout_seconds=20).send("m1", [alert()])
    assert refusal is not None
    assert not refusal.is_final
    assert not refusal.may_have_arrived


def test_a_silent_receiver_is_given_up_in_time_and_may_have_it() -> None:
    with RawServer() as server:
        assert unheard(server.url()).may_have_arrived


@pytest.mark.parametrize(
    ("head", "drop"),
    [(b"", b"H"), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["status", "header", "continue"],
)
def test_a_receiver_whose_answer_has_no_end_is_given_up_in_time_and_may_have_it(head: bytes, drop: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while not server.closing.wait(0.02):
            connection.sendall(drop)

    with RawServer(drip) as server:
        assert unheard(server.url()).may_have_arrived


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
def test_a_receiver_that_hangs_up_without_an_answer_may_have_it(leave: Callable[[socket.socket], None]) -> None:
    def take(connection: socket.socket) -> None:
        read_request(connection)
        leave(connection)

    with RawServer(take) as server:
        assert unheard(server.url()).may_have_arrived


def test_a_receiver_that_does_not_speak_http_may_have_it() -> None:
    def babble(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"what do you want\r\n\r\n")

    with RawServer(babble) as server:
        assert unheard(server.url()).may_have_arrived


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"])
def test_a_body_without_an_end_is_not_read(head: bytes) -> None:
    def pour(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while not server.closing.is_set():
            connection.sendall(b"x" * 65536)

    with RawServer(pour) as server:
        refusal = webhook(server.url()).send("m1", [alert()])
    assert refusal == (None if b"200" in head else Refusal("302 Found"))


def test_a_deadline_of_the_job_is_not_taken_for_a_fault_of_the_receiver() -> None:
    class JobTimeoutException(Exception):  # noqa: N818 - RQ's name
        """What RQ raises from SIGALRM, in the middle of anything."""

    with RawServer() as server, struck(0.1, JobTimeoutException()), pytest.raises(JobTimeoutException):
        webhook(server.url(), timeout_seconds=20).send("m1", [alert()])


# --- the way there -------------------------------------------------------------------------------------------------


def test_neither_proxies_nor_netrc_of_the_environment_are_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert webhook(site.url("/hook")).send("m1", [alert()]) is None
    assert "authorization" not in site.requests[0].headers


@pytest.mark.parametrize("is_trusted", [True, False])
def test_only_a_receiver_with_a_trusted_certificate_gets_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Site({"/hook": Answer(200)}, tls=context) as site:
        refusal = webhook(site.url("/hook"), timeout_seconds=10).send("m1", [alert()])
    assert len(site.requests) == is_trusted
    assert refusal == (None if is_trusted else Refusal("000 TLS failure or a certificate that is not trusted"))
