"""What machines ask, and what everybody hears when Redis is away or hangs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from shared.monitor import Reason, Verdict
from shared.store import Store
from tests.api_client import GOOGLE, app_on, client_on, record
from tests.fakes import put, settings_for
from tests.fakes import record as record_now

REQUESTS = [
    ("GET", "/status"),
    ("POST", "/status"),
    ("GET", "/status/queue"),
    ("POST", "/status/queue"),
    ("POST", "/emails"),
    ("GET", "/api/v1/targets"),
    ("POST", "/api/v1/targets"),
    ("PATCH", "/api/v1/targets/x"),
    ("DELETE", "/api/v1/targets/x"),
    ("GET", "/api/v1/targets/x/results"),
    ("GET", "/api/v1/targets/x/failures"),
    ("POST", "/api/v1/targets/x/check"),
    ("POST", "/api/v1/check"),
    ("GET", "/api/v1/outbox"),
    ("GET", "/events"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/rq/"),
    ("GET", "/rq/0/data/queues.json"),
]
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/status"): {"targets": [GOOGLE]},
    ("POST", "/status/queue"): {"worker_thread": 1},
    ("POST", "/api/v1/targets"): GOOGLE,
    ("POST", "/api/v1/check"): GOOGLE,
    ("PATCH", "/api/v1/targets/x"): {"title": "x"},
}


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


def alive(redis: Redis, *queues: str) -> None:
    """Workers on these queues, and a scheduler, as their own keys tell."""
    for queue in queues:
        key = f"rq:worker:{queue}-worker"
        redis.sadd("rq:workers", key)
        redis.sadd(f"rq:workers:{queue}", key)
        redis.hset(key, mapping={"hostname": socket.gethostname(), "pid": os.getpid(), "state": "idle"})
        redis.expire(key, 400)
    Store(redis).vitals.beat("scheduler", now=int(time.time() * 1000))


def test_livez_is_always_well(tmp_path: Path) -> None:
    answer = client_on(f"unix://{tmp_path}/nobody.sock").get("/livez")
    assert (answer.status_code, answer.get_json()) == (200, {"alive": True})


def test_readyz_says_what_is_missing(client: FlaskClient, redis: Redis) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    body = answer.get_json()
    assert body["ready"] is False
    assert "no scheduler is running" in body["reasons"]
    assert "no worker is alive on the queue checks" in body["reasons"]
    alive(redis, "checks", "housekeeping")
    assert client.get("/readyz").get_json()["reasons"] == ["no worker is alive on the queue emails"]


def test_readyz_is_ready_when_everything_runs(client: FlaskClient, redis: Redis) -> None:
    alive(redis, "checks", "emails", "housekeeping")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()) == (200, {"ready": True, "reasons": [], "warnings": []})


def test_a_warning_alone_is_ready(client: FlaskClient, redis: Redis) -> None:
    alive(redis, "checks", "emails", "housekeeping")
    Store(redis).vitals.set_snapshot(error="the disk is full")
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json()["warnings"] == ["the snapshot is not being written: the disk is full"]


def test_metrics_tell_the_vitals(client: FlaskClient, redis: Redis) -> None:
    alive(redis, "checks", "emails")
    targets = [{"endpoint": f"https://example.org/{number}"} for number in range(3)]
    [one, *_] = client.post("/status", json={"targets": targets}).get_json()["data"]["targets"]
    record(redis, one["id"], Verdict.DOWN, status_code=500, reason=Reason.STATUS)
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["monitor_targets", "down"] == 1
    assert found["monitor_targets", "pending"] == 2
    assert found["monitor_queue_jobs", "checks", "waiting"] == 1
    assert (found["monitor_workers", "checks"], found["monitor_workers", "housekeeping"]) == (1, 0)
    assert found["monitor_outbox_alerts", "mail", "waiting"] == 1
    assert found["monitor_outbox_alerts", "notifications", "waiting"] == 0
    assert found["monitor_checking",] == 0
    assert 0 <= found["monitor_scheduler_tick_age_seconds",] < 30
    assert 0 <= found["monitor_newest_result_age_seconds",] < 30


def samples(client: FlaskClient) -> dict[tuple[str, ...], float]:
    """What /metrics says, as a scraper reads it: the name and the values of its labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_tell_how_long_alerts_take_as_a_histogram_that_adds_up(client: FlaskClient, redis: Redis) -> None:
    store, settings, name = (
        Store(redis),
        settings_for("redis://unused", alert_group_wait=0),
        "monitor_alert_delay_seconds",
    )
    empty = samples(client)
    assert (empty[f"{name}_count",], empty[f"{name}_sum",], empty[f"{name}_bucket", "+Inf"]) == (0, 0, 0)
    delays_ms = (500, 1_500, 4_000, 700_000, 100_000_000)
    for number, delay_ms in enumerate(delays_ms):
        at = 10**12 + number * 10**9
        record_now(store, settings, put(store, f"http://{number}.example/"), Verdict.DOWN, at - 10)
        mail = store.outbox.claim("mail", now=at + delay_ms)
        assert mail is not None
        store.outbox.sent(mail, now=at + delay_ms, recipients=["x"], refused={})
    found = samples(client)
    buckets = [(float(key[1]), value) for key, value in found.items() if key[0] == f"{name}_bucket"]
    assert buckets == sorted(buckets)
    for bound, count in buckets:
        assert count == sum(delay_ms <= bound * 1000 for delay_ms in delays_ms), bound
    assert found[f"{name}_count",] == found[f"{name}_bucket", "+Inf"] == len(delays_ms)
    assert found[f"{name}_sum",] == sum(delays_ms) / 1000


