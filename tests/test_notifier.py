"""Notifications as real receivers get them: services that apprise speaks to, and the webhook beside them."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from shared.settings import SettingsError, read_settings
from tests.fakes import alert
from tests.processes import PROJECT
from tests.sites import Answer, RawServer, Site, read_request, reset
from tests.test_webhook import struck
from worker.alerts.mailer import MailDelayed, Mailer, MailRefused, Sent
from worker.alerts.notifier import LINES, Notifier, check_channels
from worker.alerts.webhook import DELIVERY, verify

SECRET = "s3cr3t-t0k3n"
PATIENCE_SECONDS = 0.4
SERVICES = {
    "json": "json://127.0.0.1:{port}/service",
    "xml": "xml://127.0.0.1:{port}/service",
    "form": "form://127.0.0.1:{port}/service",
    "ntfy": "ntfy://127.0.0.1:{port}/topic",
    "gotify": "gotify://127.0.0.1:{port}/" + SECRET,
    "mmost": "mmost://127.0.0.1:{port}/" + SECRET.replace("-", "") + "0" * 13,
}
"""Services that apprise speaks to on any host."""


class Anywhere(dict[str, Any]):
    """Routes that answer every path as ``/service``."""

    def get(self, _path: str, _default: Any = None) -> Any:
        return self["/service"]


def notifier(*urls: str, timeout_seconds: float = 10, **changes: Any) -> Notifier:
    settings = read_settings(_env_file=None, **{"notify_urls": urls, **changes})
    return Notifier(settings, timeout_seconds=timeout_seconds)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("NOTIFY_", "WEBHOOK_", "PUBLIC_", "APPRISE_", "MAIL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(Anywhere({"/service": Answer(200, b"{}")})) as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that reaches the log of the process; pytest's own caplog would also hear what does not."""
    lines, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(lines), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)


def service(server: RawServer, name: str = "json") -> str:
    return SERVICES[name].format(port=server.port)


def nobody() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# --- what arrives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_what_happened_to_what_and_since_when(site: Site, name: str) -> None:
    sent = notifier(service(site, name)).send_alerts("m1", [alert(title="Shop", endpoint="https://shop.example/")])
    assert sent == Sent((f"{name}-1",), {})
    (request,) = site.requests
    for word in ("DOWN: Shop", "The server answered 503", "shop.example", "2026-11-22"):
        assert word in unquote_plus(request.body.decode()), word


FAR = {
    "slack": (
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        ("slack.NotifySlack.webhook_url", ""),
    ),
    "discord": ("discord://" + "4" * 18 + "/" + "a" * 68, ("discord.NotifyDiscord.notify_url", "")),
    "tgram": ("tgram://123456789:" + "A" * 35 + "/12/34", ("telegram.NotifyTelegram.notify_url", "/bot")),
}
"""Services at one place in the world, and what makes apprise look for them here."""


@pytest.mark.parametrize("name", FAR)
def test_a_service_of_the_world_takes_even_what_is_too_long_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    url, (place, path) = FAR[name]
    site.routes["/service"] = Answer(200, b"ok" if name == "slack" else b"{}")
    channel = notifier(url)
    monkeypatch.setattr(f"apprise.plugins.{place}", site.url(path))
    sent = channel.send_alerts("m1", [alert(endpoint="https://shop.example/" + "x" * 2000)])
    assert sent == Sent((f"{name}-1",), {})
    assert len(site.requests) == (2 if name == "tgram" else 1)
    longest = 2000 if name == "discord" else 2100
    for request in site.requests:
        body = request.body.decode()
        assert "shop.example" in body
        assert body.count("x") < longest, len(body)
    site.routes["/service"] = Answer(404, b"no")
    with pytest.raises(MailRefused, match=f"{name}-1: 404 Not Found"):
        channel.send_alerts("m1", [alert()])


def test_the_title_is_the_subject_of_the_mail(site: Site, tmp_path: Path) -> None:
    settings = read_settings(_env_file=None, data_dir=tmp_path, notify_urls=(service(site),))
    shop = alert(title="Shop & Kasse 支払い")
    several = [shop, alert(id="t2-1", target_id="t2", incident="t2-1"), alert(kind="up", incident="t3-1")]
    for mail_id, alerts in (("one", [shop]), ("many", several)):
        Mailer(settings).send_alerts(mail_id, alerts)
        Notifier(settings).send_alerts(mail_id, alerts)
        mail = message_from_bytes((tmp_path / "mail" / f"{mail_id}.eml").read_bytes(), policy=policy.default)
        assert json.loads(site.requests[-1].body)["title"] == mail["Subject"]


