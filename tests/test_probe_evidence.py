"""What a failure leaves behind: a sentence for people, certificates, headers and a body, and never a secret."""

import json
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from shared.check import Check
from shared.monitor import PHASES, AnswerSeen, CertificateSeen, CheckResult, Reason, Verdict
from tests.probing import Connection, answering, ca_path, check, finish, free_port, settings, target, tls
from tests.sites import Answer, RawServer, Received, Site, redirect
from worker.probe import Engine
from worker.probe.certificate import certificate_sentence
from worker.probe.failure import Circumstances, failure_of
from worker.probe.secrecy import Secrets
from worker.probe.text import decode, mask


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Good Authority")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    return ca_path(authority, tmp_path)


def seen(result: CheckResult) -> AnswerSeen:
    assert result.answer is not None
    return result.answer


# --- the answer ----------------------------------------------------------------------------------------------------


def test_a_failure_shows_headers_and_the_beginning_of_the_body(site: Site) -> None:
    headers = [(f"X-{number}", "v") for number in range(100)] + [("X-Long", "x " * 1000)]
    site.routes["/"] = Answer(
        500, b"It broke.\r\n\tHere\x00\x1b[31m\x80" + b"." * 5000, [("X-Long", "x " * 1000), *headers]
    )
    result = check(site.url())
    answer = seen(result)
    assert answer.body is not None
    assert answer.body.startswith("It broke.\n\tHere\ufffd\ufffd[31m\ufffd...")
    assert 1900 < len(answer.body) <= 2048
    assert answer.body_bytes == 5023
    assert len(answer.headers) == 50
    assert answer.headers[0] == ("Content-Length", "5023")
    assert len(dict(answer.headers)["X-Long"]) == 256


def test_a_success_leaves_a_summary(site: Site) -> None:
    headers = [("Content-Type", "text/html"), ("SERVER", "nginx"), ("ETag", '"1"')]
    site.routes["/"] = Answer(200, b"fine", [*headers, ("X-Other", "x"), ("Set-Cookie", "a")])
    assert seen(check(site.url())) == AnswerSeen(headers=tuple(headers[:2]), body_bytes=4)


def test_what_was_never_answered_leaves_nothing() -> None:
    assert check(f"http://127.0.0.1:{free_port()}/").answer is None


def test_an_answer_that_breaks_off_shows_what_there_was() -> None:
    with RawServer(answering(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 100\r\n\r\nbeginning")) as server:
        answer = seen(check(server.url()))
    assert (answer.headers[0], answer.body, answer.body_bytes) == (("Server", "x"), "beginning", 9)


def test_an_incomplete_header_shows_nothing() -> None:
    with RawServer(answering(b"HTTP/1.1 200 OK\r\nServer: x\r\n")) as server:
        assert check(server.url()).answer is None


def test_redirects_are_shown_without_their_secrets(site: Site) -> None:
    site.routes |= {"/": redirect("/two?token=s3cr3t&a=b"), "/two": redirect("/three"), "/three": Answer(200)}
    shown = (site.url("/two?token=***&a=b"), site.url("/three"))
    assert seen(check(site.url())).redirects == shown
    assert seen(check(site.url(), expected_http_code=201)).redirects == shown
    assert seen(check(site.url(), max_redirects=1)).redirects == shown[:1]


def test_only_the_last_attempt_is_shown(site: Site) -> None:
    site.routes["/"] = [Answer(504, b"first"), Answer(500, b"second")]
    assert seen(check(site.url(), retries=3)).body == "second"


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("/login?token=s3cr3t", ", which leads to {site}/login"),
        ("https://anna:s3cr3t@other.example/a?b=c#d", ", which leads to https://***@other.example/a"),
        ("ftp://x/", ""),
        ("http://[", ""),
    ],
)
def test_a_sentence_says_where_a_redirect_leads(site: Site, location: str, place: str) -> None:
    site.routes["/"] = redirect(location, 301)
    result = check(site.url(), follow_redirects=False)
    assert result.sentence == "expected 200, got 301" + place.format(site=site.url(""))
    assert "s3cr3t" not in repr(seen(result))


# --- without secrets -----------------------------------------------------------------------------------------------


