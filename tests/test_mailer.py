"""Mails as real servers receive them, and what becomes of them when a server does not take them."""

import base64
import json
import os
import re
import smtplib
import socket
import ssl
import stat
import time
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from itsdangerous import URLSafeTimedSerializer

from shared import links
from shared.monitor import Alert, AlertKind, Report
from shared.settings import SettingsError, read_settings
from tests.fakes import BEGAN_AT, alert
from tests.smtp import (
    Answer,
    Mailbox,
    dripping_server,
    hang_up,
    silent_server,
    smtp_server,
    stay_silent,
    take_and_hang_up,
)
from worker.alerts.mailer import MailDelayed, Mailer, MailRefused, Sent

OPS, DEV = "ops@example.com", "dev@example.com"
PASSWORD = "correct horse"
PATIENCE_SECONDS = 0.3


def recovery(**changes: Any) -> Alert:
    good = {"kind": "up", "id": "t1-2", "at": BEGAN_AT + 724_000, "got": 200, "reason": None, "sentence": None}
    return alert(**{**good, "attempts": ({"started_at": BEGAN_AT + 723_900, "status_code": 200},), **changes})


def mailer(
    tmp_path: Path, mailbox: Mailbox | None = None, link_secret: bytes | str | None = None, **changes: Any
) -> Mailer:
    server = {} if mailbox is None else {"mail_server": "127.0.0.1", "mail_port": mailbox.port}
    settings = read_settings(
        _env_file=None,
        **{
            "data_dir": tmp_path,
            "mail_default_sender": "monitor@example.com",
            "mail_recipients": (OPS, DEV),
            **server,
            **changes,
        },
    )
    return Mailer(settings, timeout_seconds=PATIENCE_SECONDS, link_secret=link_secret)


def written(post: Mailer, *told: Alert) -> EmailMessage:
    """The mail about these alerts, as it lies in the mail folder."""
    post.send_alerts("m1", told)
    content = (post._settings.mail_folder / "m1.eml").read_bytes()
    return message_from_bytes(content, _class=EmailMessage, policy=policy.default)


