"""Small facts that processes tell each other: leases, beats, batches, the pool's size, the birth of the store."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from shared.store import QueueSettings, SnapshotRecord, Store
from shared.store.vitals import LEASE_MS, Vitals
from tests.waiting import eventually


@pytest.fixture
def vitals(redis: Redis) -> Vitals:
    return Store(redis).vitals


# --- leases --------------------------------------------------------------------------------------------------------


def test_work_is_leased_to_one_run_at_a_time(vitals: Vitals) -> None:
    assert not vitals.is_leased("check-300-001")
    assert vitals.lease("check-300-001", "run-1")
    assert vitals.is_leased("check-300-001")
    assert not vitals.lease("check-300-001", "run-2")
    assert not vitals.lease("check-300-001", "run-1")
    assert vitals.lease("check-300-002", "run-2")


def test_a_lease_ends_by_itself_within_seconds(vitals: Vitals, redis: Redis) -> None:
    vitals.lease("w", "run-1")
    assert 0 < redis.pttl("monitor:lease:w") <= LEASE_MS
    redis.pexpire("monitor:lease:w", 1)
    eventually(lambda: vitals.lease("w", "run-2"))


def test_the_owner_renews_all_of_its_leases(vitals: Vitals, redis: Redis) -> None:
    for work in ("a", "b"):
        vitals.lease(work, "run-1")
        redis.pexpire(f"monitor:lease:{work}", 500)
    vitals.renew(["a", "b"], "run-1")
    assert redis.pttl("monitor:lease:a") > 500
    assert redis.pttl("monitor:lease:b") > 500


def test_nobody_renews_the_lease_of_another(vitals: Vitals, redis: Any) -> None:
    vitals.lease("w", "run-1")
    redis.pexpire("monitor:lease:w", 500)
    vitals.renew(["w"], "run-2")
    assert redis.get("monitor:lease:w") == b"run-1"
    assert redis.pttl("monitor:lease:w") <= 500


def test_a_run_that_was_away_renews_a_lease_that_nobody_has_taken_meanwhile(vitals: Vitals) -> None:
    vitals.renew(["w"], "run-1")
    assert not vitals.lease("w", "run-2")


def test_only_the_owner_releases_a_lease(vitals: Vitals) -> None:
    vitals.lease("w", "run-1")
    vitals.release(["w"], "run-2")
    assert vitals.is_leased("w")
    vitals.release(["w"], "run-1")
    assert vitals.lease("w", "run-2")


def test_renewing_and_releasing_nothing_asks_nothing_of_redis(vitals: Vitals, redis: Redis) -> None:
    before = redis.info("stats")["total_commands_processed"]
    vitals.renew([], "run-1")
    vitals.release([], "run-1")
    vitals.straggle("s", {})
    vitals.caught_up("s", [])
    assert redis.info("stats")["total_commands_processed"] == before + 1  # the first INFO itself


# --- stragglers ----------------------------------------------------------------------------------------------------


def test_stragglers_are_known_until_their_deadline_or_until_they_caught_up(vitals: Vitals, redis: Redis) -> None:
    soon = int(vitals.now() * 1000) + 60_000
    vitals.straggle("check-5-000", {"a": soon, "b": soon + 1_000, "c": soon + 2_000})
    assert vitals.straggling("check-5-000", now=soon) == {"a", "b", "c"}
    assert vitals.straggling("check-5-000", now=soon + 1_500) == {"c"}
    assert vitals.straggling("check-5-001", now=soon) == set()
    vitals.caught_up("check-5-000", ["b", "c"])
    assert vitals.straggling("check-5-000", now=soon) == {"a"}
    assert 0 < redis.pttl("monitor:straggling:check-5-000") <= 63_000


# --- schedulers ----------------------------------------------------------------------------------------------------


def test_the_last_beat_is_that_of_the_liveliest_scheduler(vitals: Vitals) -> None:
    assert vitals.last_beat() is None
    vitals.beat("first", now=100_000)
    vitals.beat("second", now=103_000)
    vitals.beat("first", now=102_000)
    assert vitals.last_beat() == 103_000


def test_a_scheduler_that_left_in_good_order_is_not_believed_to_beat(vitals: Vitals) -> None:
    vitals.beat("first", now=100_000)
    vitals.beat("second", now=103_000)
    vitals.leave("second")
    assert vitals.last_beat() == 100_000


def test_schedulers_of_the_past_are_forgotten(vitals: Vitals, redis: Redis) -> None:
    for number in range(50):
        vitals.beat(f"scheduler-{number}", now=number * 10_000)
    assert redis.zcard("monitor:schedulers") <= 7
    assert vitals.last_beat() == 490_000


# --- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_has_no_end_while_it_runs(vitals: Vitals) -> None:
    assert vitals.batch() == (None, None)
    vitals.batch_began("run-1", now=1_000)
    assert vitals.batch() == (1_000, None)
    vitals.batch_ended("run-1", now=2_000)
    assert vitals.batch() == (1_000, 2_000)


def test_the_end_of_an_earlier_batch_does_not_end_the_latest(vitals: Vitals) -> None:
    vitals.batch_began("run-1", now=1_000)
    vitals.batch_began("run-2", now=1_500)
    vitals.batch_ended("run-1", now=2_000)
    assert vitals.batch() == (1_500, None)


# --- the pool ------------------------------------------------------------------------------------------------------


def test_zero_means_the_default_size_of_the_pool_and_of_the_queue(vitals: Vitals) -> None:
    assert vitals.queue_settings() == QueueSettings(5, 3)
    assert vitals.set_queue_settings(2, 4) == QueueSettings(2, 4)
    assert vitals.queue_settings() == QueueSettings(2, 4)
    assert vitals.set_queue_settings(0, 7) == QueueSettings(5, 7)
    assert vitals.set_queue_settings(1, 0) == QueueSettings(1, 3)
    assert vitals.set_queue_settings(0, 0) == QueueSettings()


# --- the store itself ----------------------------------------------------------------------------------------------


def test_a_store_is_born_once_and_unborn_when_redis_is_emptied(vitals: Vitals, redis: Redis) -> None:
    assert not vitals.is_born()
    assert vitals.birth() is None
    vitals.bear()
    first = vitals.birth()
    vitals.bear()
    assert vitals.is_born()
    assert vitals.birth() == first is not None

    redis.flushall()

    assert not vitals.is_born()
    vitals.bear()
    assert vitals.birth() != first


def test_the_snapshot_record_keeps_what_it_is_not_told_anew(vitals: Vitals) -> None:
    assert vitals.snapshot() == SnapshotRecord(None, None, -1, 0, None)
    vitals.set_snapshot(digest="d", changes=0, at=5, error="full")
    vitals.set_snapshot(error="", writing="w")
    assert vitals.snapshot() == SnapshotRecord("d", "w", 0, 5, None)


def test_the_clock_is_that_of_redis(vitals: Vitals, redis: Any) -> None:
    seconds, _ = redis.time()
    assert seconds <= vitals.now() < seconds + 5