PASSWORD = "correct horse/b\u00e4ttery"


def test_a_server_that_sends_our_secrets_back_gives_none_away(site: Site) -> None:
    secrets = [PASSWORD, "hdr-value-1", "q-value-2", "body-value-3", "card-value-4"]

    def echo(request: Received) -> Answer:
        spelled = [*secrets, quote(PASSWORD), request.headers["authorization"]]
        body = json.dumps([request.query, *spelled]).encode() + request.body
        return Answer(500, body, [("X-Echo", "hdr-value-1"), ("Server", "q-value-2"), ("Location", "/x?k=q-value-2")])

    site.routes["/"] = echo
    result = check(
        site.url("/?session=q-value-2"),
        method="POST",
        auth={"type": "basic", "username": "anna.kern", "password": PASSWORD},
        headers={"X-Api-Key": "hdr-value-1"},
        body={"type": "json", "content": {"deep": [{"card": "card-value-4"}, "body-value-3"]}},
    )
    shown = repr(result)
    for secret in [*secrets, "anna.kern", quote(PASSWORD), b64encode(f"anna.kern:{PASSWORD}".encode()).decode()]:
        assert secret not in shown.replace(result.target_id, "")
    assert seen(result).body is not None


def test_a_secret_that_is_cut_gives_no_part_of_it_away(site: Site) -> None:
    token = "tok-" + "abcdefgh" * 4
    site.routes["/"] = Answer(500, b"." * 2030 + token.encode())
    body = seen(check(site.url(), auth={"type": "bearer", "token": token})).body
    assert body == "." * 2030 + "***"


POST = {"method": "POST"}
ECHOED: list[tuple[str, dict[str, Any], str, str]] = [
    ("/", {"headers": {"Cookie": 'sid="hunter2xyz"; lang=en; pin=418'}}, "no hunter2xyz", "no ***"),
    ("/", {"headers": {"Cookie": "sid=hunter2xyz; pin=418; a=b"}}, "lang=en 418 a", "lang=en *** a"),
    ("/", {"headers": {"Authorization": "Bearer short-tok-9"}}, "unknown short-tok-9", "unknown ***"),
    ("/", {"headers": {"Authorization": "Bearer short-tok-9"}}, "the Bearer is unknown", "the Bearer is unknown"),
    ("/", {"headers": {"Authorization": "Basic YW5uYTpodW50ZXIy"}}, "no anna, hunter2", "no ***, ***"),
    ("/", {"headers": {"Authorization": 'Digest username="anna.k", response="c0ffee"'}}, "c0ffee", "***"),
    ("/", {"headers": {"X-Api-Key": "k-1"}}, "no k-1", "no ***"),
    ("/", {"headers": {"X-Hook": "https://x.example/?token=abc9"}}, "no abc9", "no ***"),
    ("/", {"auth": {"type": "bearer", "token": "abc"}}, "abc, and abcd", "***, and abcd"),
    ("/", {"auth": {"type": "bearer", "token": "4815"}}, "4815 148156", "*** 148156"),
    ("/", {"auth": {"type": "bearer", "token": "Short-Tok-9"}}, "SHORT-TOK-9", "***"),
    ("/", POST | {"body": {"type": "text", "content": '{"user":"joe","pin":"hunter2xyz"} '}}, "hunter2xyz", "***"),
    ("/", POST | {"body": {"type": "text", "content": "pin=hunter2xyz&user=joe"}}, "joe hunter2xyz", "joe ***"),
    ("/", POST | {"body": {"type": "text", "content": "<pin>hunter2xyz</pin>"}}, "hunter2xyz", "***"),
    ("/", POST | {"body": {"type": "text", "content": "the tok-9-hunter is short"}}, "tok-9-hunter the", "*** the"),
    ("/", POST | {"body": {"type": "json", "content": {"pin": 4815162342}}}, "4815162342", "***"),
    ("/", POST | {"body": {"type": "json", "content": {"id": 481516}}}, '{"id": 481516}', '{"id": ***}'),
    ("/", POST | {"body": {"type": "json", "content": {"user": "hunt2yz"}}}, "hunt2yz", "***"),
    ("/", POST | {"body": {"type": "json", "content": {"password": "abc"}}}, "no abc", "no ***"),
    ("/", POST | {"body": {"type": "json", "content": {"state": "active", "n": 42}}}, "active 42", "active 42"),
    ("/", POST | {"body": {"type": "form", "content": {"field": "hunt2yz"}}}, "hunt2yz", "***"),
    ("/?a=1;token=hunter2xyz", {}, "no hunter2xyz", "no ***"),
    ("/a;token=hunter2xyz", {}, "no hunter2xyz", "no ***"),
    ("/?token=p%40ss", {}, "no p@ss", "no ***"),
]


