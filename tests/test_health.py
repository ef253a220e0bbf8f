"""The truth about the monitor itself: what makes it say that it is not checking, and what it only warns of."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker

from shared import health
from shared.health import Health
from shared.monitor import Verdict
from shared.queues import CHECKS, EMAILS, HOUSEKEEPING, QUEUES, Queues
from shared.state import Status
from shared.store import Store
from tests.fakes import put, record, settings_for

NOW = 1_800_000_000_000
SETTINGS = settings_for("redis://redis.example")
PATIENCE_MS = (2 * 300 + 4 * 5 + 15) * 1000


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def staff(redis: Redis, *names: str) -> None:
    """A worker on each of these queues."""
    for name in names:
        Worker([Queue(name, connection=redis)], connection=redis).register_birth()  # type: ignore[no-untyped-call]


def look(store: Store, now: int = NOW) -> Health:
    return health.look(store, Queues(store.redis, SETTINGS), SETTINGS, now=now)


@pytest.fixture
def running(store: Store, redis: Redis) -> Store:
    """The store of a monitor all of whose processes are there."""
    staff(redis, *QUEUES)
    store.vitals.beat("scheduler-1", now=NOW - 1_000)
    return store


def test_with_all_processes_there_and_no_target_nothing_is_missing(running: Store) -> None:
    seen = look(running)
    assert (seen.is_checking, seen.missing, seen.warnings) == (True, (), ())
    assert (seen.scheduler_age_ms, seen.newest_result_age_ms) == (1_000, None)
    assert (seen.batch_started_at, seen.batch_ended_at) == (None, None)
    assert set(seen.queues) == set(QUEUES)


def test_an_empty_redis_says_all_that_is_missing(store: Store) -> None:
    seen = look(store)
    assert not seen.is_checking
    assert seen.missing == (
        "no scheduler is running",
        "no worker is alive on the queue checks",
        "no worker is alive on the queue emails",
        "no worker is alive on the queue housekeeping",
    )


@pytest.mark.parametrize("gone", [CHECKS, EMAILS, HOUSEKEEPING])
def test_a_queue_without_a_worker_is_missing_it(store: Store, redis: Redis, gone: str) -> None:
    staff(redis, *(name for name in QUEUES if name != gone))
    store.vitals.beat("scheduler-1", now=NOW)
    assert look(store).missing == (f"no worker is alive on the queue {gone}",)


@pytest.mark.parametrize(("age", "is_late"), [(0, False), (15_000, False), (16_000, True), (-5_000, False)])
def test_a_scheduler_that_does_not_tick_is_missing(store: Store, redis: Redis, age: int, is_late: bool) -> None:
    staff(redis, *QUEUES)
    store.vitals.beat("scheduler-1", now=NOW - age)
    assert look(store).missing == ((f"the scheduler's last tick is {age // 1000} s old",) if is_late else ())


@pytest.mark.parametrize(("age", "is_late"), [(0, False), (PATIENCE_MS, False), (PATIENCE_MS + 1_000, True)])
def test_results_that_do_not_come_are_missing(running: Store, age: int, is_late: bool) -> None:
    targets = put(running, "http://a.example/", "http://b.example/")
    record(running, SETTINGS, targets[:1], Verdict.UP, NOW - 10 * PATIENCE_MS)
    record(running, SETTINGS, targets[1:], Verdict.UP, NOW - age - 10)  # it takes 10 ms
    seen = look(running)
    assert seen.missing == ((f"the newest result is {age // 1000} s old",) if is_late else ())
    assert seen.newest_result_age_ms == age


def test_the_shortest_interval_decides_how_long_a_result_may_take(running: Store) -> None:
    (watched,) = put(running, "http://a.example/", interval=5)
    put(running, "http://b.example/", interval=3_600)
    record(running, SETTINGS, [watched], Verdict.UP, NOW - 46_010)
    assert look(running).missing == ("the newest result is 46 s old",)


def test_results_that_have_never_come_are_missing_too(running: Store) -> None:
    put(running, "http://a.example/", now=NOW - PATIENCE_MS)
    assert look(running).is_checking
    (sentence,) = look(running, now=NOW + 1_000).missing
    assert sentence == "the newest result is missing: the first target waits for it since 636 s"


def test_paused_targets_need_no_results(running: Store) -> None:
    put(running, "http://a.example/", paused=True)
    assert look(running).is_checking


def test_a_target_made_paused_long_ago_is_not_what_a_new_one_waits_for(running: Store) -> None:
    put(running, "http://a.example/", paused=True, now=1)
    put(running, "http://b.example/", now=NOW - 1_000)
    assert look(running).is_checking


def test_targets_are_counted_by_status(running: Store) -> None:
    targets = put(running, *[f"http://a.example/{number}" for number in range(3)])
    record(running, SETTINGS, targets[:2], Verdict.DOWN, NOW)
    assert look(running).statuses[Status.DOWN] == 2
    assert look(running).statuses[Status.PENDING] == 1


def test_an_alert_that_waits_for_more_than_a_minute_is_a_warning_and_nothing_is_missing(running: Store) -> None:
    targets = put(running, "http://a.example/")
    record(running, SETTINGS, targets, Verdict.DOWN, NOW)
    due = running.outbox.counts().oldest_at
    assert due is not None
    assert look(running, now=due + 60_000).warnings == ()
    running.vitals.beat("scheduler-1", now=due + 61_000)
    seen = look(running, now=due + 61_000)
    assert seen.warnings == ("1 alerts wait to be mailed, the oldest for 61 s",)
    assert seen.is_checking


def test_alerts_that_were_given_up_are_a_warning(running: Store) -> None:
    record(running, SETTINGS, put(running, "http://a.example/"), Verdict.DOWN, NOW - 60_000)
    mail = running.outbox.claim("mail-1", now=NOW)
    assert mail is not None
    running.outbox.refused(mail, now=NOW, error="550")
    assert look(running).warnings == ("1 alerts could not be mailed and were given up",)


def test_a_snapshot_that_cannot_be_written_is_a_warning(running: Store) -> None:
    running.vitals.set_snapshot(error="targets.json: cannot be written: No space left on device")
    seen = look(running)
    assert seen.warnings == (
        "the snapshot is not being written: targets.json: cannot be written: No space left on device",
    )
    assert seen.is_checking


def test_the_latest_batch_is_seen(running: Store) -> None:
    running.vitals.batch_began("run-1", now=NOW - 500)
    assert (look(running).batch_started_at, look(running).batch_ended_at) == (NOW - 500, None)


def test_one_look_is_a_handful_of_round_trips_however_many_targets_there_are(running: Store, redis: Any) -> None:
    put(running, *[f"http://a.example/{number}" for number in range(300)])

    def commands() -> int:
        return int(redis.info("stats")["total_commands_processed"])

    before = commands()
    look(running)
    assert commands() - before < 60
