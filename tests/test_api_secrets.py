"""The secrets of a check are used and never shown: in no answer, page, event, metric, log line, mail or job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job

from shared.check import TRUSTED, Check, shown
from shared.monitor import Alert, Reason, Report, Verdict
from shared.settings import Settings
from shared.store import Store
from tests.api_client import CERTIFICATE, KEY, checked_by, client_on, create, record
from worker.alerts.mailer import Mailer

WORDS = ("hunter2", "0pen-sesame", "swordf1sh", "naHVudGVy", "aHVudGVyMjIy")
"""Planted where secrets stand; the last two are the certificate's and the key's base64."""
TARGETS: list[dict[str, Any]] = [
    {
        "endpoint": "https://hunter2:0pen-sesame@example.org/?token=swordf1sh",
        "headers": {"X-Api-Key": "hunter2", "Cookie": "session=0pen-sesame", "X-Trace": "Bearer swordf1sh"},
        "body": {"type": "form", "content": {"hunter2": "0pen-sesame"}},
        "client_certificate": CERTIFICATE + KEY,
        "proxy": "http://hunter2:0pen-sesame@proxy.example:3128",
        "user_agent": "agent hunter2abcdefghijklmnopqrst",
        "assertions": [
            {"type": "header", "name": "X-Api-Key", "operator": "equals", "value": "0pen-sesame"},
            {"type": "header", "name": "X-Trace", "operator": "contains", "value": "Bearer hunter2"},
            {"type": "json", "path": "$.password", "operator": "equals", "value": "swordf1sh"},
            {"type": "body_contains", "value": "hunter2abcdefghijklmnopqrst"},
            {"type": "body_not_matches", "pattern": "hunter2abcdefghijklmnopqrst"},
        ],
    },
    {
        "endpoint": "https://example.org/basic",
        "auth": {"type": "basic", "username": "hunter2", "password": "0pen-sesame"},
        "body": {"type": "json", "content": {"password": "swordf1sh"}},
    },
    {
        "endpoint": "https://example.org/bearer",
        "auth": {"type": "bearer", "token": "hunter2"},
        "body": {"type": "text", "content": "0pen-sesame"},
    },
]
ROUTES = [
    "/",
    "/?status=down",
    "/status",
    "/status/queue",
    "/emails",
    "/api/v1/targets",
    "/api/v1/targets/{id}",
    "/api/v1/targets/{id}/results",
    "/api/v1/targets/{id}/failures",
    "/api/v1/outbox",
    "/openapi.json",
    "/docs",
    "/livez",
    "/readyz",
    "/metrics",
    "/rq/",
    "/rq/0/data/queues.json",
    "/rq/0/data/workers.json",
    "/rq/0/data/jobs/checks/queued/10/asc/1.json",
]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every line that anybody logs, at any level."""
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, line: logging.LogRecord) -> None:
            lines.append(self.format(line))

    keeper, root = Keeper(), logging.getLogger()
    level = root.level
    root.addHandler(keeper)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(keeper)
    root.setLevel(level)


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url, mail_recipients=("ops@example.org",))