@pytest.mark.parametrize(("path", "options", "said", "shown"), ECHOED)
def test_what_a_check_sends_in_secret_is_masked_where_it_comes_back(
    site: Site, path: str, options: dict[str, Any], said: str, shown: str
) -> None:
    site.routes[path.partition("?")[0]] = Answer(500, said.encode(), [("X-Echo", said)])
    answer = seen(check(site.url(path), **options))
    assert (answer.body, dict(answer.headers)["X-Echo"]) == (shown, shown)


SPELLED = 'p@ss/w\u00f6rd!"x'


@pytest.mark.parametrize(
    "said",
    [
        SPELLED,
        SPELLED.upper().replace("\u00d6", "\u00f6"),
        quote(SPELLED),
        quote(SPELLED, safe="").lower(),
        "".join(f"%{byte:02x}" for byte in SPELLED.encode()),
        json.dumps(SPELLED)[1:-1],
        json.dumps(SPELLED)[1:-1].replace("/", "\\/").replace("00f6", "00F6"),
        "p@ss/w&#xF6;rd!&quot;x",
        "p&#64;ss/w&ouml;rd!&#34;x",
    ],
)
def test_no_spelling_of_a_secret_is_shown(said: str) -> None:
    assert Secrets([SPELLED]).hidden(f"a%20b &amp; {said}, \\n") == "a%20b &amp; ***, \\n"


@pytest.mark.parametrize("left", range(1, 24))
@pytest.mark.parametrize("said", [SPELLED, quote(SPELLED, safe="").lower(), json.dumps(SPELLED)[1:-1]])
def test_no_beginning_of_a_secret_is_shown_where_the_body_was_cut(site: Site, said: str, left: int) -> None:
    raw = said.encode()[:left]
    site.routes["/"] = Answer(500, b"-" * (2048 - len(raw)) + said.encode() + b"-" * 50)
    answer = seen(check(site.url(), auth={"type": "basic", "username": "uuuu", "password": SPELLED}))
    assert answer.body is not None
    assert answer.body.rstrip("*\u2026") == "-" * (2048 - len(raw))


@pytest.mark.parametrize(
    "options",
    [
        POST | {"body": {"type": "text", "content": "a" * 65_000}},
        POST | {"body": {"type": "text", "content": "%" * 30_000 + "=" * 30_000}},
        POST | {"body": {"type": "text", "content": "[" * 1000 + "]" * 1000}},
        POST | {"body": {"type": "json", "content": [f"some text {number}" for number in range(3000)]}},
        {"headers": {"Authorization": "a" * 8192, "Cookie": "a=" * 4096}},
    ],
)
def test_no_check_takes_long_to_find_its_secrets(options: dict[str, Any]) -> None:
    sent = Check(endpoint="https://example.org/", **options)
    began = time.thread_time()
    Secrets.of(sent).hidden("some % text \\ & a" * 120, is_cut=True)
    assert time.thread_time() - began < 0.5


def test_the_end_of_a_text_that_was_not_cut_is_shown() -> None:
    assert Secrets(["node-5"]).hidden("an unknown no") == "an unknown no"
    assert Secrets(["node-5"]).hidden("an unknown no", is_cut=True) == "an unknown ***"


def test_of_many_secrets_each_is_found() -> None:
    words = [f"{number:03d}-secret" for number in range(300)]
    told = " and ".join(words)
    assert Secrets(words).hidden(told + " 00", is_cut=True) == " and ".join(["***"] * 300) + " ***"
    assert Secrets(words).hidden("nothing") == "nothing"


