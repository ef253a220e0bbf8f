"""Which URLs and titles are taken, with the rule that refuses the others, and what of a URL is shown."""

from __future__ import annotations

import json
import queue
import socket
import string
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import idna
import pycurl
import pytest
import requests
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from urllib3.util import parse_url

from shared import endpoint as endpoints
from shared.check import Check
from shared.endpoint import check_endpoint, check_title, redact, secret_parts

CHARACTERS = "must not hold spaces, control characters"
SCHEME = "must begin with http:// or https://"
PORT = "must have a port between 1 and 65535"
ADDRESS = "must write an IPv4 address as four decimal numbers"
FORBIDDEN = "must not be a link-local, metadata, multicast, broadcast or unspecified address"
NAME = "must have a valid host name"
IDN = "must have a valid internationalized host name"
IPV6 = "must hold a valid IPv6 address between the brackets"

REFUSED = {
    "//www.google.com/": SCHEME,
    "/status": SCHEME,
    "www.google.com": SCHEME,
    "": SCHEME,
    "http:www.google.com": SCHEME,
    "http:/www.google.com": SCHEME,
    "file://localhost/etc/passwd": SCHEME,
    "gopher://www.google.com/": SCHEME,
    "ftp://www.google.com/": SCHEME,
    "data:text/plain,x": SCHEME,
    "dict://localhost:11211/": SCHEME,
    "redis://localhost/": SCHEME,
    "unix:///tmp/x": SCHEME,
    "jar:http://a/b!/": SCHEME,
    "javascript:alert(1)": SCHEME,
    "mailto:a@example.org": SCHEME,
    "http:///www.google.com/": "must name a host",
    "http://": "must name a host",
    "http://user@/": "must name a host",
    "http://:80/": "must name a host",
    "http://?x": "must name a host",
    "http://a@b@example.org/": "more than one '@'",
    "http://[::1]@example.org/": "percent-encode the user name",
    "http://a]b@example.org/": "percent-encode the user name",
    "http://usér@example.org/": "percent-encode the user name",
    "http://www.google.com:65536/": PORT,
    "http://www.google.com:99999/": PORT,
    "http://www.google.com:0/": PORT,
    "http://www.google.com:-1/": PORT,
    "http://www.google.com:+80/": PORT,
    "http://www.google.com:http/": PORT,
    "http://www.google.com:/": PORT,
    "http://www.google.com:\uff18\uff10/": PORT,
    "http://www.google.com:80:80/": "name one port at most",
    "http://::1/": "must put an IPv6 address in brackets",
    "http://[::1": "must close the bracket",
    "http://[::1]x/": "must close the bracket",
    "http://[]/": IPV6,
    "http://[127.0.0.1]/": IPV6,
    "http://[fe80::1%25eth0]/": IPV6,
    "http://[v1.x]/": IPV6,
    " https://www.google.com/": CHARACTERS,
    "https://www.google.com/\r\nX-Injected: 1": CHARACTERS,
    "https://www.goo\tgle.com/": CHARACTERS,
    "\0https://www.google.com/": CHARACTERS,
    "https://www.goo gle.com/": CHARACTERS,
    "https://www.google.com/a b": CHARACTERS,
    "https://www.google.com/\u00a0": CHARACTERS,
    "https://www.google.com/\u2028": CHARACTERS,
    "https://www.google.com/\u202egro.live": CHARACTERS,
    "http://127.0.0.1\\@example.com/": CHARACTERS,
    "http:\\\\www.google.com\\": CHARACTERS,
    "https://www.google.com/<script>": CHARACTERS,
    'https://www.google.com/"': CHARACTERS,
    "https://www.google.com/`": CHARACTERS,
    "https://.google.com/": NAME,
    "https://google..com/": NAME,
    "https://google.com../": NAME,
    "https://./": NAME,
    "https://a-.com/": NAME,
    "https://-a.com/": NAME,
    "https://exa%6dple.com/": NAME,
    "https://a,b.com/": NAME,
    "https://" + "a" * 64 + ".com/": NAME,
    "https://" + "a." * 127 + "com/": NAME,
    "https://xn--a.com/": "must have a valid punycode label",
    "https://xn--é.com/": IDN,
    "https://www.goo\u200bgle.com/": IDN,
    "http://①②⑦.⓪.⓪.①/": IDN,
    "http://\uff45xample.com/": IDN,
    "https://\u0301.com/": IDN,
    "http://127\u30020\u30020\u30021/": "must separate the labels of its host with plain full stops",
    "http://256.1.1.1/": ADDRESS,
    "http://1.2.3.4.5/": ADDRESS,
    "http://1.2.3.4./": ADDRESS,
    "http://0x7f000001/": ADDRESS,
    "http://0177.0.0.1/": ADDRESS,
    "http://127.1/": ADDRESS,
    "http://0/": ADDRESS,
    "http://2130706433/": ADDRESS,
    "http://example.0x7f/": ADDRESS,
    "http://169.254.169.254/": FORBIDDEN,
    "http://[fd00:ec2::254]/": FORBIDDEN,
    "http://[::ffff:169.254.169.254]/": FORBIDDEN,
    "http://[64:ff9b::a9fe:a9fe]/": FORBIDDEN,
    "http://[2002:a9fe:a9fe::]/": FORBIDDEN,
    "http://192.0.0.192/": FORBIDDEN,
    "http://100.100.100.200/": FORBIDDEN,
    "http://255.255.255.255/": FORBIDDEN,
    "http://0.0.0.0/": FORBIDDEN,
    "http://224.0.0.1/": FORBIDDEN,
    "http://[fe80::1]/": FORBIDDEN,
    "http://[::]/": FORBIDDEN,
}

