"""The event stream, read over a real connection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask
from redis import Redis

from api import events
from shared.monitor import Verdict
from shared.store import Store
from tests.api_client import GOOGLE, app_on, record, served
from tests.waiting import eventually


@pytest.fixture
def app(redis: Redis, valkey_url: str) -> Flask:
    return app_on(valkey_url)


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    with served(app) as url:
        yield url


def post(url: str, **target: Any) -> str:
    answer = requests.post(f"{url}/status", json={"targets": [target]}, timeout=5)
    return str(answer.json()["data"]["targets"][0]["id"])


@contextmanager
def reading(url: str, **options: Any) -> Iterator[Iterator[dict[str, str]]]:
    """The stream's messages, each as its fields; comments are under the name ``""``."""
    with requests.get(f"{url}/events", stream=True, timeout=10, **options) as answer:
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        messages = _messages(answer.iter_lines(chunk_size=1))
        assert next(messages) == {"retry": "2000"}
        yield messages


def _messages(lines: Iterator[bytes]) -> Iterator[dict[str, str]]:
    message: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.decode().partition(": ")
            message[name] = value
        elif message:
            yield message
            message = {}


def places(app: Flask) -> int:
    return int(app.extensions["streams"].places.taken)


def test_a_check_is_told_with_its_phases_and_its_bottleneck(url: str, redis: Redis) -> None:
    target_id = post(url, title="Shop", endpoint="https://user:hunter2@example.org/")
    with reading(url) as messages:
        record(redis, target_id)
        finished, flipped = next(messages), next(messages)
    data = json.loads(finished["data"])
    assert finished["event"] == "check_finished"
    assert (data["target"], data["title"], data["endpoint"]) == (target_id, "Shop", "https://***@example.org/")
    assert (data["bottleneck"], data["phases"]["wait"], data["verdict"]) == ("wait", 80.0, "up")
    assert flipped["event"] == "target_flipped"
    assert json.loads(flipped["data"])["after"] == "up"
    assert finished["id"] < flipped["id"]


def test_a_stream_begins_with_what_is_new(url: str, redis: Redis) -> None:
    target_id = post(url, **GOOGLE)
    record(redis, target_id, at=1000)
    with reading(url) as messages:
        record(redis, target_id, at=2000)
        assert json.loads(next(messages)["data"])["started_at"] == 2000


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_reader_resumes_where_it_left(url: str, redis: Redis, how: str) -> None:
    target_id = post(url, **GOOGLE)
    with reading(url) as messages:
        record(redis, target_id, at=1000)
        last = next(messages)["id"]
    record(redis, target_id, at=2000)
    options: dict[str, Any] = {
        "header": {"headers": {"Last-Event-ID": last}},
        "query": {"params": {"last_event_id": last}},
    }
    with reading(url, **options[how]) as messages:
        assert next(messages)["event"] == "target_flipped"
        assert json.loads(next(messages)["data"])["started_at"] == 2000


def test_a_reader_hears_of_one_target_alone(url: str, redis: Redis) -> None:
    one, two = post(url, **GOOGLE), post(url, endpoint="https://example.org/")
    with reading(url, params={"target": two}) as messages:
        record(redis, one, at=1000)
        record(redis, two, at=2000)
        assert json.loads(next(messages)["data"])["target"] == two


def test_an_event_without_a_target_is_told_too(url: str, redis: Redis) -> None:
    with reading(url) as messages:
        Store(redis).events.publish([("alert_mailed", None, {"alert_ids": ["a"], "mail_id": "m"})])
        message = next(messages)
    assert message["event"] == "alert_mailed"
    assert json.loads(message["data"]) == {
        "alert_ids": ["a"],
        "mail_id": "m",
        "target": None,
        "title": None,
        "endpoint": None,
    }


def test_a_reader_is_told_what_it_missed(url: str, redis: Redis) -> None:
    publish = Store(redis).events.publish
    publish([("old", None, {})])
    last = Store(redis).events.newest_id()
    publish([("lost", None, {})])
    publish([("kept", None, {})])
    redis.xtrim("monitor:events", maxlen=1, approximate=False)
    with reading(url, headers={"Last-Event-ID": last}) as messages:
        gap, kept = next(messages), next(messages)
    assert (gap["event"], json.loads(gap["data"])) == ("gap", {"after": last})
    assert kept["event"] == "kept"


def test_an_id_from_the_future_is_a_gap_and_not_silence(url: str, redis: Redis) -> None:
    with reading(url, headers={"Last-Event-ID": "99999999999999-0"}) as messages:
        assert next(messages)["event"] == "gap"
        Store(redis).events.publish([("fresh", None, {})])
        assert next(messages)["event"] == "fresh"


@pytest.mark.parametrize("bad", ["x", "5", "5-", "-5", "1-1-1", "9" * 30 + "-0", "$", "0-0 "])
def test_a_bad_id_is_refused(app: Flask, bad: str) -> None:
    client = app.test_client()
    assert client.get("/events", query_string={"last_event_id": bad}).status_code == 422


def test_an_unknown_target_or_parameter_is_refused(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/events?target=nobody").status_code == 404
    assert client.get("/events?tragte=x").status_code == 422
    assert places(app) == 0


def test_readers_are_bounded(app: Flask) -> None:
    turnstile = app.extensions["streams"].places
    for _ in range(events.MOST_STREAMS):
        turnstile.enter()
    answer = app.test_client().get("/events")
    assert answer.status_code == 429
    assert "Retry-After" in answer.headers


def test_an_idle_stream_has_a_heartbeat_and_a_closed_reader_frees_its_place(
    app: Flask, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    with reading(url) as messages:
        assert next(messages) == {"": "still here"}
        assert places(app) == 1
    eventually(lambda: places(app) == 0)


def test_a_reader_that_leaves_at_once_frees_its_place(app: Flask, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    at = urlsplit(url)
    for _ in range(5):
        with socket.create_connection((at.hostname, at.port)) as connection:
            connection.sendall(f"GET /events HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
    eventually(lambda: places(app) == 0)


def test_a_stopping_server_ends_its_streams(app: Flask, url: str) -> None:
    with reading(url) as messages:
        app.extensions["streams"].is_closing = True
        assert list(messages) == []
    eventually(lambda: places(app) == 0)


def test_a_target_that_was_renamed_is_told_by_its_new_name(
    url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LABELS_SECONDS", 0.0)
    target_id = post(url, **GOOGLE)
    with reading(url) as messages:
        record(redis, target_id, Verdict.UP, at=1000)
        assert json.loads(next(messages)["data"])["title"] == GOOGLE["title"]
        requests.patch(f"{url}/api/v1/targets/{target_id}", json={"title": "Renamed"}, timeout=5)
        record(redis, target_id, Verdict.UP, at=2000)
        next(messages)
        assert json.loads(next(messages)["data"])["title"] == "Renamed"