def test_metrics_tell_how_many_targets_are_overdue(client: FlaskClient, redis: Redis) -> None:
    store = Store(redis)
    put(store, "http://a.example/", "http://b.example/")  # a long time ago
    put(store, "http://c.example/", paused=True)
    put(store, "http://d.example/", now=int(time.time() * 1000))
    assert samples(client)["monitor_overdue_targets",] == 2


# --- Redis ---


def check_all_are_refused(url: str) -> None:
    """Every route says 503 with Retry-After, each within 2.5 s of its own."""
    app = app_on(url, mail_recipients=("ops@example.org",))

    def ask(request: tuple[str, str]) -> tuple[int, bool, float]:
        method, path = request
        began = time.monotonic()
        answer = app.test_client().open(path, method=method, json=BODIES.get(request))
        return answer.status_code, "Retry-After" in answer.headers, time.monotonic() - began

    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        for request, (status, says_when, seconds) in zip(REQUESTS, pool.map(ask, REQUESTS), strict=True):
            assert (status, says_when) == (503, True), request
            assert seconds < 2.5, request
    ready = app.test_client().get("/readyz")
    assert (ready.status_code, ready.get_json()["reasons"]) == (503, ["Redis does not answer"])


def test_without_redis_every_route_says_so(tmp_path: Path) -> None:
    check_all_are_refused(f"unix://{tmp_path}/nobody.sock")


@pytest.fixture
def hanging_redis() -> Iterator[str]:
    """The URL of a Redis that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


def test_with_a_redis_that_hangs_every_route_says_so_in_time(hanging_redis: str) -> None:
    check_all_are_refused(hanging_redis)


def test_a_redis_that_was_restarted_is_found_again(client: FlaskClient, redis: Redis) -> None:
    client.post("/status", json={"targets": [GOOGLE]})
    redis.client_kill_filter(_type="normal", skipme=True)
    assert client.get("/status").status_code == 200


def test_a_redis_that_is_full_is_no_bug_of_ours(client: FlaskClient, redis: Redis) -> None:
    redis.config_set("maxmemory", "1")
    try:
        answer = client.post("/status", json={"targets": [GOOGLE]})
    finally:
        redis.config_set("maxmemory", "0")
    assert answer.status_code == 503
    assert redis.dbsize() == 0
