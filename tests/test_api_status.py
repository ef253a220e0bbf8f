"""The original contract, byte for byte, and what was added to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job

from api.waiting import places
from shared.monitor import Reason, Verdict
from shared.store import Store
from tests.api_client import GOOGLE, app_on, checked_by, client_on, job_ids, record

# The body of the original page, with its line ends and indentation.
ORIGINAL_BODY = b"""{
"targets": [
{
"title": "Hit the Google!",
"endpoint": "https://www.google.com/",
"expected_http_code": 200
}
]
}"""
JSON = {"Content-Type": "application/json"}
AT = 1_674_563_561_000
"""2023-01-24 12:32:41 UTC."""


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def post(client: FlaskClient, *targets: dict[str, Any], query: str = "") -> Any:
    answer = client.post(f"/status{query}", json={"targets": targets})
    assert answer.status_code == 201, answer.text
    return answer.json


def get(client: FlaskClient, **query: Any) -> Any:
    answer = client.get("/status", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


# --- POST /status ---


def test_the_original_request_creates_the_target(client: FlaskClient, redis: Redis) -> None:
    answer = client.post("/status", data=ORIGINAL_BODY, headers=JSON)
    assert answer.status_code == 201
    body = answer.get_json()
    [target] = body["data"]["targets"]
    assert list(body) == ["category", "data", "message"]
    assert body["category"] == "success"
    assert target == {**GOOGLE, "id": target["id"], "created": True}
    assert answer.headers["Location"] == f"/api/v1/targets/{target['id']}"
    watched = Store(redis).targets.get(target["id"])
    assert watched is not None
    assert watched.target.check.expected_http_code == 200


def test_the_first_check_stands_at_the_front_of_the_queue(client: FlaskClient, redis: Redis) -> None:
    [first] = post(client, GOOGLE)["data"]["targets"]
    [second] = post(client, {"endpoint": "https://example.org/"})["data"]["targets"]
    jobs = [Job.fetch(job_id, connection=redis).args for job_id in job_ids(redis)]
    assert jobs == [([second["id"]],), ([first["id"]],)]


def test_the_same_title_and_endpoint_update_the_target(client: FlaskClient) -> None:
    [first] = post(client, {**GOOGLE, "interval": 60})["data"]["targets"]
    [again] = post(client, {**GOOGLE, "expected_http_code": 204})["data"]["targets"]
    [other] = post(client, {**GOOGLE, "title": "Another"})["data"]["targets"]
    assert again == {**first, "expected_http_code": 204, "created": False}
    assert other["id"] != first["id"]
    assert other["created"]
    kept = client.get(f"/api/v1/targets/{first['id']}").get_json()
    assert (kept["interval"], kept["expected_http_code"]) == (60, 204)


def test_the_default_status_code_is_filled_in_and_the_title_is_null(redis: Redis, valkey_url: str) -> None:
    client = client_on(valkey_url, default_http_status_code=204)
    [target] = post(client, {"endpoint": "https://example.org/"})["data"]["targets"]
    assert (target["title"], target["expected_http_code"]) == (None, 204)
    watched = Store(redis).targets.get(target["id"])
    assert watched is not None
    assert watched.target.check.expected_http_code == 204


def test_several_targets_are_answered_in_order_without_a_location(client: FlaskClient) -> None:
    endpoints = [f"https://example.org/{number}" for number in range(3)]
    answer = client.post("/status", json={"targets": [{"endpoint": endpoint} for endpoint in endpoints]})
    assert [target["endpoint"] for target in answer.get_json()["data"]["targets"]] == endpoints
    assert "Location" not in answer.headers


def test_a_target_twice_in_one_request_is_one_target(client: FlaskClient) -> None:
    first, second = post(client, GOOGLE, {**GOOGLE, "interval": 60})["data"]["targets"]
    assert first["id"] == second["id"]
    assert (first["created"], second["created"]) == (True, False)
    assert get(client)["data"]["total"] == 1


def test_a_thousand_targets_are_taken_at_once(client: FlaskClient) -> None:
    post(client, *({"endpoint": f"https://example.org/{number}"} for number in range(1000)))
    assert get(client)["data"]["total"] == 1000


def test_a_paused_target_is_not_checked(client: FlaskClient, redis: Redis) -> None:
    post(client, {**GOOGLE, "paused": True})
    assert job_ids(redis) == []
    [listed] = get(client)["data"]["targets"]
    assert (listed["status"], listed["is_up"], listed["is_down"]) == ("paused", False, False)


def test_passwords_and_tokens_are_used_and_never_shown(client: FlaskClient, redis: Redis) -> None:
    secret = "https://user:hunter2@example.org/?token=tops3cret&page=1"
    [target] = post(client, {"endpoint": secret})["data"]["targets"]
    record(redis, target["id"])
    paths = ["/status", "/api/v1/targets", f"/api/v1/targets/{target['id']}", "/", "/metrics", "/rq/0/data/queues.json"]
    paths += [f"/rq/0/data/job/{job_id}.json" for job_id in job_ids(redis)]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "hunter2" not in answer.text, path
        assert "tops3cret" not in answer.text, path
    assert target["endpoint"] == "https://***@example.org/?token=***&page=1"
    watched = Store(redis).targets.get(target["id"])
    assert watched is not None
    assert watched.target.check.endpoint == secret


def test_wait_answers_with_the_first_results(client: FlaskClient, redis: Redis) -> None:
    with checked_by(redis):
        answered = post(client, GOOGLE, {"endpoint": "https://example.org/"}, query="?wait=10")
    for target in answered["data"]["targets"]:
        assert (target["status"], target["is_up"], target["is_down"]) == ("up", True, False)
        assert (target["actual_response"], target["elapsed"]) == (200, "0.15 seconds")


def test_wait_does_not_take_an_older_result(client: FlaskClient, redis: Redis) -> None:
    [target] = post(client, GOOGLE)["data"]["targets"]
    record(redis, target["id"], Verdict.DOWN, at=AT, status_code=500, reason=Reason.STATUS)
    redis.delete("rq:queue:checks")
    with checked_by(redis, Verdict.UP):
        [again] = post(client, GOOGLE, query="?wait=10")["data"]["targets"]
    assert again["status"] == "up"


def test_wait_ends_when_its_time_is_over(client: FlaskClient) -> None:
    [target] = post(client, GOOGLE, query="?wait=0.2")["data"]["targets"]
    assert (target["status"], target["elapsed"], target["is_up"]) == ("pending", None, False)


def test_wait_does_not_wait_for_paused_targets(client: FlaskClient) -> None:
    [target] = post(client, {**GOOGLE, "paused": True}, query="?wait=30")["data"]["targets"]
    assert target["status"] == "paused"


@pytest.mark.parametrize("wait", ["31", "-1", "nan", "inf", "x", "", "1_0", "+5", "0x5"])
def test_a_bad_wait_changes_nothing(client: FlaskClient, wait: str) -> None:
    assert client.post("/status", query_string={"wait": wait}, json={"targets": [GOOGLE]}).status_code == 422
    assert client.get("/status").status_code == 404


# --- GET /status ---


def test_no_target_at_all_is_not_found(client: FlaskClient) -> None:
    answer = client.get("/status")
    assert answer.status_code == 404
    assert answer.get_json()["category"] == "not_found"


def test_the_status_reads_as_on_the_original_page(client: FlaskClient, redis: Redis) -> None:
    [target] = post(client, {"endpoint": "https://www.google.com/", "expected_http_code": 200})["data"]["targets"]
    record(redis, target["id"], at=AT - 150)
    body = get(client)
    listed = body["data"].pop("targets")
    assert body["data"].pop("total") == 1
    page = {
        "category": "success",
        "data": {
            "actual_response": 200,
            "elapsed": "0.15 seconds",
            "endpoint": "https://www.google.com/",
            "expected_response": 200,
            "is_down": False,
            "is_up": True,
            "timestamp": "2023-01-24 12:32:41",
            "title": None,
        },
        "message": "Success get the response",
    }
    assert json.dumps(body) == json.dumps(page)
    assert listed == [{**page["data"], "id": target["id"], "status": "up"}]  # type: ignore[dict-item]


def test_a_target_that_is_not_checked_yet_is_neither_up_nor_down(client: FlaskClient) -> None:
    post(client, {"endpoint": "https://example.org/1"}, {"endpoint": "https://example.org/2"})
    data = get(client)["data"]
    assert data["endpoint"] == "https://example.org/2", "the one created last, while none is checked"
    assert [data[name] for name in ("actual_response", "elapsed", "timestamp")] == [None, None, None]
    assert not data["is_up"]
    assert not data["is_down"]


def test_the_top_is_the_target_that_was_checked_last(client: FlaskClient, redis: Redis) -> None:
    first, second, _ = post(client, *({"endpoint": f"https://example.org/{n}"} for n in range(3)))["data"]["targets"]
    record(redis, second["id"], at=AT)
    record(redis, first["id"], Verdict.DOWN, at=AT + 1000, status_code=None, reason=Reason.TIMEOUT)
    data = get(client)["data"]
    assert data["endpoint"] == "https://example.org/0"
    assert (data["is_down"], data["is_up"], data["actual_response"]) == (True, False, None)


def test_pages_hold_every_target_once(client: FlaskClient) -> None:
    post(client, *({"endpoint": f"https://example.org/{number}"} for number in range(7)))
    seen, query = [], {"limit": "3"}
    for _ in range(3):
        data = get(client, **query)["data"]
        seen += [target["endpoint"] for target in data["targets"]]
        assert data["total"] == 7
        query["cursor"] = data.get("next_cursor", "")
    assert seen == [f"https://example.org/{number}" for number in range(7)]
    assert query["cursor"] == "", "the last page leads nowhere"


def test_a_degraded_target_is_up_and_not_down(client: FlaskClient, redis: Redis) -> None:
    [posted] = post(client, GOOGLE)["data"]["targets"]
    record(redis, posted["id"], Verdict.DEGRADED)
    data = get(client, status="degraded")["data"]
    assert (data["is_up"], data["is_down"], data["targets"][0]["status"]) == (True, False, "degraded")
    assert client.get("/status?status=up").status_code == 404


def test_filters_choose(client: FlaskClient, redis: Redis) -> None:
    one, _, _ = post(client, GOOGLE, {**GOOGLE, "title": "Two"}, {"endpoint": "https://a:b@example.org/"})["data"][
        "targets"
    ]
    record(redis, one["id"], Verdict.DOWN, status_code=500, reason=Reason.STATUS)

    def titles(**query: str) -> list[str]:
        return [target["title"] for target in get(client, **query)["data"]["targets"]]

    assert titles(endpoint="https://www.google.com/") == ["Hit the Google!", "Two"]
    assert titles(endpoint="https://www.google.com/", title="Two") == ["Two"]
    assert titles(status="down") == ["Hit the Google!"]
    assert titles(endpoint="https://www.google.com/", status="pending") == ["Two"]
    assert titles(endpoint="https://a:b@example.org/") == [None]
    assert get(client, status="down")["data"]["total"] == 1
    assert get(client, endpoint="https://www.google.com/", status="pending")["data"]["total"] == 1


def test_a_filter_that_nothing_fits_is_not_found(client: FlaskClient) -> None:
    post(client, GOOGLE)
    for query in ({"title": "Nobody"}, {"status": "down"}, {"endpoint": "https://nowhere.example/"}):
        assert client.get("/status", query_string=query).status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "cursor=zz", "status=fine", "page=2", "endpoint="]
)
def test_a_bad_query_is_refused(client: FlaskClient, query: str) -> None:
    post(client, GOOGLE)
    answer = client.get(f"/status?{query}")
    assert answer.status_code == 422
    assert answer.get_json()["data"]["errors"][0]["loc"] == [query.split("=")[0]]


# --- /status/queue ---


def test_the_queue_is_set_as_on_the_original_page(client: FlaskClient, redis: Redis) -> None:
    answer = client.post("/status/queue", data=b'{\n"worker_thread": 2,\n"queue_size": 4\n}', headers=JSON)
    assert answer.status_code == 200
    assert answer.get_json()["data"] == {"worker_thread": 2, "queue_size": 4}
    settings = Store(redis).queue_settings()
    assert (settings.worker_thread, settings.queue_size) == (2, 4)


def test_zero_means_the_default(client: FlaskClient) -> None:
    client.post("/status/queue", json={"worker_thread": 2, "queue_size": 4})
    answer = client.post("/status/queue", json={"worker_thread": 0, "queue_size": 0})
    assert answer.get_json()["data"] == {"worker_thread": 5, "queue_size": 3}


def test_what_is_left_out_stays(client: FlaskClient) -> None:
    client.post("/status/queue", json={"worker_thread": 2, "queue_size": 4})
    answer = client.post("/status/queue", json={"queue_size": 9})
    assert answer.get_json()["data"] == {"worker_thread": 2, "queue_size": 9}


@pytest.mark.parametrize(
    "body",
    [{}, {"worker_thread": -1}, {"worker_thread": 65}, {"queue_size": 1001}, {"worker_thread": "2"}]
    + [{"worker_thread": value, "queue_size": 4} for value in (2.0, True, None, [2])]
    + [{"worker_thread": 2, "queue_size": 4, "more": 1}],
)
def test_bad_numbers_change_nothing(client: FlaskClient, redis: Redis, body: Any) -> None:
    client.post("/status/queue", json={"worker_thread": 2, "queue_size": 4})
    assert client.post("/status/queue", json=body).status_code == 422
    settings = Store(redis).queue_settings()
    assert (settings.worker_thread, settings.queue_size) == (2, 4)


def test_the_queue_status_reads_as_on_the_original_page(client: FlaskClient, redis: Redis) -> None:
    store = Store(redis)
    store.vitals.batch_began("run", now=1_674_723_897_100)
    data = client.get("/status/queue").get_json()["data"]
    assert list(data)[:3] == ["end_time", "queue_status", "start_time"]
    assert (data["start_time"], data["end_time"], data["queue_status"]) == (
        "1674723897.10 seconds",
        "0.00 seconds",
        False,
    )
    store.vitals.batch_ended("run", now=1_674_723_898_250)
    post(client, GOOGLE)
    data = client.get("/status/queue").get_json()["data"]
    assert (data["end_time"], data["queue_status"]) == ("1674723898.25 seconds", True)
    assert data["queues"]["checks"] == {"waiting": 1, "running": 0, "failed": 0, "workers": 0}
    assert (data["worker_thread"], data["queue_size"], data["workers_alive"]) == (5, 3, 0)
    assert data["scheduler_age_seconds"] is None


# --- /emails ---


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_emails_owe_people_one_report(redis: Redis, valkey_url: str, method: str) -> None:
    client = client_on(valkey_url, mail_recipients=("ops@example.org",))
    for _ in range(2):
        answer = client.open("/emails", method=method)
        assert answer.status_code == 200
        assert answer.get_json() == {
            "category": "email_sent_success",
            "data": None,
            "message": "Success to send the notifications to related recipients",
        }
    assert Store(redis).outbox.counts().waiting == 1


def test_emails_without_a_recipient_are_a_conflict(client: FlaskClient, redis: Redis) -> None:
    for method in ("GET", "POST"):
        answer = client.open("/emails", method=method)
        assert answer.status_code == 409
        assert answer.get_json()["category"] == "email_not_configured"
    assert Store(redis).outbox.counts().waiting == 0


def test_too_many_waiting_requests_are_told_to_come_back(redis: Redis, valkey_url: str) -> None:
    client = app_on(valkey_url).test_client()
    for _ in range(8):
        places.enter()
    try:
        answer = client.post("/status?wait=1", json={"targets": [GOOGLE]})
    finally:
        for _ in range(8):
            places.leave()
    assert answer.status_code == 429
    assert "Retry-After" in answer.headers
    assert client.get("/status").status_code == 404, "nothing was written"