def text(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert isinstance(part, EmailMessage)
    content = part.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


@pytest.fixture(autouse=True)
def _no_mail_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MAIL_") or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


# --- what arrives --------------------------------------------------------------------------------------------------


def test_a_mail_reaches_all_recipients_as_text_and_html(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        sent = mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert sent == Sent((OPS, DEV), {})
    (envelope,), (message,) = mailbox.envelopes, mailbox.messages
    assert envelope.mail_from == "monitor@example.com"
    assert envelope.rcpt_tos == [OPS, DEV]
    assert message["To"] == f"{OPS}, {DEV}"
    assert message.get_content_type() == "multipart/alternative"
    for kind in ("plain", "html"):
        body = text(message, kind)
        for word in (
            "Hit the Google!",
            "https://www.google.com/",
            "2026-11-22 17:01:05 UTC",
            "200 OK",
            "503 Service Unavailable",
            "timed out during TLS handshake",
            "5.00 s",
            "412 ms",
            "338 ms",
            "Bottleneck: waiting for the first byte",
            "142.250.74.36:443",
        ):
            assert word in body, (kind, word)


def test_the_headers_are_those_of_an_automatic_mail(tmp_path: Path) -> None:
    before = int(time.time())
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    (message,) = mailbox.messages
    assert message["Subject"] == "DOWN: Hit the Google! (503, expected 200)"
    assert message["Message-ID"] == "<m1@example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["List-Id"] == "http-monitoring <http-monitoring.example.com>"
    assert before <= message["Date"].datetime.timestamp() <= time.time()


def test_several_codes_that_were_expected_are_told_as_they_are(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        post = mailer(tmp_path, mailbox)
        post.send_alerts("m1", [alert(expected="200-299, 404")])
        post.send_alerts("m2", [alert(expected="200", title="T")])
        post.send_alerts("m3", [alert(expected=", ".join(["200-299"] * 50))])
    several, one, many = mailbox.messages
    assert several["Subject"] == "DOWN: Hit the Google! (503, expected 200-299, 404)"
    assert "Expected    200-299, 404\n" in text(several)
    assert "Expected    200 OK\n" in text(one)
    assert many["Subject"] == "DOWN: Hit the Google! (503, expected 200-299, 200-299, 2…)"


def test_a_failed_assertion_is_told_by_its_sentence_and_not_by_the_code(tmp_path: Path) -> None:
    failed = alert(
        got=200,
        reason="assertion",
        sentence='body contains "ok": expected this text, found a body of 5 bytes without it',
        attempts=({"started_at": BEGAN_AT, "elapsed_ms": 80.0, "status_code": 200, "reason": "assertion"},),
    )
    with smtp_server(Mailbox()) as mailbox:
        post = mailer(tmp_path, mailbox)
        post.send_alerts("m1", [failed])
        post.send_alerts("m2", [failed, replace(failed, id="t2-1", target_id="t2", incident="t2-1")])
    single, digest = mailbox.messages
    assert single["Subject"] == "DOWN: Hit the Google! (an assertion failed)"
    assert failed.sentence is not None
    assert failed.sentence in text(single)
    assert "Got         an assertion failed (200)" in text(single)
    assert digest["Subject"] == "2 targets down"
    assert "An assertion failed (2 targets)" in text(digest)
    assert "expected 200" not in text(digest)


def test_the_same_mail_id_makes_the_same_message_id(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        for _ in range(2):
            mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    first, second = mailbox.messages
    assert first["Message-ID"] == second["Message-ID"]


def test_both_mails_of_an_incident_refer_to_it_and_a_digest_does_not(tmp_path: Path) -> None:
    long = "x" * 60
    with smtp_server(Mailbox()) as mailbox:
        post = mailer(tmp_path, mailbox)
        post.send_alerts("m1", [alert(incident=long)])
        post.send_alerts("m2", [recovery(incident=long)])
        post.send_alerts("m3", [alert(), alert(incident="t2-1")])
    down, up, digest = mailbox.messages
    assert down["References"] == up["References"] == up["In-Reply-To"] == f"<{long}@example.com>"
    # On the wire too: folded as an encoded word, no client would thread it.
    assert f"References: <{long}@example.com>\r\n".encode() in mailbox.contents[0]
    assert digest["References"] is None


def test_a_title_in_any_script_arrives_as_it_was(tmp_path: Path) -> None:
    title = "Zahlungen & Überweisung 支払い 🚀"
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert(title=title)])
    (message,) = mailbox.messages
    assert message["Subject"] == f"DOWN: {title} (503, expected 200)"
    assert title in text(message)
    assert title.replace("&", "&amp;") in text(message, "html")
    assert mailbox.contents[0].isascii()


def test_a_title_with_markup_is_text(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts(
            "m1", [alert(title='<script>alert("x")</script>', endpoint='http://a/"><b>')]
        )
    (message,) = mailbox.messages
    assert "<script" not in text(message, "html")
    assert "<b>" not in text(message, "html")
    assert "&lt;script&gt;" in text(message, "html")
    assert '<script>alert("x")</script>' in text(message)


@pytest.mark.parametrize("evil", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\0"])
def test_no_text_of_an_alert_makes_a_header(tmp_path: Path, evil: str) -> None:
    hostile = f"a{evil}Bcc: evil@example.com{evil}{evil}body"
    fields = dict.fromkeys(("title", "endpoint", "sentence", "reason", "address", "incident", "target_id"), hostile)
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts(
            hostile, [alert(**fields, attempts=({"started_at": 0, "reason": hostile},))]
        )
    (envelope,), (message,) = mailbox.envelopes, mailbox.messages
    assert message["Bcc"] is None
    assert envelope.rcpt_tos == [OPS, DEV]
    assert all(value.isprintable() for value in message.values())
    assert message["Subject"].startswith("DOWN: a Bcc: evil@")
    assert len(message["Subject"]) <= 60
    assert not re.search(r"^Bcc", text(message), re.MULTILINE)


def test_a_line_that_begins_with_a_dot_arrives_whole(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert(title=".", sentence="." * 60)])
    assert "." * 60 in text(mailbox.messages[0])


def test_several_alerts_are_one_mail(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts(
            "m1", [alert(), alert(incident="t2-1", title="Shop"), recovery(incident="t3-1")]
        )
    (message,) = mailbox.messages
    assert message["Subject"] == "2 targets down, 1 up"
    assert "Shop" in text(message)
    assert "Shop" in text(message, "html")


def test_down_and_up_of_one_incident_in_one_mail_read_as_one_sentence(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert(), recovery(at=BEGAN_AT + 40_000)])
    (message,) = mailbox.messages
    assert message["Subject"] == "UP again: Hit the Google! (was down for 40 s)"
    assert text(message).startswith("Hit the Google! was down for 40 s and is up again.")
    assert "503 Service Unavailable, then 200 OK" in text(message)


HOUR = 3_600_000
TROUBLE: dict[str, Any] = {
    "target_id": "",
    "endpoint": "",
    "title": "no worker takes checks",
    "sentence": "Checks have waited for 3 min.",
    "incident": None,
    "attempts": (),
    "phases": {},
}


@pytest.mark.parametrize(
    ("told", "subject", "said"),
    [
        (
            alert(detected_at=BEGAN_AT + 500, by="web-2/b", opinion={"at": BEGAN_AT, "reason": "dns", "by": "web-1/a"}),
            "DOWN: Hit the Google! (503, expected 200)",
            [
                "Noticed     17:01:05 UTC",
                "Confirmed by another check less than 1 s later (worker web-2/b). "
                "The first one (worker web-1/a) said: DNS failure.",
            ],
        ),
        (recovery(), "UP: Hit the Google! after 12 min", ["Hit the Google! is up again after 12 min 4 s."]),
        (
            alert(kind="flapping", flips=7, is_up=True),
            "FLAPPING: Hit the Google! (7 changes in 1 h, now up)",
            ["Hit the Google! keeps going up and down (7 changes in 1 h). It is up now."],
        ),
        (recovery(kind="calm", is_up=True), "CALM again: Hit the Google! (up)", ["Hit the Google! is calm again: up."]),
        (
            alert(kind="calm", is_up=False),
            "CALM again: Hit the Google! (down)",
            ["Hit the Google! is calm again: down."],
        ),
        (
            alert(kind="reminder", at=BEGAN_AT + 6 * HOUR),
            "STILL DOWN: Hit the Google! (6 h; 503, expected 200)",
            [
                "Hit the Google! is still down (6 h).",
                "Acknowledge incident t1-1 on the monitor's page of incidents, and the reminders stop.",
            ],
        ),
        (
            alert(kind="trouble", **TROUBLE),
            "MONITOR TROUBLE: no worker takes checks",
            ["The monitor itself has trouble: no worker takes checks.", "Checks have waited for 3 min."],
        ),
        (
            alert(kind="well", **TROUBLE),
            'MONITOR WELL: "no worker takes checks" is over',
            ["The monitor is well again. This is over: no worker takes checks."],
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Alert) else "",
)
def test_each_kind_of_alert_is_told_in_its_own_words(
    tmp_path: Path, told: Alert, subject: str, said: list[str]
) -> None:
    message = written(mailer(tmp_path), told)
    assert message["Subject"] == subject
    for words in said:
        assert words in text(message)
    assert "None" not in text(message) + text(message, "html")


def test_trouble_and_its_end_are_one_thread_although_no_target_has_an_incident(tmp_path: Path) -> None:
    trouble, well = (written(mailer(tmp_path), alert(kind=kind, **TROUBLE)) for kind in ("trouble", "well"))
    assert trouble["References"] == well["References"] == "<monitor-no-worker-takes-checks@example.com>"


def test_a_target_that_flaps_takes_one_line_in_the_place_of_its_ups_and_downs(tmp_path: Path) -> None:
    ups_and_downs = [alert(), recovery(), alert(kind="flapping", flips=7, is_up=False, at=BEGAN_AT + HOUR)]
    message = written(mailer(tmp_path), *ups_and_downs, alert(incident="t2-1", target_id="t2", title="Shop"))
    assert message["Subject"] == "1 target down, 1 flapping"
    for kind in ("plain", "html"):
        assert text(message, kind).count("Hit the Google!") == 1
        assert "7 changes in 1 h, now down" in text(message, kind)


# --- links ---------------------------------------------------------------------------------------------------------

PUBLIC_URL = "https://monitor.example.com"
SECRET = b"a secret of the tests"


def hrefs(message: EmailMessage) -> list[str]:
    return [value or "" for _, name, value in Markup.of(text(message, "html")).attributes if name == "href"]


class Markup(HTMLParser):
    """The tags of an HTML text and their attributes, as a browser would find them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []

    @classmethod
    def of(cls, html: str) -> "Markup":
        found = cls()
        found.feed(html)
        found.close()
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    handle_startendtag = handle_starttag


@pytest.mark.parametrize("kind", ["down", "flapping", "reminder"])
def test_a_mail_about_one_open_incident_can_acknowledge_it(tmp_path: Path, kind: str) -> None:
    message = written(mailer(tmp_path, link_secret=SECRET, public_url=PUBLIC_URL), alert(kind=kind))
    acknowledge, target, endpoint = hrefs(message)
    assert f"Acknowledge (stops reminders): {acknowledge}\n" in text(message)
    assert acknowledge.startswith(f"{PUBLIC_URL}/acknowledge?token=")
    (token,) = parse_qs(urlsplit(acknowledge).query)["token"]
    assert links.read_acknowledge_token(SECRET, token) == "t1-1"
    assert target == f"{PUBLIC_URL}/targets/t1"
    assert f"Details     {target}\n" in text(message)
    assert endpoint == "https://www.google.com/"


@pytest.mark.parametrize("kind", ["up", "calm", "trouble", "well"])
def test_nothing_can_be_acknowledged_where_nothing_needs_it(tmp_path: Path, kind: str) -> None:
    message = written(mailer(tmp_path, link_secret=SECRET, public_url=PUBLIC_URL), alert(kind=kind))
    assert "cknowledg" not in text(message) + text(message, "html")


def test_without_an_incident_or_a_secret_there_is_a_link_to_the_target_only(tmp_path: Path) -> None:
    for post, told in (
        (mailer(tmp_path, public_url=PUBLIC_URL), alert()),
        (mailer(tmp_path, link_secret=SECRET, public_url=PUBLIC_URL), alert(incident=None)),
    ):
        assert hrefs(written(post, told)) == [f"{PUBLIC_URL}/targets/t1", "https://www.google.com/"]


@pytest.mark.parametrize("kind", get_args(AlertKind))
def test_without_a_public_url_a_mail_leads_to_the_endpoint_and_nowhere_else(tmp_path: Path, kind: AlertKind) -> None:
    post = mailer(tmp_path, link_secret=SECRET)
    one, two = alert(kind=kind), alert(kind=kind, incident="t2-1", title="Shop")
    for message in (written(post, one), written(post, one, two)):
        assert set(hrefs(message)) <= {"https://www.google.com/"}
        assert set(re.findall(r"https?://\S+", text(message))) <= {"https://www.google.com/"}


def test_a_digest_leads_to_the_incidents_and_to_each_target(tmp_path: Path) -> None:
    told = [alert(), alert(incident="t2-1", target_id="t/2", title=None), alert(kind="trouble", **TROUBLE)]
    message = written(mailer(tmp_path, link_secret=SECRET, public_url=PUBLIC_URL), *told)
    assert sorted(hrefs(message)) == [f"{PUBLIC_URL}/{path}" for path in ("incidents", "targets/t%2F2", "targets/t1")]
    assert f"{PUBLIC_URL}/incidents\n" in text(message)


def test_a_mail_about_the_monitor_leads_to_the_monitor(tmp_path: Path) -> None:
    message = written(mailer(tmp_path, public_url=f"{PUBLIC_URL}/"), alert(kind="trouble", **TROUBLE))
    assert hrefs(message) == [PUBLIC_URL]


def token_of(incident: str, *, secret: bytes | str = SECRET, age_seconds: float = 0.0) -> str:
    url = links.acknowledge_url(PUBLIC_URL, secret, incident, now=int((time.time() - age_seconds) * 1000))
    (token,) = parse_qs(urlsplit(url).query)["token"]
    return token


@pytest.mark.parametrize("incident", ["t1-1", "", "a b/ü&=?#", "x" * 500])
def test_a_token_says_which_incident_it_acknowledges(incident: str) -> None:
    assert links.read_acknowledge_token(SECRET, token_of(incident)) == incident


def test_a_token_is_good_for_a_week_unless_the_reader_says_less() -> None:
    week = 7 * 86_400
    assert links.read_acknowledge_token(SECRET, token_of("t1-1", age_seconds=week - 60)) == "t1-1"
    assert links.read_acknowledge_token(SECRET, token_of("t1-1", age_seconds=week + 60)) is None
    assert links.read_acknowledge_token(SECRET, token_of("t1-1", age_seconds=90), max_age_seconds=60) is None


def test_a_token_of_another_secret_another_purpose_or_another_text_is_none() -> None:
    good = token_of("t1-1")
    payload, at, signature = good.split(".")
    other, *_ = token_of("t2-1").split(".")
    forged = [
        token_of("t1-1", secret=b"another secret"),
        URLSafeTimedSerializer(SECRET, salt="something else").dumps("t1-1"),
        URLSafeTimedSerializer(SECRET, salt="acknowledge-incident").dumps(["t1-1"]),
        f"{other}.{at}.{signature}",
        f"{payload}.{token_of('t1-1', age_seconds=-9).split('.')[1]}.{signature}",
        f"{payload}.{signature}",
        *(good[:length] for length in range(len(good))),
        *(good[:place] + ("A" if good[place] != "A" else "Q") + good[place + 1 :] for place in range(len(good) - 1)),
        "ü",
        "\ud800",
        "." * 1000,
        f"{payload}.{'_' * 40}.{signature}",
    ]
    for token in forged:
        assert links.read_acknowledge_token(SECRET, token if isinstance(token, str) else token.decode()) is None, token


@given(st.text())
def test_no_text_that_somebody_made_up_is_a_token(made_up: str) -> None:
    assert links.read_acknowledge_token(SECRET, made_up) is None


@pytest.mark.parametrize("nothing", ["", b""])
def test_an_empty_secret_signs_nothing(tmp_path: Path, nothing: bytes | str) -> None:
    with pytest.raises(ValueError, match="secret"):
        links.acknowledge_url(PUBLIC_URL, nothing, "t1-1", now=0)
    message = written(mailer(tmp_path, link_secret=nothing, public_url=PUBLIC_URL), alert())
    assert "cknowledg" not in text(message) + text(message, "html")


# --- whatever an alert holds ---------------------------------------------------------------------------------------

MARKUP = [
    "<script>x</script>",
    '"><img src=x onerror=x>',
    "'><svg onload=x>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "&lt;",
    "\r\n\r\n",
]
VALUES = st.lists(st.sampled_from(MARKUP) | st.text(max_size=30), max_size=4).map("".join)
TIMES = st.integers(0, 4_000_000_000_000)
AMOUNTS = st.floats(0, 1e7)
MAYBE = st.none() | VALUES
ATTEMPTS = st.fixed_dictionaries(
    {"started_at": TIMES},
    optional={"elapsed_ms": AMOUNTS, "status_code": st.integers(100, 999), "reason": VALUES, "phase": VALUES},
)
ALERTS = st.builds(
    Alert,
    id=VALUES,
    kind=st.sampled_from(get_args(AlertKind)),
    target_id=VALUES,
    title=MAYBE,
    endpoint=VALUES | VALUES.map("https://".__add__),
    at=TIMES,
    began_at=TIMES,
    expected=st.integers(100, 999) | VALUES,
    got=st.none() | st.integers(100, 999),
    reason=MAYBE,
    sentence=MAYBE,
    incident=st.none() | st.sampled_from(["i1", "i2"]) | VALUES,
    elapsed_ms=st.none() | AMOUNTS,
    bottleneck=MAYBE,
    phases=st.dictionaries(st.sampled_from(["dns", "wait", *MARKUP]), AMOUNTS, max_size=3),
    attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
    address=MAYBE,
    detected_at=st.none() | TIMES,
    written_at=st.none() | TIMES,
    is_up=st.none() | st.booleans(),
    flips=st.none() | st.integers(0, 99),
    opinion=st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(("reason", "sentence", "by"), VALUES)),
    by=MAYBE,
)
TAGS = {*("html", "head", "meta", "title", "style", "body"), *("div", "h1", "h2", "p", "a", "b", "br", "span")}
TAGS |= {"table", "tr", "td"}
ATTRIBUTES = {*("lang", "charset", "name", "content", "class", "style", "href"), *("role", "width", "align", "valign")}
ATTRIBUTES |= {"bgcolor", "cellpadding", "cellspacing", "border"}


@how(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.lists(ALERTS, min_size=1, max_size=4), public_url=st.sampled_from([None, PUBLIC_URL]))
def test_whatever_alerts_hold_the_subject_is_one_short_line_and_no_value_is_markup(
    tmp_path: Path, told: list[Alert], public_url: str | None
) -> None:
    message = written(mailer(tmp_path, link_secret=SECRET, public_url=public_url), *told)
    assert 0 < len(message["Subject"]) <= 60
    assert not any(re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value) for value in message.values())
    assert set(message.keys()) <= {
        *("From", "To", "Subject", "Date", "Message-ID", "List-Id", "Auto-Submitted", "X-Auto-Response-Suppress"),
        *("References", "In-Reply-To", "MIME-Version", "Content-Type"),
    }
    found = Markup.of(text(message, "html"))
    assert found.tags <= TAGS
    assert {name for _, name, _ in found.attributes} <= ATTRIBUTES
    assert all(href.startswith(("https://", "http://")) for href in hrefs(message))
    # Nothing is fetched when the mail is opened.
    assert not any("url(" in (value or "") for _, name, value in found.attributes if name == "style")
    assert "http-monitoring" in text(message)


def test_a_report_says_how_many_are_down_and_since_when(tmp_path: Path) -> None:
    report = Report(at=BEGAN_AT + 3_600_000, targets=120, down=(alert(),), down_in_all=3)
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox).send_report("m1", report)
    (message,) = mailbox.messages
    assert message["Subject"] == "Report: 3 of 120 targets are down"
    for kind in ("plain", "html"):
        assert "since 2026-11-22 17:01:05 UTC, 1 h" in text(message, kind)
        assert "And 2 more" in text(message, kind)


def test_a_mail_without_an_alert_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an alert"):
        mailer(tmp_path).send_alerts("m1", [])


# --- from whom, to whom --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sender"),
    [
        ({"mail_default_sender": "Überwacher <a@example.org>", "mail_username": "b@example.net"}, "a@example.org"),
        ({"mail_default_sender": None, "mail_username": "b@example.net"}, "b@example.net"),
        ({"mail_default_sender": None, "mail_username": "d41d8cd98f00b2"}, "http-monitoring@box.example"),
        ({"mail_default_sender": None}, "http-monitoring@box.example"),
    ],
)
def test_the_sender_is_the_best_address_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sender: str
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "box.example")
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox, **settings).send_alerts("m1", [alert()])
    assert mailbox.envelopes[0].mail_from == sender
    assert mailbox.messages[0]["From"].addresses[0].addr_spec == sender
    assert mailbox.messages[0]["Message-ID"] == f"<m1@{sender.partition('@')[2]}>"


def test_a_sender_that_is_no_address_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MAIL_DEFAULT_SENDER"):
        mailer(tmp_path, mail_default_sender="me and you@example.com")


def test_recipients_may_have_names_and_international_domains(tmp_path: Path) -> None:
    names = ("Wärter <ops@example.com>", "dev@bücher.example")
    with smtp_server(Mailbox()) as mailbox:
        sent = mailer(tmp_path, mailbox, mail_recipients=names).send_alerts("m1", [alert()])
    assert sent.recipients == names
    assert mailbox.envelopes[0].rcpt_tos == [OPS, "dev@xn--bcher-kva.example"]
    assert mailbox.messages[0]["To"].addresses[0].display_name == "Wärter"


def test_a_misspelt_recipient_does_not_keep_the_mail_from_the_others(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        sent = mailer(tmp_path, mailbox, mail_recipients=("jörg@example.com", OPS)).send_alerts("m1", [alert()])
    assert sent == Sent((OPS,), {"jörg@example.com": "501 jörg@example.com is not a mail address"})


def test_no_recipients_is_a_refusal_that_says_so(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox, pytest.raises(MailRefused, match="no MAIL_RECIPIENTS are configured"):
        mailer(tmp_path, mailbox, mail_recipients=()).send_alerts("m1", [alert()])


def test_one_refused_recipient_is_told_and_the_other_has_the_mail(tmp_path: Path) -> None:
    with smtp_server(Mailbox(rcpt={DEV: "550 5.1.1 no such user"})) as mailbox:
        sent = mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert sent == Sent((OPS,), {DEV: "550 5.1.1 no such user"})
    assert sent.delayed == ()
    assert len(mailbox.messages) == 1


def test_a_recipient_refused_for_now_can_get_the_mail_alone_later(tmp_path: Path) -> None:
    mailbox = Mailbox(rcpt={DEV: "450 4.2.0 greylisted"})
    with smtp_server(mailbox):
        post = mailer(tmp_path, mailbox)
        sent = post.send_alerts("m1", [alert()])
        mailbox.rcpt = {}
        later = post.send_alerts("m1", [alert()], recipients=sent.delayed)
    assert sent.delayed == later.recipients == (DEV,)
    assert [envelope.rcpt_tos for envelope in mailbox.envelopes] == [[OPS], [DEV]]


# --- refused, or worth another try ---------------------------------------------------------------------------------

EVERYBODY = {OPS: "550 5.1.1 no such user", DEV: "553 5.1.2 no such host"}


@pytest.mark.parametrize(
    ("mailbox", "said"),
    [
        (Mailbox(mail="550 5.7.1 we do not know you"), "550 5.7.1 we do not know you"),
        (Mailbox(rcpt=EVERYBODY), "550 5.1.1 no such user"),
        (Mailbox(data="554 5.6.0 looks like spam"), "554 5.6.0 looks like spam"),
        (Mailbox(data="554 " + "very " * 90 + "long"), "554 very"),
    ],
)
def test_a_refusal_for_good_is_one_short_sentence(tmp_path: Path, mailbox: Mailbox, said: str) -> None:
    with smtp_server(mailbox), pytest.raises(MailRefused) as refused:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert said in str(refused.value)
    assert len(str(refused.value)) <= 300
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "mailbox",
    [
        Mailbox(mail="451 4.3.0 later"),
        Mailbox(mail="550 5.7.0 Requested action not taken: too many emails per second"),
        Mailbox(data="550 5.7.0 Requested action not taken: too many emails per second"),
        Mailbox(data="554 5.3.4 rate limit exceeded"),
        Mailbox(data="550 4.7.28 unusual rate of mail"),
        Mailbox(mail="530 5.5.1 authentication required"),
        Mailbox(mail="what do you want"),
        Mailbox(rcpt={OPS: "450 4.2.0 greylisted", DEV: "550 5.1.1 no such user"}),
        Mailbox(rcpt={OPS: "421 4.3.2 shutting down"}),
        Mailbox(data="452 4.3.1 disk full"),
        Mailbox(mail=hang_up),
        Mailbox(rcpt={OPS: hang_up}),
        Mailbox(mail=stay_silent),
        Mailbox(rcpt={OPS: stay_silent}),
    ],
)
def test_what_may_pass_is_worth_another_try_and_has_not_arrived(tmp_path: Path, mailbox: Mailbox) -> None:
    with smtp_server(mailbox), pytest.raises(MailDelayed) as delayed:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert not delayed.value.may_have_arrived
    assert len(str(delayed.value)) <= 300


@pytest.mark.parametrize("answer", [hang_up, stay_silent, "what was that", "299 hm"])
def test_no_readable_answer_to_a_whole_message_means_that_it_may_have_arrived(tmp_path: Path, answer: Answer) -> None:
    with smtp_server(Mailbox(data=answer)) as mailbox, pytest.raises(MailDelayed) as delayed:
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert delayed.value.may_have_arrived
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize("mailbox", [Mailbox(data=take_and_hang_up), Mailbox(quit=hang_up), Mailbox(quit="500 what")])
def test_after_the_250_nothing_makes_a_mail_unsent(tmp_path: Path, mailbox: Mailbox) -> None:
    with smtp_server(mailbox):
        sent = mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert sent == Sent((OPS, DEV), {})
    assert len(mailbox.messages) == 1


def test_a_server_that_is_silent_after_its_250_is_not_waited_for(tmp_path: Path) -> None:
    settings = read_settings(_env_file=None, data_dir=tmp_path, mail_server="127.0.0.1", mail_recipients=(OPS,))
    with smtp_server(Mailbox(quit=stay_silent)) as mailbox:
        patient = Mailer(settings.model_copy(update={"mail_port": mailbox.port}), timeout_seconds=60)
        began = time.monotonic()
        patient.send_alerts("m1", [alert()])
    assert time.monotonic() - began < 5


def test_a_conversation_ends_with_a_goodbye_also_after_a_refusal(tmp_path: Path) -> None:
    with smtp_server(Mailbox(mail="550 no")) as mailbox, pytest.raises(MailRefused):
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])
    assert mailbox.quits == 1


def test_a_server_that_nobody_runs_is_worth_another_try(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MailDelayed, match=f"127.0.0.1:{port}: .*refused") as delayed:
        mailer(tmp_path, Mailbox(port=port)).send_alerts("m1", [alert()])
    assert not delayed.value.may_have_arrived


@pytest.mark.parametrize("host", ["no such host.invalid", "a..b", "x" * 70 + ".invalid"])
def test_a_server_name_that_leads_nowhere_is_worth_another_try(tmp_path: Path, host: str) -> None:
    with pytest.raises(MailDelayed):
        mailer(tmp_path, Mailbox(port=25), mail_server=host).send_alerts("m1", [alert()])


@pytest.mark.parametrize("use_ssl", [False, True])
def test_a_silent_server_is_given_up_in_time(tmp_path: Path, use_ssl: bool) -> None:
    began = time.monotonic()
    with silent_server() as port, pytest.raises(MailDelayed) as delayed:
        mailer(tmp_path, Mailbox(port=port), mail_use_ssl=use_ssl).send_alerts("m1", [alert()])
    assert time.monotonic() - began < PATIENCE_SECONDS + 2
    assert not delayed.value.may_have_arrived


@pytest.mark.parametrize(
    ("drop", "why"),
    [
        (b"2", "no reply within 0.3 s"),
        (b"220-wait\r\n", "no reply within 0.3 s"),
        (b"220-no end to it\r\n" * 5000, "an endless reply"),
    ],
    ids=["bytes", "lines", "pages"],
)
def test_a_server_that_never_ends_its_reply_is_given_up_in_time(tmp_path: Path, drop: bytes, why: str) -> None:
    began = time.monotonic()
    with dripping_server(drop) as port, pytest.raises(MailDelayed, match=why):
        mailer(tmp_path, Mailbox(port=port)).send_alerts("m1", [alert()])
    assert time.monotonic() - began < PATIENCE_SECONDS + 2


def test_a_deadline_of_the_job_is_not_taken_for_a_fault_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class JobTimeoutException(Exception):  # noqa: N818 - RQ's name
        """What RQ raises from SIGALRM, in the middle of anything."""

    def strike(*_: object) -> None:
        raise JobTimeoutException

    monkeypatch.setattr(smtplib.SMTP, "mail", strike)
    with smtp_server(Mailbox()) as mailbox, pytest.raises(JobTimeoutException):
        mailer(tmp_path, mailbox).send_alerts("m1", [alert()])


# --- encryption and signing in -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_trusted")
def test_starttls_and_a_login_carry_the_mail(tmp_path: Path, authority: trustme.CA) -> None:
    with smtp_server(Mailbox(login=("me", PASSWORD)), starttls=tls(authority)) as mailbox:
        post = mailer(tmp_path, mailbox, mail_use_tls=True, mail_username="me", mail_password=PASSWORD)
        post.send_alerts("m1", [alert()])
    assert mailbox.sign_ins == [True]
    assert mailbox.were_encrypted == [True]


@pytest.mark.usefixtures("_trusted")
def test_smtps_carries_the_mail(tmp_path: Path, authority: trustme.CA) -> None:
    with smtp_server(Mailbox(), smtps=tls(authority)) as mailbox:
        mailer(tmp_path, mailbox, mail_use_ssl=True).send_alerts("m1", [alert()])
    assert mailbox.were_encrypted == [True]


@pytest.mark.parametrize("how", ["starttls", "smtps"])
def test_a_certificate_of_an_unknown_authority_stops_the_mail(tmp_path: Path, authority: trustme.CA, how: str) -> None:
    _expect_a_certificate_failure(tmp_path, how, tls(authority))


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("how", ["starttls", "smtps"])
def test_a_certificate_for_another_name_stops_the_mail(tmp_path: Path, authority: trustme.CA, how: str) -> None:
    _expect_a_certificate_failure(tmp_path, how, tls(authority, "mail.example.com"))


def _expect_a_certificate_failure(tmp_path: Path, how: str, context: ssl.SSLContext) -> None:
    switches: dict[str, Any] = {"mail_use_tls": how == "starttls", "mail_use_ssl": how == "smtps"}
    server: dict[str, Any] = {how: context}
    with smtp_server(Mailbox(login=("me", PASSWORD)), **server) as mailbox:
        post = mailer(tmp_path, mailbox, mail_username="me", mail_password=PASSWORD, **switches)
        with pytest.raises(MailDelayed, match="certificate verify failed") as delayed:
            post.send_alerts("m1", [alert()])
    assert not delayed.value.may_have_arrived
    assert not mailbox.sign_ins
    assert not mailbox.envelopes


def test_a_server_without_starttls_gets_neither_password_nor_mail(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        post = mailer(tmp_path, mailbox, mail_use_tls=True, mail_username="me", mail_password=PASSWORD)
        with pytest.raises(MailDelayed, match="STARTTLS"):
            post.send_alerts("m1", [alert()])
    assert mailbox.envelopes == []


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("password", ["wrong horse", "schönes Pferd"])
def test_a_wrong_password_is_worth_another_try_and_is_not_told(
    tmp_path: Path, authority: trustme.CA, password: str
) -> None:
    with smtp_server(Mailbox(login=("me", PASSWORD)), starttls=tls(authority)) as mailbox:
        post = mailer(tmp_path, mailbox, mail_use_tls=True, mail_username="me", mail_password=password)
        with pytest.raises(MailDelayed) as delayed:
            post.send_alerts("m1", [alert()])
    assert password not in str(delayed.value)
    assert "xf6" not in str(delayed.value)
    assert mailbox.envelopes == []


@pytest.mark.usefixtures("_trusted")
def test_a_server_that_repeats_the_password_does_not_spread_it(tmp_path: Path, authority: trustme.CA) -> None:
    echo = f"550 who is {PASSWORD}, or {base64.b64encode(PASSWORD.encode()).decode()}"
    with smtp_server(Mailbox(login=("me", PASSWORD), mail=echo), starttls=tls(authority)) as mailbox:
        post = mailer(tmp_path, mailbox, mail_use_tls=True, mail_username="me", mail_password=PASSWORD)
        with pytest.raises(MailRefused) as refused:
            post.send_alerts("m1", [alert()])
    assert str(refused.value).endswith("550 who is ***, or ***")


def test_a_password_without_a_username_is_not_used(tmp_path: Path) -> None:
    with smtp_server(Mailbox()) as mailbox:
        mailer(tmp_path, mailbox, mail_password=PASSWORD).send_alerts("m1", [alert()])
    assert len(mailbox.envelopes) == 1


# --- the mail folder -----------------------------------------------------------------------------------------------


def test_without_a_server_a_mail_is_a_file_that_mail_programs_open(tmp_path: Path) -> None:
    sent = mailer(tmp_path).send_alerts("m1", [alert()])
    assert sent == Sent((OPS, DEV), {})
    (path,) = (tmp_path / "mail").iterdir()
    assert path.name == "m1.eml"
    message = message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
    assert message["To"] == f"{OPS}, {DEV}"
    assert message["Message-ID"] == "<m1@example.com>"
    assert "Hit the Google! is down." in text(message)


def test_the_mail_folder_and_its_files_are_for_their_owner_only(tmp_path: Path) -> None:
    mailer(tmp_path).send_alerts("m1", [alert()])
    assert stat.S_IMODE((tmp_path / "mail").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "mail" / "m1.eml").stat().st_mode) == 0o600


def test_without_recipients_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    assert mailer(tmp_path, mail_recipients=()).send_alerts("m1", [alert()]) == Sent((), {})
    assert b"To: undisclosed-recipients:;\r\n" in (tmp_path / "mail" / "m1.eml").read_bytes()


def test_the_same_mail_written_twice_is_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        mailer(tmp_path).send_alerts("m1", [alert()])
    assert [path.name for path in (tmp_path / "mail").iterdir()] == ["m1.eml"]


def test_a_mail_id_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    mailer(tmp_path).send_alerts("../../m1", [alert()])
    assert [path.name for path in (tmp_path / "mail").iterdir()] == ["------m1.eml"]


def test_a_full_disk_delays_the_mail_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(MailDelayed, match="No space left on device") as delayed:
        mailer(tmp_path).send_alerts("m1", [alert()])
    assert not delayed.value.may_have_arrived
    assert list((tmp_path / "mail").iterdir()) == []


# --- alerts as the outbox stores them ------------------------------------------------------------------------------


LEAST = Alert("t1-1", "down", "t1", None, "https://www.google.com/", BEGAN_AT, BEGAN_AT, 200, None)


SURE = {
    "detected_at": BEGAN_AT + 500,
    "written_at": BEGAN_AT + 1100,
    "by": "web-2/b",
    "opinion": {"at": BEGAN_AT - 2000, "reason": "timeout", "sentence": "No answer within 5 s.", "by": "web-1/a"},
}
FLAPPING = alert(kind="flapping", flips=7, is_up=False)


@pytest.mark.parametrize("kept", [alert(**SURE), recovery(), LEAST, FLAPPING], ids=["down", "up", "least", "flapping"])
def test_an_alert_that_was_stored_as_json_is_told_the_same(tmp_path: Path, kept: Alert) -> None:
    assert _written(tmp_path, Alert.parse(json.loads(json.dumps(kept.document())))) == _written(tmp_path, kept)


def test_an_alert_that_knows_next_to_nothing_is_told(tmp_path: Path) -> None:
    assert "Got         no answer" in _written(tmp_path, LEAST)
    little = replace(LEAST, attempts=({"started_at": 0},), phases={"dns": 0.0})
    assert "Got         no answer" in _written(tmp_path, little)


@pytest.mark.parametrize("kind", get_args(AlertKind))
def test_an_alert_of_a_version_that_knew_less_is_told(tmp_path: Path, kind: AlertKind) -> None:
    message = written(mailer(tmp_path), replace(LEAST, kind=kind))
    assert "www.google.com" in message["Subject"]
    assert "None" not in text(message) + text(message, "html")


def _written(folder: Path, told: Alert) -> str:
    message = written(mailer(folder), told)
    return text(message) + text(message, "html")
