"""Targets and the outbox under /api/v1."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.check import Check, JsonBody
from shared.monitor import Reason, Verdict
from shared.snapshot import decode, encode
from shared.store import Store
from tests.api_client import CERTIFICATE, GOOGLE, KEY, PHASES, client_on, create, digest_of, job_ids, record

AT = 1_674_563_561_000
"""2023-01-24 12:32:41 UTC."""


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def patch(client: FlaskClient, target_id: str, **fields: Any) -> Any:
    answer = client.patch(f"/api/v1/targets/{target_id}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


# --- one target ---


def test_a_target_is_created_and_found_where_location_says(client: FlaskClient, redis: Redis) -> None:
    answer = client.post("/api/v1/targets", json={**GOOGLE, "timeout": 2.5, "error_codes": [502]})
    created = answer.get_json()
    assert answer.status_code == 201
    assert created.pop("created") is True
    found = client.get(answer.headers["Location"]).get_json()
    assert found.pop("uptime") == {"last_24_hours": None, "last_90_days": None}
    assert found == created
    assert (found["title"], found["timeout"], found["interval"], found["status"]) == (
        GOOGLE["title"],
        2.5,
        None,
        "pending",
    )
    assert found["effective"] == {
        "expected_http_code": 200,
        "interval": 300,
        "timeout": 2.5,
        "retries": 3,
        "backoff_factor": 0.3,
        "error_codes": [502],
        "failure_threshold": 1,
        "success_threshold": 1,
        "second_opinion": True,
    }
    assert found["last_result"] is None
    assert len(job_ids(redis)) == 1


def test_what_exists_is_not_created_again_and_not_changed(client: FlaskClient, redis: Redis) -> None:
    create(client, **GOOGLE)
    before = digest_of(redis)
    answer = client.post("/api/v1/targets", json={**GOOGLE, "interval": 60})
    assert answer.status_code == 409
    assert digest_of(redis) == before


def test_a_paused_target_is_created_without_a_check(client: FlaskClient, redis: Redis) -> None:
    assert create(client, paused=True)["status"] == "paused"
    assert job_ids(redis) == []


def test_the_last_result_is_told_in_full(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(
        redis,
        target["id"],
        Verdict.DOWN,
        at=AT,
        status_code=500,
        reason=Reason.STATUS,
        sentence="The status code was 500 and not 200.",
    )
    found = client.get(f"/api/v1/targets/{target['id']}").get_json()
    assert (found["status"], found["since"]) == ("down", "2023-01-24T12:32:41.000Z")
    assert found["last_result"] == {
        "scheduled_at": None,
        "enqueued_at": None,
        "by": None,
        "started_at": "2023-01-24T12:32:41.000Z",
        "finished_at": "2023-01-24T12:32:41.150Z",
        "verdict": "down",
        "status_code": 500,
        "elapsed_ms": 150.0,
        "phases": PHASES,
        "bottleneck": "wait",
        "reason": "status",
        "sentence": "The status code was 500 and not 200.",
        "unusual": None,
        "address": "192.0.2.1:443",
        "attempts": [
            {
                "started_at": "2023-01-24T12:32:41.000Z",
                "elapsed_ms": 150.0,
                "phases": PHASES,
                "status_code": 500,
                "reason": "status",
                "phase": None,
                "address": "192.0.2.1:443",
            }
        ],
    }


def test_uptime_is_the_share_of_checks_that_ended_up(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    now = int(time.time() * 1000)
    old = now - 3 * 86_400_000
    verdicts = [(old, Verdict.DOWN), (now - 3000, Verdict.UP), (now - 2000, Verdict.UP), (now - 1000, Verdict.DOWN)]
    for at, verdict in [*verdicts, (now, Verdict.UNKNOWN)]:
        record(redis, target["id"], verdict, at=at)
    uptime = client.get(f"/api/v1/targets/{target['id']}").get_json()["uptime"]
    assert uptime == {"last_24_hours": pytest.approx(2 / 3), "last_90_days": 0.5}


EVERY_FIELD = {
    "title": "Shop",
    "endpoint": "https://example.org/",
    "expected_http_code": 201,
    "expected_http_codes": ["200-299", 404],
    "interval": 60,
    "timeout": 2.5,
    "retries": 1,
    "backoff_factor": 0.5,
    "error_codes": [502],
    "method": "POST",
    "headers": {"Accept": "text/html", "X-Api-Key": "hunter2"},
    "user_agent": "monitor/1",
    "body": {"type": "json", "content": {"a": None, "b": [1, 2.5, "x"]}},
    "auth": {"type": "basic", "username": "user", "password": "hunter2"},
    "follow_redirects": True,
    "max_redirects": 3,
    "verify_tls": False,
    "ca_certificate": CERTIFICATE,
    "client_certificate": CERTIFICATE + KEY,
    "ip_version": 6,
    "http_version": "1.1",
    "proxy": "http://user:hunter2@proxy.example:3128",
    "degraded_ms": 500,
    "assertions": [
        {"type": "body_contains", "value": "Hello"},
        {"type": "json", "path": "$.status", "operator": "equals", "value": "ok"},
    ],
    "failure_threshold": 3,
    "success_threshold": 2,
    "second_opinion": False,
    "tags": ["shop", "front end"],
    "recipients": ["ada@example.org"],
    "parent": None,
    "paused": False,
}
SHOWN = {
    "headers": {"Accept": "text/html", "X-Api-Key": "***"},
    "body": {"type": "json", "content": "***"},
    "auth": {"type": "basic", "username": "***", "password": "***"},
    "client_certificate": "***",
    "proxy": "http://***@proxy.example:3128",
}


def test_every_field_of_a_check_is_taken_at_both_doors_and_shown_without_secrets(
    client: FlaskClient, redis: Redis
) -> None:
    assert set(EVERY_FIELD) == set(Check.model_fields)
    created = create(client, **EVERY_FIELD)
    assert {name: created[name] for name in EVERY_FIELD} == EVERY_FIELD | SHOWN
    posted = client.post("/status", json={"targets": [{**EVERY_FIELD, "title": "Second"}]})
    [second] = posted.get_json()["data"]["targets"]
    seen = client.get(f"/api/v1/targets/{second['id']}").get_json()
    assert {name: seen[name] for name in EVERY_FIELD} == EVERY_FIELD | SHOWN | {"title": "Second"}
    watched = Store(redis).targets.get(created["id"])
    assert watched is not None
    assert watched.target.check == Check(**EVERY_FIELD), "nothing of it was lost on the way, no null of the body either"
    [stored, _] = Store(redis).targets.stored()
    [saved] = decode(encode([stored], now=AT), Path("targets.json"))
    assert saved.check == watched.target.check


def test_a_parent_is_named_by_its_id_or_its_title_and_shown_by_its_id(client: FlaskClient, redis: Redis) -> None:
    gate = create(client, title="The gate", endpoint="https://gate.example/")["id"]
    for number, name in enumerate((gate, "The gate")):
        assert create(client, endpoint=f"https://example.org/{number}", parent=name)["parent"] == gate
    before = digest_of(redis)
    for path, document in (
        ("/api/v1/targets", {"endpoint": "https://example.org/", "parent": "Nobody"}),
        ("/api/v1/check", {"endpoint": "https://example.org/", "parent": "Nobody"}),
        ("/status", {"targets": [{"endpoint": "https://example.org/", "parent": "Nobody"}]}),
    ):
        answer = client.post(path, json=document)
        assert answer.status_code == 409
        assert "'Nobody' is that of none" in answer.get_data(as_text=True)
    assert client.patch(f"/api/v1/targets/{gate}", json={"parent": gate}).status_code == 409
    assert digest_of(redis) == before


@pytest.mark.parametrize("content", [None, [None], {"a": None}, 2**64 - 1, -(2**63), "", 0.5])
def test_any_json_is_sent_as_it_was_given(client: FlaskClient, redis: Redis, content: Any) -> None:
    target = create(client, method="POST", body={"type": "json", "content": content})
    watched = Store(redis).targets.get(target["id"])
    assert watched is not None
    assert isinstance(watched.target.check.body, JsonBody)
    assert watched.target.check.body.content == content


def test_what_no_reader_of_ours_gives_back_as_it_was_is_refused(client: FlaskClient) -> None:
    answer = client.post(
        "/api/v1/targets", json={"endpoint": "https://example.org/", "body": {"type": "json", "content": [2**64]}}
    )
    assert answer.status_code == 422
    assert "64 bits" in answer.get_json()["detail"]


def test_one_number_is_told_where_several_codes_are_expected(client: FlaskClient) -> None:
    for codes, number in ((["200-299", 404], 200), ([404], 404), (["500-599"], 500)):
        target = create(client, title=str(number), expected_http_codes=codes)
        assert target["effective"]["expected_http_code"] == number
        [listed] = client.get("/status", query_string={"title": str(number)}).get_json()["data"]["targets"]
        assert listed["expected_response"] == number


# --- changes ---


def test_patch_replaces_objects_whole_and_null_is_the_default(client: FlaskClient) -> None:
    target = create(client, **EVERY_FIELD)
    patched = patch(client, target["id"], headers={"Accept": "*/*"}, body={"type": "text", "content": "x"}, auth=None)
    assert patched["headers"] == {"Accept": "*/*"}
    assert patched["body"] == {"type": "text", "content": "***"}
    assert patched["auth"] is None
    nothing = {name: None for name in EVERY_FIELD if name not in ("endpoint", "paused")}
    patched = patch(client, target["id"], **nothing)
    assert {name: patched[name] for name in nothing} == nothing


@pytest.mark.parametrize("field", SHOWN)
def test_what_an_answer_showed_in_place_of_a_secret_is_refused_as_a_value(
    client: FlaskClient, redis: Redis, field: str
) -> None:
    target = create(client, **EVERY_FIELD)
    before = digest_of(redis)
    answer = client.patch(f"/api/v1/targets/{target['id']}", json={field: target[field]})
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["loc"][0] == field
    assert digest_of(redis) == before


CONTRADICTIONS = [
    ({"auth": {"type": "bearer", "token": "t"}}, {"headers": {"authorization": "x"}}, "auth"),
    ({"headers": {"Authorization": "x"}}, {"auth": {"type": "bearer", "token": "t"}}, "auth"),
    ({"user_agent": "a"}, {"headers": {"User-Agent": "b"}}, "user_agent"),
    ({"method": "HEAD"}, {"body": {"type": "text", "content": "x"}}, "body"),
]


@pytest.mark.parametrize(("given", "added", "field"), CONTRADICTIONS)
def test_fields_that_do_not_go_together_are_refused_at_every_door(
    client: FlaskClient, redis: Redis, given: Any, added: Any, field: str
) -> None:
    target = create(client, **given)
    before = digest_of(redis)
    together = {"endpoint": "https://example.org/", **given, **added}
    for path, body in (
        ("/api/v1/targets", together),
        ("/status", {"targets": [together]}),
        ("/api/v1/check", together),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422, path
    patched = client.patch(f"/api/v1/targets/{target['id']}", json=added)
    assert patched.status_code == 409
    assert patched.get_json()["errors"][0]["loc"] == [field]
    posted = client.post("/status", json={"targets": [GOOGLE, {"endpoint": "https://example.org/", **added}]})
    assert posted.status_code == 409
    assert posted.get_json()["data"]["errors"][0]["loc"] == ["targets", 1, field]
    assert digest_of(redis) == before


def test_patch_changes_what_it_names_and_null_is_the_default(client: FlaskClient, redis: Redis) -> None:
    target = create(client, title="Old", interval=60, retries=0, paused=False)
    redis.delete("rq:queue:checks")
    changed = patch(client, target["id"], title="New", interval=None, expected_http_code=204)
    assert (changed["title"], changed["interval"], changed["retries"], changed["expected_http_code"]) == (
        "New",
        None,
        0,
        204,
    )
    assert changed["effective"]["interval"] == 300
    assert patch(client, target["id"], title=None)["title"] is None
    assert len(job_ids(redis)) == 2, "each change is checked at once"


def test_patch_without_a_change_does_nothing(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    before = digest_of(redis)
    patch(client, target["id"])
    patch(client, target["id"], endpoint="https://example.org/")
    assert digest_of(redis) == before


def test_patch_pauses_and_resumes(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(redis, target["id"])
    redis.delete("rq:queue:checks")
    assert patch(client, target["id"], paused=True)["status"] == "paused"
    assert job_ids(redis) == []
    assert patch(client, target["id"], paused=False)["status"] == "pending"
    assert len(job_ids(redis)) == 1
    patch(client, target["id"], paused=True)
    assert patch(client, target["id"], paused=None)["paused"] is False


def test_patch_cannot_take_the_place_of_another(client: FlaskClient, redis: Redis) -> None:
    create(client, **GOOGLE)
    target = create(client)
    before = digest_of(redis)
    answer = client.patch(f"/api/v1/targets/{target['id']}", json={key: GOOGLE[key] for key in ("title", "endpoint")})
    assert answer.status_code == 409
    assert digest_of(redis) == before


@pytest.mark.parametrize(
    "body",
    [
        {"endpoint": None},
        {"endpoint": "ftp://example.org/"},
        {"endpoint": ""},
        {"interval": 4},
        {"interval": "60"},
        {"timeout": 0},
        {"error_codes": [500]},
        {"paused": 1},
        {"id": "other"},
        {"title": "a\nb"},
    ],
)
def test_a_bad_patch_changes_nothing(client: FlaskClient, redis: Redis, body: Any) -> None:
    target = create(client)
    before = digest_of(redis)
    answer = client.patch(f"/api/v1/targets/{target['id']}", json=body)
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["loc"] == list(body)[:1] + ([0] if body == {"error_codes": [500]} else [])
    assert digest_of(redis) == before


def test_a_deleted_target_is_gone(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(redis, target["id"])
    path = f"/api/v1/targets/{target['id']}"
    answer = client.delete(path)
    assert (answer.status_code, answer.data) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        assert client.open(path, method=method, json={}).status_code == 404
    assert client.get(f"{path}/results").status_code == 404
    assert client.get("/api/v1/targets").get_json() == {"targets": [], "total": 0, "next_cursor": None}


# --- lists ---


def test_the_list_is_paged_and_filtered(client: FlaskClient, redis: Redis) -> None:
    targets = [create(client, title=f"t{number}") for number in range(5)]
    record(redis, targets[1]["id"], Verdict.DOWN)
    first = client.get("/api/v1/targets", query_string={"limit": 3}).get_json()
    second = client.get("/api/v1/targets", query_string={"limit": 3, "cursor": first["next_cursor"]}).get_json()
    assert [target["title"] for target in first["targets"] + second["targets"]] == ["t0", "t1", "t2", "t3", "t4"]
    assert second["next_cursor"] is None
    down = client.get("/api/v1/targets?status=down").get_json()
    assert [target["title"] for target in down["targets"]] == ["t1"]
    assert client.get("/api/v1/targets?title=t4").get_json()["total"] == 1
    assert client.get("/api/v1/targets?title=nobody").get_json()["targets"] == []


# --- the outbox ---


def test_an_owed_mail_tells_what_was_expected_as_a_number_where_it_is_one(client: FlaskClient, redis: Redis) -> None:
    for title, codes in (("One", None), ("Many", ["200-299", 404])):
        record(redis, create(client, title=title, expected_http_codes=codes)["id"], Verdict.DOWN, status_code=500)
    entries = client.get("/api/v1/outbox").get_json()["entries"]
    assert {entry["alert"]["title"]: entry["alert"]["expected"] for entry in entries} == {
        "One": 200,
        "Many": "200-299, 404",
    }


def test_a_mail_that_was_given_up_is_seen_and_sent_again(client: FlaskClient, redis: Redis) -> None:
    target = create(client, title="Shop")
    record(redis, target["id"], Verdict.DOWN, at=AT, status_code=500, reason=Reason.STATUS, sentence="It was 500.")
    outbox = Store(redis).outbox
    mail = outbox.claim("mail-1", now=AT + 1000)
    assert mail is not None
    outbox.refused(mail, now=AT + 2000, error="550 no such user")
    found = client.get("/api/v1/outbox").get_json()
    assert (found["waiting"], found["sending"], found["dead"]) == (0, 0, 1)
    [entry] = found["entries"]
    assert (entry["place"], entry["tries"], entry["error"]) == ("dead", 1, "550 no such user")
    assert (entry["alert"]["kind"], entry["alert"]["title"], entry["alert"]["at"]) == (
        "down",
        "Shop",
        "2023-01-24T12:32:41.150Z",
    )
    path = f"/api/v1/outbox/{entry['id']}/retry"
    answer = client.post(path)
    assert (answer.status_code, answer.get_json()) == (200, {"id": entry["id"], "place": "waiting"})
    assert outbox.counts().waiting == 1
    assert client.post(path).status_code == 404, "it waits already"