def assert_clean(what: str, text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    for word in WORDS:
        assert word.encode() not in raw, f"{word} stands in {what}"


def fail(redis: Redis, target_id: str) -> None:
    record(redis, target_id, Verdict.DOWN, status_code=500, reason=Reason.STATUS, sentence="It was 500.")


def test_no_answer_page_event_metric_log_line_or_job_shows_a_secret(
    client: FlaskClient, redis: Redis, logged: list[str]
) -> None:
    ids = []
    for number, fields in enumerate(TARGETS):
        created = client.post("/api/v1/targets", json={**fields, "title": f"Target {number}"})
        assert created.status_code == 201, created.text
        assert_clean("POST /api/v1/targets", created.data)
        assert_clean("POST /status", client.post("/status?wait=0.1", json={"targets": [fields]}).data)
        ids.append(created.get_json()["id"])
        for body in (fields, {"title": None, "interval": 60}):
            assert_clean("PATCH", client.patch(f"/api/v1/targets/{ids[-1]}", json=body).data)
        for wait in ("0", "0.1"):
            assert_clean("check now", client.post(f"/api/v1/targets/{ids[-1]}/check?wait={wait}").data)
    for target_id in ids:
        fail(redis, target_id)
    for target_id in ids:
        for route in ROUTES:
            answer = client.get(route.replace("{id}", target_id))
            assert answer.status_code in (200, 503), route
            assert_clean(route, answer.data)
    for event in Store(redis).events.read("0-0", block_ms=1, count=1000):
        assert_clean("an event", repr(event))
    assert b"0pen-sesame" in (redis.hget(f"monitor:target:{ids[0]}", "check") or b""), "they are there to be found"
    jobs = [Job.fetch(key.decode().rpartition(":")[2], connection=redis) for key in redis.scan_iter("rq:job:*")]
    assert jobs
    for job in jobs:
        assert_clean("a job", repr((job.func_name, job.args, job.kwargs, job.description, job.meta)))
    for fields in TARGETS:
        assert client.post("/api/v1/check?wait=1", json=fields).status_code == 503
        with checked_by(redis):
            assert_clean("a trial", client.post("/api/v1/check", json=fields).data)
    assert_clean("the logs", "\n".join(logged))
    assert logged, "something was logged"


def test_no_mail_shows_a_secret(client: FlaskClient, redis: Redis, tmp_path: Path) -> None:
    for fields in TARGETS:
        fail(redis, create(client, **fields)["id"])
    alerts = tuple(Alert.parse(each["alert"]) for each in Store(redis).outbox.entries() if each["alert"])
    assert len(alerts) == len(TARGETS)
    mailer = Mailer(Settings(_env_file=None, data_dir=tmp_path, mail_recipients=("ops@example.org",)))
    mailer.send_alerts("one", alerts[:1])
    mailer.send_alerts("many", alerts)
    mailer.send_report("report", Report(at=alerts[0].at, targets=3, down=alerts, down_in_all=3))
    mails = list((tmp_path / "mail").glob("*.eml"))
    assert len(mails) == 3
    for mail in mails:
        assert_clean(mail.name, mail.read_bytes())


BAD: list[dict[str, Any]] = [
    {"auth": "hunter2"},
    {"auth": {"type": "hunter2"}},
    {"auth": {"hunter2": "hunter2"}},
    {"auth": {"type": "basic", "username": "hunter2:", "password": "hunter2"}},
    {"auth": {"type": "basic", "username": "hunter2", "password": ["hunter2"]}},
    {"auth": {"type": "bearer", "token": "hunter2", "hunter2": "hunter2"}},
    {"auth": {"type": "bearer", "token": "hunter2\n"}},
    {"auth": {"type": "bearer", "token": "hunter2"}, "headers": {"Authorization": "hunter2"}},
    {"headers": "hunter2"},
    {"headers": {"Authorization: hunter2": "x"}},
    {"headers": {"Authorization: hunter2": 5}},
    {"headers": {"X-Key": "hunter2\r\n"}},
    {"headers": {"X-Key": ["hunter2"]}},
    {"headers": {"Connection": "hunter2"}},
    {"body": "hunter2"},
    {"body": {"type": "hunter2", "content": "hunter2"}},
    {"body": {"type": "text", "content": ["hunter2"]}},
    {"body": {"type": "form", "content": {"hunter2": 5}}},
    {"body": {"type": "form", "content": "hunter2"}},
    {"body": {"type": "json", "hunter2": "hunter2"}},
    {"body": {"type": "text", "content": "hunter2"}, "method": "HEAD"},
    {"client_certificate": "hunter2"},
    {"client_certificate": KEY.replace("naHVudGVyMjIy", "hunter2")},
    {"ca_certificate": "hunter2"},
    {"ca_certificate": CERTIFICATE + KEY.replace("aHVudGVyMjIy", "hunter2")},
    {"user_agent": "hunter2\n"},
    {"assertions": [{"type": "json", "path": "$.password", "operator": "less_than", "value": "hunter2"}]},
    {"assertions": [{"type": "header", "name": "X-Key", "operator": "equals", "value": "hunter2" * 200}]},
    {"assertions": [{"type": "body_matches", "pattern": "hunter2("}]},
    {"proxy": "hunter2"},
    {"proxy": "ftp://hunter2:hunter2@example.org"},
    {"proxy": "http://hunter2:hunter2@example.org:99999"},
    {"endpoint": "https://hunter2:hunter2@example.org:99999/"},
]


@pytest.mark.parametrize("fields", BAD, ids=map(str, BAD))
def test_a_refusal_names_the_field_and_the_rule_and_no_secret(client: FlaskClient, fields: dict[str, Any]) -> None:
    target = create(client)
    check = {"endpoint": "https://example.org/", **fields}
    for answer in (
        client.post("/api/v1/targets", json=check),
        client.post("/api/v1/check", json=check),
        client.post("/status", json={"targets": [check]}),
        client.patch(f"/api/v1/targets/{target['id']}", json=fields),
    ):
        assert answer.status_code == 422, answer.text
        assert "hunter2" not in answer.text
        told = answer.get_json()
        [error, *_] = told["errors"] if "errors" in told else told["data"]["errors"]
        assert set(error["loc"]) & set(fields), "the field is named"


def test_a_value_that_is_no_secret_is_told(client: FlaskClient) -> None:
    answer = client.post("/api/v1/targets", json={"endpoint": "https://example.org/", "interval": 4, "ip_version": 5})
    assert [error["msg"] for error in answer.get_json()["errors"]] == [
        "interval must be greater than or equal to 5 (it is 4)",
        "ip_version must be 4 or 6 (it is 5)",
    ]


@pytest.mark.parametrize(
    ("fields", "loc", "message"),
    [
        ({"auth": {"type": "digest"}}, ["auth", "type"], "auth.type must be one of 'basic', 'bearer'"),
        ({"body": {"content": "x"}}, ["body", "type"], "body.type is missing"),
        ({"auth": {"type": "bearer"}}, ["auth", "token"], "auth.token is missing"),
        (
            {"assertions": [{"type": "header", "name": "A", "operator": "equals"}]},
            ["assertions", 0, "value"],
            "assertions[0].value is missing",
        ),
        ({"headers": {}, "Authorization": "x"}, ["Authorization"], "Authorization is not a field here"),
        ({"auth": {"type": "bearer", "token": "x", "y": 1}}, ["auth"], "auth has a field that is not known here"),
        (
            {"method": "0123456789abcdef0123456789abcdef"},
            ["method"],
            "method must be 'GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE' or 'OPTIONS' (it is \"***\")",
        ),
        ({"assertions": [7]}, ["assertions", 0], "assertions[0] must be an object (it is 7)"),
        ({"assertions": 7}, ["assertions"], "assertions must be a list (it is 7)"),
        ({"headers": {"X-A": 1}}, ["headers", "X-A"], "headers.X-A must be a valid string"),
    ],
)
def test_the_path_is_the_client_s_own(client: FlaskClient, fields: Any, loc: list[str | int], message: str) -> None:
    answer = client.post("/status", json={"targets": [{"endpoint": "https://example.org/", **fields}]})
    [error] = answer.get_json()["data"]["errors"]
    assert error == {"loc": ["targets", 0, *loc], "msg": f"targets[0].{message}"}


HEX_KEY = ":".join(["5a"] * 15) + ":"
OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\n-----END OPENSSH PRIVATE KEY-----\n"
# A PKCS #8 key's first bytes, SEQUENCE { INTEGER 0, ...
DRESSED = "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "pem",
    [
        CERTIFICATE + KEY,
        KEY + CERTIFICATE,
        CERTIFICATE + OPENSSH,
        CERTIFICATE + KEY.replace("-----END PRIVATE KEY-----", ""),
        CERTIFICATE + KEY.replace("-----BEGIN PRIVATE KEY-----", ""),
        CERTIFICATE + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n",
        CERTIFICATE + HEX_KEY,
        CERTIFICATE + DRESSED,
    ],
)
def test_no_key_is_taken_for_a_certificate_of_an_authority(client: FlaskClient, pem: str) -> None:
    answer = client.post("/api/v1/targets", json={"endpoint": "https://example.org/", "ca_certificate": pem})
    assert answer.status_code == 422
    assert answer.get_json()["detail"] == (
        "ca_certificate must hold nothing but certificates, for it is shown: no key, and nothing that looks like one"
    )