def test_secrets_that_overlap_leave_nothing_between_them() -> None:
    assert Secrets(["hunter2xyz", "xyz-and-more", "2xy"]).hidden("a hunter2xyz-and-more b") == "a *** b"


def test_a_name_of_a_header_shows_no_secret() -> None:
    with RawServer(answering(b"HTTP/1.1 500 X\r\nX-HUNTER2XYZ: 1\r\nContent-Length: 0\r\n\r\n")) as server:
        answer = seen(check(server.url(), auth={"type": "basic", "username": "uuuu", "password": "hunter2xyz"}))
    assert answer.headers[0] == ("X-***", "1")


def test_a_good_answer_shows_no_secret_either(site: Site) -> None:
    said = [("Content-Type", "text/hunter2xyz"), ("Server", "x " * 125 + "hunter2xyz")]
    site.routes["/"] = Answer(200, b"", said)
    headers = dict(seen(check(site.url(), auth={"type": "bearer", "token": "hunter2xyz"})).headers)
    assert (headers["Content-Type"], headers["Server"]) == ("text/***", "x " * 125 + "***")
    assert dict(seen(check(site.url())).headers)["Content-Type"] == "text/hunter2xyz", "nobody sent it: it is none"


@pytest.mark.parametrize(
    "assertion",
    [
        {"type": "json", "path": "$.error", "operator": "equals", "value": "none"},
        {"type": "header", "name": "X-Error", "operator": "equals", "value": "none"},
        {"type": "body_not_matches", "pattern": "x+ .*"},
        {"type": "body_contains", "value": "y" * 70 + " correct-horse-battery"},
    ],
)
def test_a_sentence_shows_no_beginning_of_a_secret_that_it_would_cut(site: Site, assertion: dict[str, Any]) -> None:
    told = "x" * 70 + " correct-horse-battery"
    site.routes["/"] = Answer(200, json.dumps({"error": told}).encode(), [("X-Error", told)])
    result = check(site.url(), auth={"type": "bearer", "token": "correct-horse-battery"}, assertions=[assertion])
    assert result.reason is Reason.ASSERTION
    assert "***" in (result.sentence or "")
    assert "corr" not in repr(result)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"password": "hunter2", "name": "x"}', '{"password": "***", "name": "x"}'),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '***', 'n': 1}"),
        ("token=abc&next=/a", "token=***&next=/a"),
        ("DB_PASSWORD: hunter2\nok", "DB_PASSWORD: ***\nok"),
        ("postgres://anna:hunter2@db/x", "postgres://***@db/x"),
        ("Authorization: Bearer a1b2c3d4", "Authorization: *** ***"),
        ("curl -H 'bearer a1b2c3d4e5'", "curl -H 'bearer ***'"),
        ("id 0123456789abcdef0123456789abcdef.", "id ***"),
        ("basic information", "basic information"),
        ("503 Service Unavailable: no server is available", "503 Service Unavailable: no server is available"),
        ('{"password": "cut in the mid', '{"password": "***"'),
    ],
)
def test_what_looks_secret_is_masked(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("\u00e4".encode("latin-1"), "text/html; charset=ISO-8859-1", "\u00e4"),
        ("\u044f".encode("koi8-r"), 'text/html; charset="koi8-r"', "\u044f"),
        ("\ufeffa".encode("utf-16-le"), "text/html", "a"),
        (b"\xef\xbb\xbfa", "", "a"),
        (b"a\xff", "text/html; charset=utf-8", "a\ufffd"),
        (b"\\u0041", "text/html; charset=unicode_escape", "\\u0041"),
        (b"abc", "text/html; charset=punycode", "abc"),
        (b"abc", "text/html; charset=windows-nothing", "abc"),
        (b"\xff\xfea", "", "\ufffd"),
    ],
)
def test_bodies_are_decoded_whatever_they_say(body: bytes, content_type: str, text: str) -> None:
    assert decode(body, content_type) == text


# --- certificates --------------------------------------------------------------------------------------------------


