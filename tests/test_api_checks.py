"""What checks have seen, and checks by hand, under /api/v1."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace
from redis import Redis
from rq.job import Job

from api import checks
from api.waiting import places
from shared.monitor import Reason, Verdict
from shared.store import Store, keys
from tests.api_client import ANSWER, PHASES, checked_by, client_on, create, digest_of, job_ids, record
from tests.waiting import eventually

AT = 1_674_563_561_000
"""2023-01-24 12:32:41 UTC."""
ENDPOINT = {"endpoint": "https://example.org/"}


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


# --- results ---


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


# --- failures ---


def test_a_failure_is_told_with_its_evidence_and_what_has_changed(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    path = f"/api/v1/targets/{target['id']}/failures"
    assert client.get(path).get_json() == {"failures": [], "last_good": None}
    record(redis, target["id"], at=AT, answer=ANSWER)
    record(
        redis,
        target["id"],
        Verdict.DOWN,
        at=AT + 1000,
        status_code=500,
        reason=Reason.STATUS,
        sentence="It was 500.",
        answer=replace(ANSWER, redirects=()),
    )
    told = client.get(path).get_json()
    headers = [{"name": "Content-Type", "value": "text/html"}, {"name": "Set-Cookie", "value": "***"}]
    certificate = {
        "subject": "CN=example.org",
        "issuer": "CN=Some CA",
        "not_before": "2020-09-13T12:26:40.000Z",
        "not_after": "2023-11-14T22:13:20.000Z",
        "sha256": "ab" * 32,
    }
    [failure] = told["failures"]
    assert failure["answer"] == {
        "redirects": [],
        "certificate": certificate,
        "headers": headers,
        "body": "<h1>Hello</h1>",
        "body_bytes": 14,
    }
    assert failure["changed"] == ["it is redirected otherwise"]
    assert (failure["verdict"], failure["reason"], failure["sentence"]) == ("down", "status", "It was 500.")
    assert failure["started_at"] == "2023-01-24T12:32:42.000Z"
    [attempt] = failure["attempts"]
    assert (attempt["phases"], attempt["started_at"]) == (PHASES, "2023-01-24T12:32:42.000Z")
    assert told["last_good"] == {
        "at": "2023-01-24T12:32:41.000Z",
        "status_code": 200,
        "address": "192.0.2.1:443",
        "redirects": ["https://example.org/login"],
        "certificate": certificate,
        "headers": headers[:1],
        "body_bytes": 14,
    }


def test_a_failure_without_an_answer_says_so(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(redis, target["id"], Verdict.DOWN, status_code=None, reason=Reason.DNS, sentence="There is no such name.")
    [failure] = client.get(f"/api/v1/targets/{target['id']}/failures").get_json()["failures"]
    assert (failure["answer"], failure["changed"], failure["reason"]) == (None, [], "dns")


def test_the_newest_fifty_failures_are_kept_and_the_newest_is_first(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    for number in range(52):
        record(redis, target["id"], Verdict.DOWN, at=AT + number, status_code=500, reason=Reason.STATUS, sentence="x")
    failures = client.get(f"/api/v1/targets/{target['id']}/failures").get_json()["failures"]
    assert [failure["started_at"][20:23] for failure in failures] == [f"{number:03}" for number in range(51, 1, -1)]


def test_a_target_that_is_not_there_has_no_failures(client: FlaskClient) -> None:
    assert client.get("/api/v1/targets/unknown/failures").status_code == 404


# --- check now ---


def check_now(client: FlaskClient, target_id: str, wait: float | None = None) -> Any:
    query = {} if wait is None else {"wait": wait}
    return client.post(f"/api/v1/targets/{target_id}/check", query_string=query)


def test_a_check_by_hand_stands_at_the_front_of_the_queue(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    create(client, title="Other")
    answer = check_now(client, target["id"])
    assert answer.status_code == 202
    assert answer.get_json() == {name: value for name, value in target.items() if name != "created"}
    assert Job.fetch(job_ids(redis)[0], connection=redis).args == ([target["id"]],)


def test_with_wait_the_new_result_is_the_answer(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    record(redis, target["id"], at=AT)
    with checked_by(redis, Verdict.DEGRADED):
        answer = check_now(client, target["id"], wait=10)
    assert answer.status_code == 200
    result = answer.get_json()
    assert (result["verdict"], result["status_code"], len(result["attempts"])) == ("degraded", 200, 1)
    assert result["started_at"] > "2026"


def test_where_nobody_checks_the_wait_ends_with_the_target(client: FlaskClient) -> None:
    target = create(client)
    answer = check_now(client, target["id"], wait=0.2)
    assert (answer.status_code, answer.get_json()["id"]) == (202, target["id"])


def test_a_paused_target_is_not_checked_by_hand(client: FlaskClient, redis: Redis) -> None:
    target = create(client, paused=True)
    before = digest_of(redis)
    for wait in (None, 5):
        answer = check_now(client, target["id"], wait)
        assert (answer.status_code, answer.get_json()["detail"]) == (409, "the target is paused")
    assert digest_of(redis) == before


@pytest.mark.parametrize("wait", ["31", "-1", "soon", "nan"])
def test_a_wait_is_bounded(client: FlaskClient, wait: str) -> None:
    target = create(client)
    path = f"/api/v1/targets/{target['id']}/check"
    assert client.post(path, query_string={"wait": wait}).status_code == 422
    assert client.post("/api/v1/check", query_string={"wait": wait + "0"}, json=ENDPOINT).status_code == 422


def test_a_target_that_is_not_there_cannot_be_checked(client: FlaskClient, redis: Redis) -> None:
    assert check_now(client, "unknown").status_code == 404
    assert job_ids(redis) == []


# --- trials ---


def test_a_trial_tells_all_that_was_seen_and_stores_nothing(client: FlaskClient, redis: Redis) -> None:
    with checked_by(redis):
        answer = client.post("/api/v1/check", json={**ENDPOINT, "headers": {"X-Api-Key": "hunter2"}})
    assert answer.status_code == 200
    result = answer.get_json()
    assert (result["verdict"], result["status_code"], result["bottleneck"]) == ("up", 200, "wait")
    assert result["answer"]["certificate"]["not_after"] == "2023-11-14T22:13:20.000Z"
    assert result["answer"]["redirects"] == ["https://example.org/login"]
    assert result["attempts"][0]["started_at"] == result["started_at"]
    assert Store(redis).targets.count() == 0
    assert not list(redis.scan_iter("monitor:trial:*")), "the check and its result are forgotten at once"


def test_a_trial_that_no_worker_took_is_withdrawn(client: FlaskClient, redis: Redis) -> None:
    answer = client.post("/api/v1/check?wait=1", json=ENDPOINT)
    assert answer.status_code == 503
    assert answer.mimetype == "application/problem+json"
    assert "Retry-After" in answer.headers
    assert job_ids(redis) == []
    assert not list(redis.scan_iter("monitor:trial:*"))


def test_a_trial_that_is_not_over_in_time_is_told_so(client: FlaskClient, redis: Redis) -> None:
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(client.post("/api/v1/check?wait=1", json=ENDPOINT).status_code)
    )
    asking.start()
    eventually(lambda: redis.lpop("rq:queue:checks"))
    asking.join()
    assert answers == [504]


# --- limits ---


@pytest.mark.parametrize("name", ["check-now", "trial"])
def test_checks_by_hand_are_limited_each_kind_by_itself(
    client: FlaskClient, redis: Redis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(checks, "MOST_A_MINUTE", 2)
    target = create(client)

    def ask(kind: str) -> Any:
        if kind == "trial":
            return client.post("/api/v1/check", json=ENDPOINT)
        return check_now(client, target["id"], wait=10)

    with checked_by(redis):
        assert [ask(name).status_code for _ in range(3)] == [200, 200, 429]
        refused = ask(name)
        other = ask("trial" if name == "check-now" else "check-now")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert other.status_code == 200


def test_who_is_refused_is_told_how_long_the_limit_still_lasts(
    client: FlaskClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_A_MINUTE", 0)
    path = f"/api/v1/targets/{create(client)['id']}/check"
    assert client.post(path).headers["Retry-After"] == "60"
    redis.pexpire(keys.limit("check-now"), 11_900)
    assert client.post(path).headers["Retry-After"] == "12"
    redis.pexpire(keys.limit("check-now"), 20)
    eventually(lambda: not redis.exists(keys.limit("check-now")))
    assert client.post(path).headers["Retry-After"] == "60", "a new window has begun"


def test_too_many_waiting_requests_are_told_to_come_back(client: FlaskClient, redis: Redis) -> None:
    target = create(client)
    before = digest_of(redis)
    for _ in range(8):
        places.enter()
    try:
        answers = [client.post("/api/v1/check", json=ENDPOINT), check_now(client, target["id"], wait=1)]
    finally:
        for _ in range(8):
            places.leave()
    assert [answer.status_code for answer in answers] == [429, 429]
    assert digest_of(redis) == before