ACCEPTED = [
    "https://www.google.com/",
    "http://www.google.com",
    "http://example.org:8080/health",
    "http://example.org:65535",
    "http://example.org?x=1#here",
    "HTTPS://WWW.Google.COM/Path?Q=UPPER",
    "http://localhost:5000/livez",
    "http://intranet/",
    "http://my_service.internal/",
    "http://_dmarc.example.org/",
    "http://example.org./",
    "http://127.0.0.1:8000/",
    "http://10.0.0.1/",
    "http://[::1]:8000/",
    "http://[2001:DB8::1]/",
    "http://[::ffff:8.8.8.8]/",
    "https://user:p%40ss@example.org/",
    "https://user@example.org/",
    "https://:pw@example.org/",
    "https://bücher.example/",
    "https://straße.example/",
    "https://例え.テスト/",
    "https://xn--bcher-kva.example/",
    "https://example.org/pfad/ü?q=ä",
    "https://example.org/a%20b/%E2%82%AC",
    "https://example.org/a;b=c/*!$&'()+,:@",
    "https://example.org/{id}|^",
    "https://1.example.org/",
    "https://3com.com/",
    "https://a--b.example.org/",
    "https://" + "a" * 63 + ".com/",
    "https://example.org/" + "a" * 2028,
]