def test_many_alerts_are_one_short_message_that_counts_the_rest(site: Site) -> None:
    many = [alert(id=f"t{n}-1", target_id=f"t{n}", incident=f"t{n}-1", title=f"T{n:02}") for n in range(30)]
    notifier(service(site)).send_alerts("m1", many)
    lines = json.loads(site.requests[0].body)["message"].splitlines()
    assert len(lines) == LINES + 1
    assert lines[0] == "DOWN: T00 (503, expected 200)"
    assert lines[-1] == "and 10 more"


def test_an_alert_without_a_sentence_or_endpoint_is_told_too(site: Site) -> None:
    trouble = alert(kind="trouble", target_id="", endpoint="", title="No worker", incident=None, sentence=None)
    notifier(service(site)).send_alerts("m1", [trouble])
    assert "No worker" in json.loads(site.requests[0].body)["message"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_message_links_to_the_page_of_its_target_or_to_all(site: Site, count: int) -> None:
    alerts = [alert(id=f"t{n}-1", target_id=f"t{n}", incident=f"t{n}-1") for n in range(count)]
    notifier(service(site), public_url="https://monitor.example").send_alerts("m1", alerts)
    last = json.loads(site.requests[0].body)["message"].splitlines()[-1]
    assert last == ("https://monitor.example/targets/t0" if count == 1 else "https://monitor.example")


@pytest.mark.parametrize(
    ("news", "said"),
    [
        ([("up", "t1-1")], "success"),
        ([("down", "t1-1")], "failure"),
        ([("up", "t1-1"), ("down", "t2-1")], "failure"),
        ([("down", "t1-1"), ("up", "t1-1")], "success"),
    ],
)
def test_only_good_news_alone_is_announced_as_good(site: Site, news: list[tuple[str, str]], said: str) -> None:
    alerts = [alert(kind=kind, incident=incident) for kind, incident in news]
    notifier(service(site)).send_alerts("m1", alerts)
    assert json.loads(site.requests[0].body)["type"] == said


def test_a_repetition_has_the_same_id_wherever_an_id_can_be_sent(site: Site) -> None:
    both = notifier(service(site), webhook_url=site.url("/hook"), webhook_secret=SECRET)
    for _ in range(2):
        assert both.send_alerts("m1", [alert()]) == Sent(("webhook", "json-1"), {})
    assert [request.headers[DELIVERY.lower()] for request in site.requests] == ["m1"] * 4
    hooked = site.requests[0]
    assert verify(SECRET, hooked.headers["x-monitor-signature"], hooked.body, now=time.time())


def test_a_service_that_has_just_sent_does_not_sleep_before_it_sends_again(site: Site) -> None:
    often = notifier(service(site, "ntfy"))
    began = time.monotonic()
    for number in range(3):
        often.send_alerts(f"m{number}", [alert()])
    assert time.monotonic() - began < 3
    assert len(site.requests) == 3


def test_nothing_is_written_to_the_disk(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    urls = [service(site, name) for name in SERVICES]
    notifier(*urls).send_alerts("m1", [alert()])
    assert list(tmp_path.rglob("*")) == []


# --- the channels --------------------------------------------------------------------------------------------------


def test_channels_have_names_that_show_no_secret() -> None:
    hidden = "TIiajkdnlazkcOXrIdevi7FQ"
    urls = ("json://me:pass@host/a", f"https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/{hidden}", "JSON://host/b")
    names = notifier(*urls, webhook_url="https://host/hook").channels
    assert names == ("webhook", "json-1", "slack-1", "json-2")


def test_with_nothing_configured_there_are_no_channels_and_a_refusal_says_so() -> None:
    assert notifier().channels == ()
    with pytest.raises(MailRefused, match="no NOTIFY_URLS and no WEBHOOK_URL"):
        notifier().send_alerts("m1", [alert()])


def test_a_channel_that_is_no_longer_configured_is_refused_and_the_others_have_it(site: Site) -> None:
    sent = notifier(service(site)).send_alerts("m1", [alert()], recipients=["slack-7", "json-1"])
    assert sent == Sent(("json-1",), {"slack-7": "410 no such channel is configured"})
    assert sent.delayed == ()
    with pytest.raises(MailRefused, match="slack-7: 410"):
        notifier(service(site)).send_alerts("m1", [alert()], recipients=["slack-7"])


def test_a_notification_without_an_alert_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs an alert"):
        notifier().send_alerts("m1", [])


@pytest.mark.parametrize(
    ("bad", "scheme"),
    [
        (f"slack://{SECRET}", r"slack://"),
        (f"nosuch://host/{SECRET}", r"nosuch://"),
        (f"https://example.com/{SECRET}", r"https://"),
        (f"hooks.slack.com/{SECRET}", r"without a scheme"),
        (SECRET, r"without a scheme"),
        ("", r"without a scheme"),
    ],
)
def test_a_url_that_apprise_cannot_use_is_named_by_its_position_and_scheme_only(
    bad: str, scheme: str, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings(_env_file=None, notify_urls=("json://host/", bad, "xml://host/"))
    with pytest.raises(SettingsError) as error:
        check_channels(settings)
    assert str(error.value) == f"NOTIFY_URLS: URL 2 ({scheme}) is not one that apprise can use"
    assert log.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_good_urls_pass_and_every_bad_one_is_named() -> None:
    check_channels(read_settings(_env_file=None, notify_urls="json://host/a,b, xml://host/ gotify://host/token"))
    check_channels(read_settings(_env_file=None))
    with pytest.raises(SettingsError, match=r"(?s)URL 1 .*URL 3 "):
        check_channels(read_settings(_env_file=None, notify_urls=("bad://x", "json://host/", "worse://y")))


def test_apprise_is_not_loaded_where_no_url_needs_it() -> None:
    program = (
        "import sys; from worker.alerts.notifier import Notifier; from shared.settings import read_settings;"
        "Notifier(read_settings(_env_file=None)); sys.exit('apprise' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False).returncode == 0


# --- refused, or worth another try ---------------------------------------------------------------------------------

KINDS = ["webhook", *SERVICES]


def only(kind: str, server: RawServer, *, timeout_seconds: float = 10) -> Notifier:
    """A notifier with this one channel."""
    if kind == "webhook":
        return notifier(webhook_url=server.url("/service"), timeout_seconds=timeout_seconds)
    return notifier(service(server, kind), timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_a_4xx_is_a_refusal_for_good(site: Site, kind: str, code: int) -> None:
    site.routes["/service"] = Answer(code, b"no")
    with pytest.raises(MailRefused, match=f"{kind}.*: {code} "):
        only(kind, site).send_alerts("m1", [alert()])
    assert len(site.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [302, 408, 429, 500, 503])
def test_what_may_pass_is_worth_another_try_and_has_not_arrived(site: Site, kind: str, code: int) -> None:
    site.routes["/service"] = Answer(code, b"later", headers=[("Location", site.url("/elsewhere"))])
    with pytest.raises(MailDelayed, match=f"{kind}.*: {code} ") as delayed:
        only(kind, site).send_alerts("m1", [alert()])
    assert not delayed.value.may_have_arrived
    assert len(site.requests) == 1


@contextmanager
def delayed_in_time() -> Iterator[list[MailDelayed]]:
    began, errors = time.monotonic(), list[MailDelayed]()
    with pytest.raises(MailDelayed, match=r": 000 ") as delayed:
        yield errors
    assert time.monotonic() - began < PATIENCE_SECONDS * 2 + 2
    errors.append(delayed.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_receiver_is_given_up_in_time_and_may_have_it(kind: str) -> None:
    with RawServer() as server, delayed_in_time() as errors:
        only(kind, server, timeout_seconds=PATIENCE_SECONDS).send_alerts("m1", [alert()])
    assert errors[0].may_have_arrived


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_never_ends_is_given_up_in_time_and_may_have_arrived(kind: str) -> None:
    def drip(connection: socket.socket) -> None:
        read_request(connection)
        while not server.closing.wait(0.02):
            connection.sendall(b"H")

    with RawServer(drip) as server, delayed_in_time() as errors:
        only(kind, server, timeout_seconds=PATIENCE_SECONDS).send_alerts("m1", [alert()])
    assert errors[0].may_have_arrived


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_connection_may_have_carried_it(kind: str) -> None:
    def take(connection: socket.socket) -> None:
        read_request(connection)
        reset(connection)

    with RawServer(take) as server, delayed_in_time() as errors:
        only(kind, server).send_alerts("m1", [alert()])
    assert errors[0].may_have_arrived


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_nobody_runs_has_not_got_it(kind: str) -> None:
    server = RawServer()
    server.close()
    with delayed_in_time() as errors:
        only(kind, server).send_alerts("m1", [alert()])
    assert not errors[0].may_have_arrived


def test_one_failing_channel_of_three_is_repeated_alone(site: Site) -> None:
    site.routes = {"/hook": Answer(200), "/one": Answer(503), "/two": Answer(200)}
    base = f"127.0.0.1:{site.port}"
    three = notifier(f"json://{base}/one", f"xml://{base}/two", webhook_url=site.url("/hook"))
    sent = three.send_alerts("m1", [alert()])
    assert sent == Sent(("webhook", "xml-1"), {"json-1": "503 Service Unavailable"})
    assert sent.delayed == ("json-1",)
    site.routes["/one"] = Answer(200)
    later = three.send_alerts("m1", [alert()], recipients=sent.delayed)
    assert later == Sent(("json-1",), {})
    assert [site.count(path) for path in ("/hook", "/one", "/two")] == [1, 2, 1]


def test_of_what_failed_beside_a_success_only_the_final_is_not_repeated(site: Site) -> None:
    site.routes = {"/gone": Answer(404), "/two": Answer(200)}
    base = f"127.0.0.1:{site.port}"
    sent = notifier(
        f"json://{base}/gone", f"json://{base}/two", f"json://127.0.0.1:{nobody()}/", webhook_url=site.url("/gone")
    ).send_alerts("m1", [alert()])
    assert sent == Sent(
        ("json-2",), {"webhook": "404 Not Found", "json-1": "404 Not Found", "json-3": "000 no connection"}
    )
    assert sent.delayed == ("json-3",)


def test_where_all_fail_and_one_may_pass_the_message_is_worth_another_try(site: Site) -> None:
    site.routes = {"/gone": Answer(404), "/busy": Answer(503)}
    base = f"127.0.0.1:{site.port}"
    with pytest.raises(MailDelayed) as delayed:
        notifier(f"json://{base}/gone", f"json://{base}/busy").send_alerts("m1", [alert()])
    assert str(delayed.value) == "json-1: 404 Not Found; json-2: 503 Service Unavailable"


def test_slow_services_are_waited_for_all_at_once() -> None:
    with RawServer() as server, delayed_in_time():
        notifier(*[service(server)] * 4, timeout_seconds=PATIENCE_SECONDS).send_alerts("m1", [alert()])


def test_a_url_can_neither_hide_a_failure_nor_try_again_by_itself(site: Site) -> None:
    site.routes["/service"] = Answer(500)
    with pytest.raises(MailDelayed):
        notifier(service(site) + "?optional=yes&retry=3&wait=0").send_alerts("m1", [alert()])
    assert len(site.requests) == 1


def test_a_deadline_of_the_job_is_not_taken_for_a_fault_of_a_service() -> None:
    class JobTimeoutException(Exception):  # noqa: N818 - RQ's name
        """What RQ raises from SIGALRM, in the middle of anything."""

    with RawServer() as server:
        slow = notifier(service(server), timeout_seconds=3)
        with struck(0.2, JobTimeoutException()), pytest.raises(JobTimeoutException):
            slow.send_alerts("m1", [alert()])


# --- secrets -------------------------------------------------------------------------------------------------------


def odd(connection: socket.socket) -> None:
    """Answers with a header that urllib3 warns of, and names the URL."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 500 No\r\n nonsense\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("mood", ["odd", "cut", "silent", "away"])
def test_no_secret_is_in_a_log_an_error_or_what_was_sent(
    site: Site, mood: str, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    server = RawServer({"odd": odd, "cut": reset}.get(mood))
    if mood == "away":
        server.close()
    else:
        server.__enter__()
    urls = [f"json://{SECRET}:{SECRET}@127.0.0.1:{server.port}/{SECRET}?-token={SECRET}", service(server, "gotify")]
    hook = f"http://{SECRET}:{SECRET}@127.0.0.1:{server.port}/{SECRET}?token={SECRET}"
    settings: dict[str, Any] = {"webhook_url": hook, "webhook_secret": SECRET, "timeout_seconds": PATIENCE_SECONDS}
    try:
        with pytest.raises(MailDelayed) as delayed:
            notifier(*urls, **settings).send_alerts("m1", [alert()])
        sent = notifier(*urls, service(site, "xml"), **settings).send_alerts("m1", [alert()])
    finally:
        if mood != "away":
            server.close()
    assert sent.delayed == ("webhook", "json-1", "gotify-1")
    assert delayed.value.__cause__ is None
    told = [log.getvalue(), *capfd.readouterr(), str(delayed.value), repr(sent), repr(notifier(*urls, **settings))]
    assert not [text for text in told if SECRET in text]
    assert log.getvalue() == ""
