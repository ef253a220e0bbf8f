"""The REST API proper under /api/v1."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.monitor import Reason, Verdict
from shared.store import Store
from tests.api_client import GOOGLE, PHASES, client_on, digest_of, job_ids, record

AT = 1_674_563_561_000
"""2023-01-24 12:32:41 UTC."""


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def create(client: FlaskClient, **fields: Any) -> Any:
    answer = client.post("/api/v1/targets", json={"endpoint": "https://example.org/", **fields})
    assert answer.status_code == 201, answer.text
    return answer.get_json()


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
        "started_at": "2023-01-24T12:32:41.000Z",
        "finished_at": "2023-01-24T12:32:41.150Z",
        "verdict": "down",
        "status_code": 500,
        "elapsed_ms": 150.0,
        "phases": PHASES,
        "bottleneck": "wait",
        "reason": "status",
        "sentence": "The status code was 500 and not 200.",
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


# --- changes ---


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


def test_results_are_paged_newest_first(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    path = f"/api/v1/targets/{target['id']}/results"
    assert client.get(path).get_json() == {"results": [], "next_cursor": None}
    for number in range(5):
        record(redis, target["id"], at=AT + number * 1000)
    first = client.get(path, query_string={"limit": 3}).get_json()
    second = client.get(path, query_string={"limit": 3, "cursor": first["next_cursor"]}).get_json()
    seconds = [result["started_at"][17:19] for result in first["results"] + second["results"]]
    assert seconds == ["45", "44", "43", "42", "41"]
    assert second["next_cursor"] is None
    newest = first["results"][0]
    assert (newest["verdict"], newest["attempts"], newest["bottleneck"]) == ("up", 1, "wait")


@pytest.mark.parametrize("since", ["2023-01-24T12:32:44Z", "2023-01-24T13:32:44+01:00", "2023-01-24t12:32:43.500z"])
def test_since_leaves_older_results_out(client: FlaskClient, redis: Redis, since: str) -> None:
    target = create(client)
    for number in range(5):
        record(redis, target["id"], at=AT + number * 1000)
    found = client.get(f"/api/v1/targets/{target['id']}/results", query_string={"since": since}).get_json()
    assert [result["started_at"][17:19] for result in found["results"]] == ["45", "44"]


@pytest.mark.parametrize(
    "since", ["yesterday", "2023-01-24", "2023-01-24T12:32:44", "1674563561", "", "2023-13-01T00:00:00Z"]
)
def test_a_time_needs_its_offset(client: FlaskClient, since: str) -> None:
    target = create(client)
    answer = client.get(f"/api/v1/targets/{target['id']}/results", query_string={"since": since})
    assert answer.status_code == 422


# --- the outbox ---


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