def test_a_key_that_was_taken_for_a_certificate_once_is_shown_no_more() -> None:
    document = {"endpoint": "https://example.org/", "ca_certificate": CERTIFICATE + KEY}
    assert shown(Check.model_validate(document, context=TRUSTED))["ca_certificate"] == "***"


@pytest.mark.parametrize("around", ["", "# Example Root 1\n=================================================\n"])
def test_authorities_may_have_their_names_between_them(client: FlaskClient, around: str) -> None:
    pem = around + CERTIFICATE + around + CERTIFICATE
    assert create(client, ca_certificate=pem)["ca_certificate"] == pem


def test_what_an_assertion_expects_of_a_secret_is_masked_and_the_mask_is_refused(client: FlaskClient) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    given: list[dict[str, Any]] = [
        {"type": "header", "name": "X-Api-Key", "operator": "equals", "value": "hunter2"},
        {"type": "header", "name": "X-Other", "operator": "equals", "value": "Basic aHVudGVyMg=="},
        {"type": "header", "name": "X-Cache", "operator": "equals", "value": "HIT"},
        {"type": "body_contains", "value": f"id {secret}"},
        {"type": "body_matches", "pattern": f"^{secret}"},
        {"type": "json", "path": "$.password", "operator": "contains", "value": "hunter2"},
        {"type": "json", "path": "$.tokens", "operator": "less_than", "value": 7},
        {"type": "json", "path": f"$['{secret}']", "operator": "exists"},
    ]
    target = create(client, assertions=given)
    masked = {0: "value", 1: "value", 3: "value", 4: "pattern", 5: "value", 7: "path"}
    assert target["assertions"] == [
        {**each, masked[place]: "***"} if place in masked else each for place, each in enumerate(given)
    ]
    for assertion in target["assertions"]:
        answer = client.patch(f"/api/v1/targets/{target['id']}", json={"assertions": [assertion]})
        assert answer.status_code == (422 if "***" in assertion.values() else 200), assertion