def test_https_has_a_tls_phase(authority: trustme.CA, ca_file: str) -> None:
    with Site(tls=tls(authority.issue_cert("127.0.0.1", "localhost"))) as site:
        result = check(site.url(), ca_file=ca_file)
        named = check(site.url(host="localhost"), ca_file=ca_file)
    assert result.verdict is Verdict.UP, result.sentence
    assert set(result.phases) == {"connect", "tls", "wait", "transfer"}
    assert tuple(named.phases) == PHASES


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("names", "validity", "sentence"),
    [
        ({}, (-9, -3.5), "the certificate expired 3 days ago (CN=www.example)"),
        ({}, (-9, -0.2), "the certificate expired 4 hours ago (CN=www.example)"),
        ({}, (1.5, 9), "the certificate is valid only from tomorrow (CN=www.example)"),
        ({}, (3.5, 9), "the certificate is valid only from 3 days from now (CN=www.example)"),
    ],
)
def test_certificates_out_of_their_time(
    authority: trustme.CA, ca_file: str, names: Any, validity: tuple[float, float], sentence: str
) -> None:
    begin, end = (NOW + timedelta(days) for days in validity)
    certificate = authority.issue_cert("127.0.0.1", common_name="www.example", not_before=begin, not_after=end)
    refused(certificate, ca_file, sentence)


def refused(certificate: trustme.LeafCert, ca_file: str, sentence: str) -> None:
    """Down at once with this sentence, the certificate as evidence, at the cost of a second handshake at the most."""
    with Site(tls=tls(certificate)) as site, Engine(settings(), ca_file=ca_file) as probe:
        for scheduled_at in (None, not_in_the_hour_of(site.url())):
            probe.add(target(site.url(), retries=3, timeout=5), scheduled_at)
            (result,) = finish(probe)
            assert (result.verdict, result.reason, result.sentence) == (Verdict.DOWN, Reason.CERTIFICATE, sentence)
            assert len(result.attempts) == 1
            assert result.last is not None
            assert (result.last.phase, list(result.phases)) == ("tls", ["connect", "tls"])
            shown = seen(result).certificate
            assert shown is not None
            pem = certificate.cert_chain_pems[0].bytes()
            der = load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
            assert shown.sha256 == sha256(der).hexdigest()
    assert site.connections == 3
    assert site.requests == []


def not_in_the_hour_of(target_id: str) -> int:
    """A turn in which the certificate of a target that is well is not looked at."""
    for minute in range(60):
        with Engine(settings()) as probe:
            probe.add(target(target_id), minute * 60_000)
            (run,) = probe._runs
            if not run._reads_certificate():
                return minute * 60_000
    raise AssertionError("it is looked at in every turn")


def test_a_certificate_for_another_name_says_for_which(authority: trustme.CA, ca_file: str) -> None:
    sentence = "the certificate is not valid for this host; it is for other.example"
    refused(authority.issue_cert("other.example"), ca_file, sentence)
    many = authority.issue_cert(*(f"{number}.example" for number in range(5)))
    sentence = "the certificate is not valid for this host; it is for 0.example, 1.example, 2.example and 2 more"
    refused(many, ca_file, sentence)


def test_an_unknown_authority_is_named(ca_file: str) -> None:
    sentence = "the certificate was not signed by a known authority (issued by Strange)"
    refused(trustme.CA(organization_name="Strange").issue_cert("127.0.0.1"), ca_file, sentence)


