"""Reminders of what is down and not acknowledged: when they come, and what ends them or puts them off."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from shared.maintenance import MaintenancePlan
from shared.monitor import Verdict
from shared.settings import Settings
from shared.state import Status
from shared.store import Store, Watched, keys
from tests.fakes import Killed, Wire, everywhere, incident_fields, put, record, settings_for, settle
from worker.scheduler import SlotScheduler

HOUR = 3600
BEGAN = 1_700_000_000
"""When targets fall, in seconds."""


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url, alert_reminder=HOUR, webhook_url="https://hook.example/", alert_group_wait=0)


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def scheduler(redis: Redis, settings: Settings) -> SlotScheduler:
    return SlotScheduler(redis, settings)


@pytest.fixture
def fallen(store: Store, settings: Settings) -> Watched:
    (watched,) = put(store, "http://a.example/")
    record(store, settings, [watched], Verdict.DOWN, BEGAN * 1000 - 10)
    return watched


def reminders(store: Store) -> list[list[str]]:
    """The ids of the reminders that each box owes, in order."""
    boxes = (store.outbox, store.notifications)
    return [[entry["id"] for entry in box.entries() if entry["alert"]["kind"] == "reminder"] for box in boxes]


def watch(scheduler: SlotScheduler, hours: float, *, since: float = 0, step: int = 60) -> list[float]:
    """Has the scheduler look each minute of these hours after the fall; the hours at which it reminded."""
    came, store = [], scheduler.store
    for moment in range(int(BEGAN + since * HOUR), int(BEGAN + hours * HOUR) + 1, step):
        before = len(reminders(store)[0])
        scheduler.remind(moment)
        if len(reminders(store)[0]) > before:
            came.append((moment - BEGAN) / HOUR)
    return came


def test_people_are_reminded_after_an_hour_and_then_each_time_after_twice_as_long(
    store: Store, scheduler: SlotScheduler, fallen: Watched
) -> None:
    assert watch(scheduler, 31.5, step=300) == [1, 3, 7, 15, 31]
    incident = f"{fallen.target.id}-1"
    assert reminders(store) == [[f"{incident}-r{number}" for number in range(1, 6)]] * 2
    (alert, *_) = [entry["alert"] for entry in store.outbox.entries() if entry["alert"]["kind"] == "reminder"]
    assert (alert["incident"], alert["began_at"], alert["target_id"]) == (incident, BEGAN * 1000 - 10, fallen.target.id)
    assert (incident_fields(store, incident) or {})["reminders"] == "5"


def test_without_the_setting_nobody_is_reminded(redis: Redis, store: Store, valkey_url: str) -> None:
    settings = settings_for(valkey_url)
    record(store, settings, put(store, "http://a.example/"), Verdict.DOWN, BEGAN * 1000)
    assert not redis.exists(keys.REMINDERS)
    assert watch(SlotScheduler(redis, settings), 5) == []


def test_a_reminder_has_the_audience_of_its_target(store: Store, settings: Settings, scheduler: SlotScheduler) -> None:
    targets = put(store, "http://a.example/", recipients=("own@example.org",))
    record(store, settings, targets, Verdict.DOWN, BEGAN * 1000)
    scheduler.remind(BEGAN + HOUR + 1)
    mail = store.outbox.claim("mail", now=(BEGAN + HOUR + 1) * 1000)
    assert mail is not None
    assert (mail.audience, [alert.kind for alert in mail.alerts]) == (("own@example.org",), ["down", "reminder"])


def acknowledged(store: Store, settings: Settings, watched: Watched) -> None:
    assert store.incidents.acknowledge(f"{watched.target.id}-1", by="me", note=None, now=BEGAN * 1000 + 1)


def recovered(store: Store, settings: Settings, watched: Watched) -> None:
    record(store, settings, [watched], Verdict.UP, BEGAN * 1000 + 1)


def deleted(store: Store, settings: Settings, watched: Watched) -> None:
    assert store.targets.delete(watched.target.id, now=BEGAN * 1000 + 1)


@pytest.mark.parametrize("happens", [acknowledged, recovered, deleted])
def test_nobody_is_reminded_of_what_was(
    redis: Redis,
    store: Store,
    settings: Settings,
    scheduler: SlotScheduler,
    fallen: Watched,
    happens: Callable[[Store, Settings, Watched], None],
) -> None:
    assert watch(scheduler, 1) == [1]
    happens(store, settings, fallen)
    assert not redis.exists(keys.REMINDERS)
    assert watch(scheduler, 8, since=1.1, step=600) == []


@pytest.mark.parametrize("happens", [acknowledged, recovered, deleted])
def test_nobody_is_reminded_of_what_was_just_when_the_reminder_was_read(
    redis: Redis,
    store: Store,
    settings: Settings,
    fallen: Watched,
    happens: Callable[[Store, Settings, Watched], None],
) -> None:
    (reminder,) = store.reminders.due(now=(BEGAN + HOUR) * 1000)
    happens(store, settings, fallen)
    assert not store.reminders.owe(reminder, reminder.opened, next_at=1, boxes=(keys.OUTBOX,), audiences="", now=1)
    store.reminders.put_off(reminder, until=1)
    assert not redis.exists(keys.REMINDERS)
    assert reminders(store) == [[], []]


def test_what_is_paused_or_unknown_is_put_off_until_it_is_down_again(
    store: Store, settings: Settings, scheduler: SlotScheduler, fallen: Watched
) -> None:
    record(store, settings, [fallen], Verdict.UNKNOWN, BEGAN * 1000 + 1)
    assert watch(scheduler, 2) == []
    record(store, settings, [fallen], Verdict.DOWN, BEGAN * 1000 + 2)
    assert watch(scheduler, 2.5, since=2) == [2 + 1 / 60]
    store.targets.patch(fallen.target.id, lambda check: check.model_copy(update={"paused": True}), now=BEGAN * 1000)
    assert watch(scheduler, 12, since=3, step=600) == []


def test_below_a_parent_that_is_down_nobody_is_reminded(
    store: Store, settings: Settings, scheduler: SlotScheduler
) -> None:
    (parent,) = put(store, "http://parent.example/")
    (child,) = put(store, "http://child.example/", parent=parent.target.id)
    record(store, settings, [child, parent], Verdict.DOWN, BEGAN * 1000)
    watch(scheduler, 1.5)
    assert reminders(store)[0] == [f"{parent.target.id}-1-r1"]
    record(store, settings, [parent], Verdict.UP, BEGAN * 1000 + 1)
    assert len(watch(scheduler, 2, since=1.5)) == 1
    assert set(reminders(store)[0]) == {f"{parent.target.id}-1-r1", f"{child.target.id}-1-r1"}


def test_in_a_maintenance_it_is_put_off(
    store: Store, scheduler: SlotScheduler, fallen: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    window = store.maintenance.put(
        MaintenancePlan.model_validate(
            {
                "title": "move",
                "targets": [fallen.target.id],
                "start": (now - timedelta(hours=1)).isoformat(),
                "end": (now + timedelta(hours=1)).isoformat(),
            }
        )
    )
    assert watch(scheduler, 2) == []
    store.maintenance.delete(window.id or "")
    elsewhere = time.monotonic() + 6
    monkeypatch.setattr("worker.checks.quiet.time.monotonic", lambda: elsewhere)
    assert watch(scheduler, 2.2, since=2) == [2 + 1 / 60]


def test_two_schedulers_remind_once(
    redis: Redis, store: Store, scheduler: SlotScheduler, settings: Settings, fallen: Watched
) -> None:
    other = SlotScheduler(redis, settings)
    (reminder,) = store.reminders.due(now=(BEGAN + HOUR) * 1000)
    scheduler.remind(BEGAN + HOUR)
    other.remind(BEGAN + HOUR)
    assert not store.reminders.owe(reminder, reminder.opened, next_at=1, boxes=(keys.OUTBOX,), audiences="", now=1)
    assert reminders(store) == [[f"{fallen.target.id}-1-r1"]] * 2
    # Nor does one that saw it up a moment ago bring the next reminder nearer.
    store.reminders.put_off(reminder, until=1)
    assert redis.zscore(keys.REMINDERS, reminder.incident) == (BEGAN + 3 * HOUR) * 1000


def test_an_incident_that_has_expired_is_forgotten(
    redis: Redis, scheduler: SlotScheduler, store: Store, fallen: Watched
) -> None:
    redis.delete(keys.incident(f"{fallen.target.id}-1"))
    assert watch(scheduler, 2) == []
    assert not redis.exists(keys.REMINDERS)


def test_three_hundred_reminders_that_are_due_at_once_all_come(
    store: Store, settings: Settings, scheduler: SlotScheduler
) -> None:
    targets = put(store, *(f"http://a.example/{number}" for number in range(300)))
    record(store, settings, targets, Verdict.DOWN, BEGAN * 1000)
    for _ in range(3):
        scheduler.remind(BEGAN + HOUR + 1)
    assert [len(ids) for ids in reminders(store)] == [300, 300]


def test_killed_at_any_moment_the_reminder_comes_once_into_both_boxes(
    redis: Redis, valkey_url: str, settings: Settings
) -> None:
    seen = set()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        (watched,) = put(store, "http://a.example/")
        record(store, settings, [watched], Verdict.DOWN, BEGAN * 1000 - 10)
        with suppress(Killed):
            SlotScheduler(wire.client, settings).remind(BEGAN + HOUR)
        settle(redis, wire)
        assert store.targets.count_by_status()[Status.DOWN] == 1
        seen.add(tuple(len(ids) for ids in reminders(store)))
        SlotScheduler(redis, settings).remind(BEGAN + HOUR)
        assert reminders(store) == [[f"{watched.target.id}-1-r1"]] * 2
    assert seen == {(0, 0), (1, 1)}
