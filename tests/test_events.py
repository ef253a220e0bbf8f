"""The event stream: bounded, resumed behind an id, and no reader waits longer than it must."""

from __future__ import annotations

import threading
import time

import pytest
from redis import Redis

from shared.store import Store
from shared.store.events import LENGTH, number_of
from tests.waiting import eventually


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def publish(store: Store, *numbers: int) -> None:
    store.events.publish([("check_started", "a" * 16, {"at": number}) for number in numbers])


def read(store: Store, after: str, **limits: int) -> list[int]:
    return [event.data["at"] for event in store.events.read(after, **{"block_ms": 0, **limits})]


def test_what_is_published_is_read_in_order_with_its_type_target_and_data(store: Store) -> None:
    store.events.publish([("check_started", "a" * 16, {"at": 1}), ("alert_mailed", None, {"mail_id": "m"})])
    started, mailed = store.events.read("0-0", block_ms=0)
    assert (started.type, started.target, started.data) == ("check_started", "a" * 16, {"at": 1})
    assert (mailed.type, mailed.target, mailed.data) == ("alert_mailed", None, {"mail_id": "m"})


def test_publishing_nothing_makes_no_stream(store: Store, redis: Redis) -> None:
    store.events.publish([])
    assert not redis.exists("monitor:events")


def test_a_reader_resumes_behind_the_last_event_it_has_seen(store: Store) -> None:
    publish(store, 1, 2, 3)
    first = store.events.read("0-0", block_ms=0, count=2)
    publish(store, 4)
    assert [event.data["at"] for event in first] == [1, 2]
    assert read(store, first[-1].id) == [3, 4]


def test_the_newest_id_is_behind_all_that_was(store: Store) -> None:
    assert store.events.newest_id() == "0-0"
    publish(store, 1, 2)
    newest = store.events.newest_id()
    assert read(store, newest) == []
    publish(store, 3)
    assert read(store, newest) == [3]


def test_an_id_that_was_trimmed_away_resumes_at_the_oldest_event(store: Store) -> None:
    publish(store, *range(5))
    assert read(store, "1-0") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("together", [1_000, 100])
def test_the_stream_is_bounded(store: Store, together: int) -> None:
    for start in range(0, LENGTH + 2_000, together):
        publish(store, *range(start, start + together))
    oldest = store.events.read("1-0", block_ms=0, count=1)[0]
    kept = number_of(store.events.newest_id()) - oldest.number + 1
    assert LENGTH <= kept <= LENGTH + 1_000
    assert read(store, "0-0", count=1)[0] >= 1_000


def test_events_that_come_alone_are_bounded_too(store: Store, redis: Redis) -> None:
    for number in range(300):
        publish(store, number)
    publish(store, *range(LENGTH))
    assert redis.xlen("monitor:events") <= 100


def test_a_reader_resumes_within_what_was_told_together(store: Store) -> None:
    publish(store, *range(10))
    publish(store, *range(10, 20))
    first = store.events.read("0-0", block_ms=0, count=1)[0]
    assert read(store, f"{first.number + 6}-0") == list(range(7, 20))
    assert read(store, f"{first.number + 9}-0", count=3) == [10, 11, 12]


def test_numbers_leave_none_out_and_go_on_behind_those_of_a_redis_that_was_lost(store: Store, redis: Redis) -> None:
    publish(store, 1, 2)
    publish(store, 3)
    numbers = [event.number for event in store.events.read("0-0", block_ms=0)]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    redis.delete("monitor:events", "monitor:event")
    eventually(lambda: int(redis.time()[0]) * 1000 > numbers[-1])  # In reality it takes longer than that.
    publish(store, 4)
    assert [event.data["at"] for event in store.events.read(f"{numbers[-1]}-0", block_ms=0)] == [4]


def test_what_an_older_version_left_in_the_stream_is_passed_over(store: Store, redis: Redis) -> None:
    redis.xadd("monitor:events", {"type": "check_started", "target": "", "data": "{}"})
    publish(store, 1)
    assert read(store, "0-0") == [1]


def test_a_reader_that_does_not_block_returns_at_once(store: Store) -> None:
    began = time.monotonic()
    assert read(store, "0-0", block_ms=0) == []
    assert time.monotonic() - began < 1


def test_a_blocked_reader_returns_with_nothing_when_its_time_is_over(store: Store) -> None:
    began = time.monotonic()
    assert read(store, "0-0", block_ms=50) == []
    assert 0.04 < time.monotonic() - began < 2


def test_a_blocked_reader_returns_as_soon_as_something_comes(store: Store, redis: Redis, valkey_url: str) -> None:
    read_at: list[float] = []

    def wait() -> None:
        with Redis.from_url(valkey_url) as client:
            assert read(Store(client), "0-0", block_ms=10_000) == [1]
            read_at.append(time.monotonic())

    reader = threading.Thread(target=wait)
    reader.start()
    eventually(lambda: redis.info("clients")["blocked_clients"] == 1)
    published_at = time.monotonic()
    publish(store, 1)
    reader.join(5)
    assert read_at[0] - published_at < 1