def test_the_chain_may_be_out_of_order_but_not_have_a_gap(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    outer = authority.create_child_ca()
    inner = outer.create_child_ca()
    leaf = inner.issue_cert("127.0.0.1")
    first, *between = [pem.bytes() for pem in leaf.cert_chain_pems]
    key = leaf.private_key_pem.bytes()
    for name, chain, verdict in [
        ("in order", [first, *between], Verdict.UP),
        ("out of order", [first, *reversed(between)], Verdict.UP),
        ("with the root in between", [first, authority.cert_pem.bytes(), *reversed(between)], Verdict.UP),
        ("twice", [first, *between, *between], Verdict.UP),
        ("with a gap", [first, between[-1]] if len(between) > 1 else [first], Verdict.DOWN),
        ("without", [first], Verdict.DOWN),
    ]:
        path = tmp_path / "chain.pem"
        path.write_bytes(key + b"".join(chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        with Site(tls=context) as site:
            result = check(site.url(), ca_file=ca_file)
        assert result.verdict is verdict, (name, result.sentence)
        if verdict is Verdict.DOWN:
            assert (result.sentence or "").startswith("the certificate was not signed by a known authority")


def test_an_intermediate_certificate_that_expired_is_told_from_the_own_one() -> None:
    good = [("Subject", "CN = own.example"), ("Start date", "Jan  1 00:00:00 2000 GMT")]
    chain = [
        [*good, ("Expire date", "Jan  1 00:00:00 3000 GMT"), ("Cert", PEM)],
        [("Subject", "O = Middle, CN = mid"), *good[1:], ("Expire date", "Jan  1 00:00:00 2020 GMT"), ("Cert", PEM)],
    ]
    now = int(datetime(2020, 1, 3, 1, tzinfo=UTC).timestamp() * 1000)
    assert certificate_sentence(10, chain, now) == "an intermediate certificate expired 2 days ago (CN=mid)"
    assert certificate_sentence(10, None, now) == "the certificate has expired"
    assert certificate_sentence(18, chain, now) == "the certificate is signed by itself (CN=own.example)"
    assert certificate_sentence(999, [[("Subject", "x")]], now) == "the certificate could not be verified"


PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_a_certificate_in_few_words(authority: trustme.CA, ca_file: str) -> None:
    begin, end = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2990, 1, 2, 3, 4, 5, tzinfo=UTC)
    certificate = authority.issue_cert("127.0.0.1", "second.example", not_before=begin, not_after=end)
    with Site(tls=tls(certificate)) as site:
        site.routes["/bad"] = Answer(500)
        good = seen(check(site.url(), ca_file=ca_file)).certificate
        with Engine(settings(), ca_file=ca_file) as probe:
            ordinary = not_in_the_hour_of(site.url())
            probe.add(target(site.url()), ordinary)
            unseen = finish(probe)[0]
            probe.add(target(site.url("/bad")), not_in_the_hour_of(site.url("/bad")))
            bad = finish(probe)[0]
    der = load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)
    assert good == CertificateSeen(
        subject="127.0.0.1",
        issuer="Good Authority",
        not_before=int(begin.timestamp() * 1000),
        not_after=int(end.timestamp() * 1000),
        sha256=sha256(der).hexdigest(),
    )
    assert (unseen.verdict, seen(unseen).certificate) == (Verdict.UP, None)
    assert (bad.sentence, seen(bad).certificate) == ("expected 200, got 500", good)
    assert bad.last is not None
    assert bad.last.status_code == 500


def test_names_in_a_certificate_are_plain(authority: trustme.CA, ca_file: str) -> None:
    hostile = authority.issue_cert("other.example", common_name="a\x1b[31m\u202e" + "b" * 40)
    with Site(tls=tls(hostile)) as site:
        shown = seen(check(site.url(), ca_file=ca_file)).certificate
    assert shown is not None
    assert shown.subject.isprintable()


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
    assert result.sentence == f"127.0.0.1:{server.port} does not speak TLS on this port"
    assert result.last is not None
    assert result.last.phase == "tls"


def test_silence_in_the_handshake_is_a_timeout_in_tls() -> None:
    with RawServer() as server:
        result = check(f"https://127.0.0.1:{server.port}/", timeout=0.4)
    assert result.reason is Reason.TIMEOUT
    assert result.last is not None
    assert result.last.phase == "tls"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SSL routines::tlsv13 alert certificate required", "192.0.2.1:443 asks for a client certificate"),
        ("SSL routines::tlsv1 alert unknown ca", "192.0.2.1:443 does not accept the client certificate"),
        ("SSL routines::wrong version number", "192.0.2.1:443 does not speak TLS on this port"),
        ("SSL routines::tlsv1 alert protocol version", "192.0.2.1:443 speaks no version of TLS that is safe"),
        ("SSL routines::ssl/tls alert handshake failure", "the TLS handshake with 192.0.2.1:443 failed"),
    ],
)
def test_what_went_wrong_in_a_handshake_is_told(text: str, sentence: str) -> None:
    seen = Circumstances(35, 0, text, "tls", {"connect": 1.0}, 5.0, 0, "192.0.2.1:443")
    assert (failure_of(seen).reason, failure_of(seen).sentence) == (Reason.TLS, sentence)