@pytest.mark.parametrize(("endpoint", "rule"), REFUSED.items())
def test_a_bad_endpoint_is_refused_by_a_rule_that_is_named(endpoint: str, rule: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        check_endpoint(endpoint)
    assert rule in str(caught.value)


@pytest.mark.parametrize("endpoint", ACCEPTED)
def test_an_ordinary_endpoint_is_taken_unchanged(endpoint: str) -> None:
    assert Check(endpoint=endpoint).endpoint == endpoint


def test_an_endpoint_is_at_most_2048_characters_long() -> None:
    with pytest.raises(ValidationError, match="at most 2048"):
        Check(endpoint="https://www.google.com/" + "a" * 2026)


@pytest.mark.parametrize("secret", ["hunter2", "pa ss", "p@ss"])
def test_the_refusal_of_an_endpoint_does_not_repeat_its_password(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        check_endpoint(f"http://user:{secret}@256.1.1.1/")
    assert secret not in str(caught.value)


CORPUS = Path(__file__).with_name("data") / "bad_inputs.jsonl"


def bad_targets() -> dict[str, object]:
    """The single targets in the corpus of bad requests by name, where it lies beside the tests."""
    lines = CORPUS.read_text(encoding="utf-8").splitlines() if CORPUS.exists() else []
    cases = [case for case in map(json.loads, lines) if case["name"].startswith(("endpoint:", "title:", "code:"))]
    return {case["name"]: case["body"]["targets"][0] for case in cases if "body" in case}


@pytest.mark.parametrize("target", bad_targets().values(), ids=bad_targets())
def test_no_bad_target_of_the_corpus_is_taken(target: object) -> None:
    with pytest.raises(ValidationError):
        Check.model_validate(target)


# --- every parser reads the same host ------------------------------------------------------------------------------


def host_for_urlsplit(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or ""


def host_for_urllib3(endpoint: str) -> str:
    return parse_url(endpoint).host or ""


def host_for_requests(endpoint: str) -> str:
    """The host that requests would connect to."""
    prepared = requests.Request("GET", endpoint).prepare()
    return urlsplit(str(prepared.url)).hostname or ""


class Proxy:
    """An HTTP proxy that forwards nothing: it writes down which host libcurl wants to be connected to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._asked: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    method, wanted, _ = connection.recv(65536).split(b" ", 2)
                    authority = f"//{wanted.decode()}" if method == b"CONNECT" else wanted.decode()
                    self._asked.put(urlsplit(authority).hostname or "")
                    connection.sendall(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def host_for_curl(self, endpoint: str) -> str:
        """The host that libcurl would connect to, given what requests prepares."""
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, requests.Request("GET", endpoint).prepare().url)
        curl.setopt(pycurl.PROXY, f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        curl.setopt(pycurl.NOPROXY, "")
        curl.setopt(pycurl.WRITEFUNCTION, len)
        with suppress(pycurl.error), closing(curl):
            curl.perform()
        return self._asked.get(timeout=5)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with closing(Proxy()) as made:
        yield made


def canonical(host: str) -> str:
    host = host.strip("[]").lower()
    return host if host.isascii() else idna.encode(host).decode()


LABELS = st.one_of(
    st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12),
    st.sampled_from(
        ["bücher", "例え", "straße", "xn--bcher-kva", "0x7f", "127", "1", "com", "localhost", "ǆ", "ﬀ", "İ"]
    ),
    st.text(max_size=4),
)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http://", "https://", "HTTP://", "http:\\\\", "http:/"]),
        st.sampled_from(
            ["", "", "", "user@", "user:pw@", ":@", "a%40b@", "[::1]@", "evil.com#@", "evil.com?@", "x:80@"]
        ),
        HOSTS,
        st.sampled_from(["", "", ":80", ":00080", ":", ":0", ":8080"]),
        st.sampled_from(["", "/", "/path", "?q", "#f", "\\@evil.com", "/@evil.com", "?@evil.com", "#@evil.com", ";x"]),
    ),
)


def agreed_host(endpoint: str, proxy: Proxy) -> str:
    """The one host that all parsers read."""
    readers = (host_for_urlsplit, host_for_urllib3, host_for_requests, proxy.host_for_curl)
    (host,) = {canonical(read(endpoint)) for read in readers}
    return host


@pytest.mark.parametrize("endpoint", ACCEPTED)
def test_every_parser_reads_the_same_host_in_ordinary_endpoints(endpoint: str, proxy: Proxy) -> None:
    assert agreed_host(endpoint, proxy)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(URLS)
@example("http://user:pw@example.org:8080/?@evil.com")
@example("http://user:pw@example.org#@evil.com")
def test_every_parser_reads_the_same_host_in_whatever_is_taken(proxy: Proxy, endpoint: str) -> None:
    try:
        check_endpoint(endpoint)
    except ValueError:
        assume(False)
    assert agreed_host(endpoint, proxy)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.text().map("http://".__add__), URLS))
def test_whatever_the_text_it_is_taken_unchanged_or_refused_by_a_rule(endpoint: str) -> None:
    refusal = None
    try:
        assert check_endpoint(endpoint) == endpoint
    except ValueError as error:
        refusal = error
    assert refusal is None or (type(refusal) is ValueError and str(refusal).startswith("must "))


# --- titles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "title", ["", "Hit the Google!", "Überwachung 例え 🚀", "a 'b' \"c\" <d> & {e}", "x" * 200, "a\u00a0b"]
)
def test_an_ordinary_title_is_taken_unchanged(title: str) -> None:
    assert Check(title=title, endpoint="https://example.org/").title == title


@pytest.mark.parametrize(
    "title",
    [
        "DOWN\r\nBcc: victim@example.org",
        "a\nb",
        "a\rb",
        "a\r\n Reply-To: evil@example.org",
        "a\x0bb",
        "a\x0cReply-To: evil@example.org",
        "a\x1cb",
        "a\x1eb",
        "a\x85b",
        "a\u2028b",
        "a\u2029b",
        "a\x00b",
        "\x1b[2J",
        "a\x7fb",
        "moc.elgoog\u202e",
        "\u2066a\u2069",
        "a\u200fb",
        "\ud800",
        "a\tb",
    ],
)
def test_a_title_with_a_control_separator_surrogate_or_bidi_character_is_refused(title: str) -> None:
    with pytest.raises(ValueError, match="control, separator or bidirectional"):
        check_title(title)


# --- what is shown -------------------------------------------------------------------------------------------------

TOKEN = "k7Jq2xT9vLm4Zp8Rw3Nb6Yc1"  # 24 characters, letters and digits

REDACTED = {
    "https://user:pw@example.org/": "https://***@example.org/",
    "https://user@example.org:8443/x?y=1": "https://***@example.org:8443/x?y=1",
    "https://:pw@example.org": "https://***@example.org",
    "https://user:p%40ss@[::1]:80/": "https://***@[::1]:80/",
    "https://example.org/?token=abc": "https://example.org/?token=***",
    "https://example.org/?a=1&API_KEY=abc&b=2": "https://example.org/?a=1&API_KEY=***&b=2",
    "https://example.org/?client_secret=x": "https://example.org/?client_secret=***",
    "https://example.org/?password=x&pwd=y&passwd=z": "https://example.org/?password=***&pwd=***&passwd=***",
    "https://example.org/?X-Amz-Signature=x": "https://example.org/?X-Amz-Signature=***",
    "https://example.org/?sig=x": "https://example.org/?sig=***",
    "https://example.org/?code=x": "https://example.org/?code=***",
    "https://example.org/?%74oken=x": "https://example.org/?%74oken=***",
    "https://example.org/?access%5Ftoken=x": "https://example.org/?access%5Ftoken=***",
    "https://example.org/?q[token]=x": "https://example.org/?q[token]=***",
    "https://example.org/?token=a=b": "https://example.org/?token=***",
    "https://example.org/?a=1;token=abc": "https://example.org/?a=1;token=***",
    f"https://example.org/?id={TOKEN}": "https://example.org/?id=***",
    f"https://example.org/?{TOKEN}": "https://example.org/?***",
    f"https://example.org/?{TOKEN}=": "https://example.org/?***",
    f"https://example.org/ping/{TOKEN}": "https://example.org/ping/***",
    f"https://example.org/ping/{TOKEN}/fail?x=1": "https://example.org/ping/***/fail?x=1",
    "https://hc.example/5f3c1a52-8f7a-4d0e-9c39-0a1b2c3d4e5f": "https://hc.example/***",
    f"https://api.telegram.org/bot123456789:{TOKEN}/getMe": "https://api.telegram.org/***/getMe",
    f"https://example.org/%6b%37{TOKEN[2:]}": "https://example.org/***",
    f"https://example.org/?id=%6b%37{TOKEN[2:]}": "https://example.org/?id=***",
    f"https://example.org/a.{TOKEN}.b": "https://example.org/***",
    f"https://example.org/x;jsessionid={TOKEN}": "https://example.org/x;jsessionid=***",
    "https://example.org/#access_token=x": "https://example.org/#***",
    "https://example.org/?to=https://u:pw@other.example/": "https://example.org/?to=***",
}

HARMLESS = [
    "https://www.google.com/",
    "http://example.org:8080/health?page=2&country_code=de",
    "https://example.org/?q=a+b&lang=en&empty=&flag",
    "https://example.org/?",
    "https://example.org/?token=",
    "https://example.org/#",
    "https://example.org/2024/11/a-page-with-quite-a-long-title-in-words",
    "https://example.org/?q=internationalisierungsbehoerde",
    "https://example.org/123456789012345678901234567890",
    "https://bücher.example/pfad",
]


@pytest.mark.parametrize(("endpoint", "shown"), REDACTED.items())
def test_a_secret_in_an_endpoint_is_not_shown(endpoint: str, shown: str) -> None:
    assert redact(endpoint) == shown


@pytest.mark.parametrize("endpoint", HARMLESS)
def test_an_endpoint_without_secrets_is_shown_as_it_is(endpoint: str) -> None:
    assert redact(endpoint) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("https://example.org/a;b=c?d=e#token=f", set()),
        ("https://an%40na:p%2Fw@example.org/", {"an%40na", "an@na", "p%2Fw", "p/w"}),
        ("https://example.org/a;token=x1/b?a=1;key=x2&%6bey=x+3", {"x1", "x2", "x+3", "x 3"}),
        ("https://example.org/0123456789abcdef01234567", {"0123456789abcdef01234567"}),
        ("https://example.org?0123456789abcdef01234567", {"0123456789abcdef01234567"}),
        ("https://[", set()),
        ("", set()),
    ],
)
def test_the_secret_parts_of_an_endpoint_are_those_that_are_not_shown(endpoint: str, parts: set[str]) -> None:
    assert set(secret_parts(endpoint)) == parts
    assert not any(part in redact(endpoint) for part in parts)


SECRETS = st.text(string.ascii_letters + string.digits, min_size=24, max_size=40).filter(
    lambda text: any(map(str.isdigit, text)) and any(map(str.isalpha, text))
)


@settings(max_examples=100, deadline=None)
@given(SECRETS, st.sampled_from(["{}:x@h/", "x:{}@h/", "h/{}", "h/a/{}/b", "h/?a={}", "h/?{}", "h/?b=1&{}=2", "h/#{}"]))
def test_a_long_random_word_is_shown_nowhere(secret: str, place: str) -> None:
    assert secret not in redact("https://" + place.format(secret))


@settings(max_examples=300, deadline=None)
@given(st.one_of(URLS, st.text(), st.text(st.sampled_from("ab1:/@?#&;=%[]*"), max_size=30).map("http://".__add__)))
def test_what_is_shown_is_not_changed_by_showing_it_again(endpoint: str) -> None:
    assert redact(redact(endpoint)) == redact(endpoint)


@given(st.from_regex(endpoints._READ_ALIKE, fullmatch=True))
def test_where_two_parsers_are_not_asked_they_would_agree(url: str) -> None:
    host = url.partition("://")[2].partition("/")[0].partition("?")[0].partition(":")[0]
    try:
        endpoints._check_host(host)
        port = urlsplit(url).port
    except ValueError:
        return  # Refused before anybody is asked.
    if port != 0:
        endpoints._check_parsers_agree(url, host)
