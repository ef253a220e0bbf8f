"""Stories of alerts on a whole monitor: from a site that breaks to what people read, and to what they answer."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
import requests

from tests.monitor_run import MonitorRun
from tests.sites import Answer, Received, Site
from tests.smtp import Mailbox, smtp_server
from tests.waiting import eventually
from worker.alerts.webhook import DELIVERY, SIGNATURE, verify

PUBLIC_URL = "https://monitor.example.org"
SECRET = "whsec-7d1c"
SETTINGS = {
    # Longer than a story: each check that matters is asked for, so that nothing waits for a turn.
    "DEFAULT_HTTP_INTERVAL": "60",
    "DEFAULT_HTTP_TIMEOUT": "2",
    "DEFAULT_HTTP_RETRIES": "0",
    "ALERT_GROUP_WAIT": "0.5",
    "MAIL_SERVER": "127.0.0.1",
    "MAIL_RECIPIENTS": "ops@example.org",
    "MAIL_DEFAULT_SENDER": "monitor@example.org",
    "MAIL_TAG_RECIPIENTS": "shop=shop@example.org; api=api@example.org",
    "PUBLIC_URL": PUBLIC_URL,
    "WEBHOOK_SECRET": SECRET,
}


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with smtp_server(Mailbox()) as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site({"/hook": Answer(200)}) as site:
        yield site


@pytest.fixture(scope="module")
def monitor(mailbox: Mailbox, site: Site) -> Iterator[MonitorRun]:
    with MonitorRun(**SETTINGS, MAIL_PORT=str(mailbox.port), WEBHOOK_URL=site.url("/hook")) as run:
        yield run


def add(monitor: MonitorRun, site: Site, name: str, **fields: Any) -> str:
    """A target that is up, with a reader of its own, so that no mail about it waits for one about another; its id."""
    site.routes[f"/{name}"] = Answer(200, b"fine")
    target = {"title": name, "endpoint": site.url(f"/{name}"), "recipients": [f"{name}@example.org"], **fields}
    answer = monitor.post("/status", {"targets": [target]}, wait=10)
    (created,) = answer["data"]["targets"]
    assert created["is_up"]
    target_id: str = created["id"]
    return target_id


def check(monitor: MonitorRun, target_id: str) -> None:
    monitor.post(f"/api/v1/targets/{target_id}/check", {}, wait=10)


def bring_down(monitor: MonitorRun, site: Site, name: str, target_id: str) -> dict[str, Any]:
    """Break the site of a target, and have it checked; the incident."""
    site.routes[f"/{name}"] = Answer(503, b"out of order")
    check(monitor, target_id)
    return eventually(lambda: incident_of(monitor, target_id), 10)


def incident_of(monitor: MonitorRun, target_id: str) -> dict[str, Any]:
    """The newest incident of a target in full; empty when there is none."""
    found = monitor.get("/api/v1/incidents", target=target_id)["incidents"]
    incident: dict[str, Any] = monitor.get(f"/api/v1/incidents/{found[0]['id']}") if found else {}
    return incident


def mails_to(mailbox: Mailbox, name: str) -> list[EmailMessage]:
    pairs = zip(mailbox.messages, list(mailbox.envelopes), strict=False)
    return [message for message, envelope in pairs if f"{name}@example.org" in envelope.rcpt_tos]


def mail_to(mailbox: Mailbox, name: str, beginning: str) -> EmailMessage:
    """The one mail to somebody whose subject begins so, once it is there."""

    def arrived() -> list[EmailMessage]:
        return [mail for mail in mails_to(mailbox, name) if str(mail["Subject"]).startswith(beginning)]

    (mail,) = eventually(arrived, 10)
    return mail


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    text: str = part.get_content()
    return text


def owed(monitor: MonitorRun, target_id: str) -> list[dict[str, Any]]:
    """The mails about a target that have not been sent."""
    entries = monitor.get("/api/v1/outbox")["entries"]
    return [each for each in entries if each["channel"] == "mail" and each["alert"]["target_id"] == target_id]


def test_a_failure_that_a_second_check_denies_is_told_to_nobody(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    target_id = add(monitor, site, "doubted")
    asked = site.count("/doubted")
    site.routes["/doubted"] = [Answer(503), Answer(200)]
    check(monitor, target_id)

    def verdicts() -> list[str]:
        results = monitor.get(f"/api/v1/targets/{target_id}/results")["results"]
        return [result["verdict"] for result in results]

    eventually(lambda: verdicts() == ["up", "down", "up"], 10)
    assert site.count("/doubted") == asked + 2
    # An alert is written in the same step as the result, and with it the incident.
    assert incident_of(monitor, target_id) == {}
    assert mails_to(mailbox, "doubted") == []


def test_a_webhook_is_signed_over_the_bytes_that_arrive(monitor: MonitorRun, site: Site) -> None:
    target_id = add(monitor, site, "hooked")
    incident = bring_down(monitor, site, "hooked", target_id)
    ((request, alert),) = eventually(lambda: _posted(site, target_id), 10)
    signature = request.headers[SIGNATURE.lower()]
    at = signature.partition(",")[0].removeprefix("t=")
    mac = hmac.new(SECRET.encode(), at.encode() + b"." + request.body, hashlib.sha256)
    assert signature == f"t={at},v1={mac.hexdigest()}"
    assert verify(SECRET, signature, request.body, now=time.time())
    assert not verify(SECRET, signature, request.body + b" ", now=time.time())
    assert request.headers[DELIVERY.lower()] == json.loads(request.body)["id"]
    assert (alert["kind"], alert["incident"], alert["got"]) == ("down", incident["id"], 503)
    assert alert["url"] == f"{PUBLIC_URL}/targets/{target_id}"


def _posted(site: Site, target_id: str) -> list[tuple[Received, dict[str, Any]]]:
    """What the webhook got about a target: each request with the alert in it."""
    requests_seen = [request for request in list(site.requests) if request.path == "/hook"]
    return [
        (request, alert)
        for request in requests_seen
        for alert in json.loads(request.body)["alerts"]
        if alert["target_id"] == target_id
    ]


def test_what_fails_twice_is_one_mail_and_an_incident_that_knows_all_of_it(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    target_id = add(monitor, site, "broken")
    opened = bring_down(monitor, site, "broken", target_id)
    mail = mail_to(mailbox, "broken", "DOWN: broken")
    incident = eventually(lambda: _with_fates(monitor, target_id, 3), 10)
    assert (incident["id"], incident["open"], incident["reason"]) == (opened["id"], True, "status")
    assert incident["opinion"]["reason"] == "status"
    assert incident["opinion"]["at"] == incident["opened_at"] < incident["confirmed_at"]
    assert incident["evidence"]["status_code"] == 503
    assert incident["evidence"]["answer"]["body"] == "out of order"
    told = incident["notifications"]
    assert {(each["kind"], each["fate"]) for each in told} == {("down", "sent")}
    assert sorted(each["recipients"] for each in told if each["channel"] == "mail") == [
        ["broken@example.org"],
        ["ops@example.org"],
    ]
    assert "503" in text_of(mail)
    # A third failure changes nothing.
    asked = site.count("/broken")
    check(monitor, target_id)
    assert site.count("/broken") > asked
    assert owed(monitor, target_id) == []
    assert len(mails_to(mailbox, "broken")) == 1


def _with_fates(monitor: MonitorRun, target_id: str, count: int) -> dict[str, Any]:
    incident = incident_of(monitor, target_id)
    assert len(incident["notifications"]) == count
    assert "waiting" not in {each["fate"] for each in incident["notifications"]}
    return incident


def test_the_link_in_a_mail_acknowledges_when_its_form_is_sent_and_not_before(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    target_id = add(monitor, site, "seen")
    bring_down(monitor, site, "seen", target_id)
    found = re.search(rf"{re.escape(PUBLIC_URL)}(/acknowledge\?token=\S+)", text_of(mail_to(mailbox, "seen", "DOWN")))
    assert found
    link = f"{monitor.url}{found[1]}"
    page = requests.get(link, timeout=5)
    assert page.status_code == 200
    assert incident_of(monitor, target_id)["acknowledged"] is None
    form = {"token": _field(page.text, "token"), "by": "Ada", "note": "looking into it"}
    answer = requests.post(link.partition("?")[0], data=form, timeout=5)
    assert answer.status_code == 200, answer.text
    acknowledged = incident_of(monitor, target_id)["acknowledged"]
    assert (acknowledged["by"], acknowledged["note"]) == ("Ada", "looking into it")


def _field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]+)"', page)
    assert found, page
    return found[1]


def test_the_mail_of_a_recovery_stands_in_the_thread_of_its_incident(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    target_id = add(monitor, site, "mended")
    incident = bring_down(monitor, site, "mended", target_id)
    down = mail_to(mailbox, "mended", "DOWN: mended")
    site.routes["/mended"] = Answer(200)
    check(monitor, target_id)
    up = mail_to(mailbox, "mended", "UP: mended")
    assert up["References"] == down["References"] == f"<{incident['id']}@example.org>"
    assert up["Message-ID"] != down["Message-ID"]
    assert not incident_of(monitor, target_id)["open"]
    assert len(mails_to(mailbox, "mended")) == 2


def test_recipients_of_different_tags_get_a_mail_each_about_what_is_theirs(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    ids = {name: add(monitor, site, f"{name}-target", tags=[name], recipients=None) for name in ("shop", "api")}
    for name, target_id in ids.items():
        bring_down(monitor, site, f"{name}-target", target_id)
    for name in ids:
        mail = mail_to(mailbox, name, f"DOWN: {name}-target")
        assert mail["To"] == f"{name}@example.org"
        assert len(mails_to(mailbox, name)) == 1
        told = eventually(lambda: [each for each in mails_to(mailbox, "ops") if f"{name}-target" in text_of(each)], 10)  # noqa: B023
        assert [each["To"] for each in told] == ["ops@example.org"]


def test_what_goes_down_in_a_maintenance_is_told_when_that_is_over(
    monitor: MonitorRun, site: Site, mailbox: Mailbox
) -> None:
    target_id = add(monitor, site, "maintained")
    window = {"title": "Backups", "targets": [target_id], "start": _in(hours=-1), "end": _in(hours=1)}
    planned = monitor.post("/api/v1/maintenance", window)
    site.routes["/maintained"] = Answer(503)
    check(monitor, target_id)
    eventually(lambda: monitor.target(site.url("/maintained"))["is_down"], 10)
    assert incident_of(monitor, target_id) == {}
    assert owed(monitor, target_id) == []
    assert mails_to(mailbox, "maintained") == []
    assert requests.delete(f"{monitor.url}/api/v1/maintenance/{planned['id']}", timeout=5).ok
    check(monitor, target_id)
    mail_to(mailbox, "maintained", "DOWN: maintained")
    assert incident_of(monitor, target_id)["open"]
    assert len(mails_to(mailbox, "maintained")) == 1


def _in(*, hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
