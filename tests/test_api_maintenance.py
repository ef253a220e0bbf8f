"""Maintenance windows under /api/v1, and what Redis keeps of them."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from shared.maintenance import Maintenance
from shared.store import Store, TooManyWindowsError
from shared.store import maintenance as stored
from tests.api_client import client_on, digest_of

ONCE = {"title": "Move", "start": "2026-03-01T10:00:00+01:00", "end": "2026-03-01T12:00:00+01:00"}
AGAIN = {
    "title": "Backup",
    "tags": ["db"],
    "start": "2026-03-01T02:30:00+01:00",
    "rrule": "FREQ=WEEKLY;BYDAY=SU",
    "duration": 7200,
    "timezone": "Europe/Berlin",
}
NOTHING = dict.fromkeys(("targets", "tags", "end", "rrule", "duration", "timezone"))


@pytest.fixture
def client(redis: Redis, valkey_url: str) -> FlaskClient:
    return client_on(valkey_url)


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def plan(client: FlaskClient, **fields: Any) -> Any:
    answer = client.post("/api/v1/maintenance", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.get_json()


def hours_from_now(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="milliseconds")


def changes(redis: Redis) -> int:
    return Store(redis).vitals.changes()


# --- over HTTP ---


def test_a_window_is_planned_and_found_where_location_says(client: FlaskClient) -> None:
    answer = client.post("/api/v1/maintenance", json=ONCE)
    created = answer.get_json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/maintenance/{created['id']}"
    assert client.get(answer.headers["Location"]).get_json() == created
    assert created == {**NOTHING, **ONCE, "id": created["id"], "active": False, "next": None}


def test_a_window_that_recurs_tells_when_it_is_next(client: FlaskClient) -> None:
    window = plan(client, **AGAIN)
    assert {name: window[name] for name in AGAIN} == AGAIN
    start = datetime.fromisoformat(window["next"]["start"])
    assert datetime.fromisoformat(window["next"]["end"]) - start == timedelta(hours=2)
    assert start.weekday() == 6
    assert start > datetime.now(UTC) - timedelta(hours=2)


def test_a_window_is_active_while_it_lasts_and_its_next_occurrence_is_the_present_one(client: FlaskClient) -> None:
    for start, end, is_active in ((-1, 1, True), (1, 2, False)):
        window = plan(client, title="x", start=hours_from_now(start), end=hours_from_now(end))
        assert window["active"] is is_active
        assert window["next"]["start"] == window["start"].replace("+00:00", "Z")


def test_windows_are_listed_by_title(client: FlaskClient) -> None:
    assert client.get("/api/v1/maintenance").get_json() == {"maintenance": []}
    once, again = plan(client, **ONCE), plan(client, **AGAIN)
    assert client.get("/api/v1/maintenance").get_json() == {"maintenance": [again, once]}


def test_put_replaces_a_window_whole(client: FlaskClient) -> None:
    window = plan(client, **AGAIN)
    answer = client.put(f"/api/v1/maintenance/{window['id']}", json=ONCE)
    assert answer.status_code == 200
    assert answer.get_json() == {**NOTHING, **ONCE, "id": window["id"], "active": False, "next": None}
    assert client.get("/api/v1/maintenance").get_json()["maintenance"] == [answer.get_json()]


def test_what_is_deleted_is_gone(client: FlaskClient) -> None:
    path = f"/api/v1/maintenance/{plan(client, **ONCE)['id']}"
    answer = client.delete(path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert client.get(path).status_code == 404
    assert client.delete(path).status_code == 404


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_what_is_not_there_is_not_found_and_not_made(client: FlaskClient, redis: Redis, method: str) -> None:
    before = digest_of(redis)
    body = {"json": ONCE} if method == "put" else {}
    answer = getattr(client, method)("/api/v1/maintenance/0000000000000000", **body)
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    assert digest_of(redis) == before


REFUSALS: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "end before start": (
        {**ONCE, "end": "2026-03-01T09:00:00+01:00"},
        ["end"],
        "end must be after start, 2026-03-01T10:00:00+01:00, and at most 366 days later "
        "(it is 2026-03-01T09:00:00+01:00)",
    ),
    "no end": ({"title": "x", "start": ONCE["start"]}, ["end"], "end must be given where there is no rrule"),
    "bad start": (
        {**ONCE, "start": "tomorrow"},
        ["start"],
        'start must be a time with its offset, like 2026-11-22T17:00:00+01:00 (it is "tomorrow")',
    ),
    "bad rule": (
        {**AGAIN, "rrule": "FREQ=MINUTELY"},
        ["rrule"],
        'rrule must have a FREQ of YEARLY, MONTHLY, WEEKLY, DAILY or HOURLY (it is "FREQ=MINUTELY")',
    ),
    "hopeless rule": (
        {**AGAIN, "rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"},
        ["rrule"],
        "rrule must have parts that some time fits (it is FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30)",
    ),
    "bad zone": (
        {**AGAIN, "timezone": "Europe/Nowhere"},
        ["timezone"],
        'timezone must be the name of a time zone, like Europe/Berlin (it is "Europe/Nowhere")',
    ),
    "short": (
        {**AGAIN, "duration": 5},
        ["duration"],
        "duration must be greater than or equal to 60 (it is 5)",
    ),
    "bad target": ({**ONCE, "targets": ["x"]}, ["targets", 0], "targets[0] must match pattern"),
    "too many targets": (
        {**ONCE, "targets": ["0" * 16] * 501},
        ["targets"],
        "targets must hold from 1 to 500 (it is a list)",
    ),
    "no tags": ({**ONCE, "tags": []}, ["tags"], "tags must hold from 1 to 20"),
    "an id": ({**ONCE, "id": "0" * 16}, ["id"], "id is not a field"),
    "unknown": ({**ONCE, "until": 1}, ["until"], "until is not a field"),
}


@pytest.mark.parametrize(("body", "loc", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_field_rule_and_value_and_changes_nothing(
    client: FlaskClient, redis: Redis, body: dict[str, Any], loc: list[str | int], sentence: str
) -> None:
    window = plan(client, **AGAIN)
    before = digest_of(redis)
    for answer in (
        client.post("/api/v1/maintenance", json=body),
        client.put(f"/api/v1/maintenance/{window['id']}", json=body),
    ):
        assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
        [problem] = answer.get_json()["errors"]
        assert problem["loc"] == loc
        assert problem["msg"].startswith(sentence)
    assert digest_of(redis) == before


def test_another_site_changes_nothing(client: FlaskClient, redis: Redis) -> None:
    path = f"/api/v1/maintenance/{plan(client, **ONCE)['id']}"
    before = digest_of(redis)
    headers = {"Origin": "https://evil.example"}
    assert client.post("/api/v1/maintenance", json=ONCE, headers=headers).status_code == 403
    assert client.put(path, json=ONCE, headers=headers).status_code == 403
    assert client.delete(path, headers=headers).status_code == 403
    assert digest_of(redis) == before


def test_one_window_too_many_is_refused_and_another_may_still_be_replaced(
    client: FlaskClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST_WINDOWS", 2)
    window, _ = plan(client, **ONCE), plan(client, **AGAIN)
    before = digest_of(redis)
    answer = client.post("/api/v1/maintenance", json=ONCE)
    assert answer.status_code == 409
    assert answer.get_json()["detail"] == "there must be at most 2 maintenance windows"
    assert digest_of(redis) == before
    assert client.put(f"/api/v1/maintenance/{window['id']}", json=AGAIN).status_code == 200


# --- in Redis ---


def test_every_write_is_worth_a_snapshot_and_what_writes_nothing_is_not(store: Store, redis: Redis) -> None:
    first = store.maintenance.put(Maintenance(**ONCE))
    assert first.id is not None
    assert changes(redis) == 1
    assert store.maintenance.replace(first.id, Maintenance(**AGAIN)) == Maintenance(**AGAIN, id=first.id)
    assert changes(redis) == 2
    assert store.maintenance.delete(first.id)
    assert changes(redis) == 3
    assert not store.maintenance.delete(first.id)
    assert store.maintenance.replace(first.id, Maintenance(**ONCE)) is None
    assert changes(redis) == 3


def test_what_is_read_is_what_was_put(store: Store) -> None:
    windows = [store.maintenance.put(Maintenance(**fields)) for fields in (AGAIN, ONCE)]
    assert store.maintenance.all() == windows
    assert [store.maintenance.get(window.id or "") for window in windows] == windows


def test_a_full_store_is_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_WINDOWS", 1)
    store.maintenance.put(Maintenance(**ONCE))
    with pytest.raises(TooManyWindowsError, match="at most 1 maintenance windows"):
        store.maintenance.put(Maintenance(**ONCE))


DAMAGED = {
    "no JSON": "{",
    "no object": "[]",
    "nothing": "null",
    "no window": '{"title": "x"}',
    "a rule that is none": json.dumps({**AGAIN, "rrule": "FREQ=NEVER"}),
    "a zone that is gone": json.dumps({**AGAIN, "timezone": "Europe/Atlantis"}),
    "unknown": json.dumps({**ONCE, "later": 1}),
    "no text": b"\xff",
}


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_window_is_skipped_and_logged_and_can_be_deleted(
    client: FlaskClient, redis: Redis, store: Store, caplog: pytest.LogCaptureFixture, raw: str | bytes
) -> None:
    kept = store.maintenance.put(Maintenance(**ONCE))
    stored._window.cache_clear()
    redis.hset("monitor:maintenance", "00000000deadbeef", raw)
    with caplog.at_level(logging.WARNING):
        assert store.maintenance.all() == [kept]
    assert "the maintenance window 00000000deadbeef in Redis is skipped" in caplog.text
    assert client.get("/api/v1/maintenance/00000000deadbeef").status_code == 404
    assert len(client.get("/api/v1/maintenance").get_json()["maintenance"]) == 1
    assert client.delete("/api/v1/maintenance/00000000deadbeef").status_code == 204


def test_a_thousand_windows_are_read_again_in_little_time(redis: Redis, store: Store) -> None:
    document = json.dumps(AGAIN)
    redis.hset("monitor:maintenance", mapping={f"{number:016x}": document for number in range(1000)})
    assert len(store.maintenance.all()) == 1000
    began = time.process_time()
    store.maintenance.all()
    assert time.process_time() - began < 0.1
