"""What is wrong with the monitor itself: told once when it begins, once when it is over, and again when it is back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from redis import Redis

from shared.monitor import Alert
from shared.store import Store, keys
from tests.fakes import Killed, Wire, everywhere, settle

BOXES = (keys.OUTBOX, keys.NOTIFICATIONS)


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def about(name: str, now: int, *, is_over: bool = False) -> Alert:
    kind = "well" if is_over else "trouble"
    return Alert(f"{kind}-{name}-{now}", kind, "", f"{name} is wrong", "", now, now, "", None)  # type: ignore[arg-type]


def begin(store: Store, name: str, now: int) -> bool:
    return store.troubles.begin(name, about(name, now), boxes=BOXES, now=now)


def end(store: Store, name: str, now: int) -> bool:
    return store.troubles.end(name, about(name, now, is_over=True), boxes=BOXES, now=now)


def owed(store: Store) -> list[list[str]]:
    """The ids of what each box owes."""
    return [sorted(entry["id"] for entry in box.entries()) for box in (store.outbox, store.notifications)]


def test_a_trouble_is_told_once_until_it_is_over_and_again_when_it_is_back(store: Store) -> None:
    told = [begin(store, "queue", 1), begin(store, "queue", 2), end(store, "queue", 3), end(store, "queue", 4)]
    assert told == [True, False, True, False]
    assert begin(store, "queue", 5)
    assert owed(store) == [["trouble-queue-1", "trouble-queue-5", "well-queue-3"]] * 2
    assert store.troubles.all() == {"queue": about("queue", 5)}


def test_troubles_of_two_names_do_not_know_of_each_other(store: Store) -> None:
    assert begin(store, "queue", 1)
    assert begin(store, "scheduler", 2)
    assert end(store, "queue", 3)
    assert store.troubles.all().keys() == {"scheduler"}


def test_what_was_never_told_is_not_told_to_be_over(store: Store) -> None:
    assert not end(store, "queue", 1)
    assert owed(store) == [[], []]


def test_no_key_is_left_when_all_is_well_and_told(store: Store, redis: Redis) -> None:
    begin(store, "queue", 1)
    end(store, "queue", 2)
    for box in (store.outbox, store.notifications):
        mail = box.claim("mail", now=3)
        assert mail is not None
        box.sent(mail, now=4, recipients=["x"], refused={})
    assert set(redis.scan_iter()) == {b"monitor:outbox:owed", b"monitor:notifications:owed"}


def test_of_many_who_see_it_at_once_one_tells(store: Store, valkey_url: str) -> None:
    barrier = threading.Barrier(6)

    def tell(number: int) -> bool:
        with Redis.from_url(valkey_url) as client:
            barrier.wait(5)
            return begin(Store(client), "queue", number + 1)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(tell, range(6))) == 1
    assert [len(ids) for ids in owed(store)] == [1, 1]


@pytest.mark.parametrize("is_over", [False, True])
def test_killed_at_any_moment_it_is_told_in_both_boxes_by_whoever_looks_next_and_never_twice(
    redis: Redis, valkey_url: str, is_over: bool
) -> None:
    seen = set()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        if is_over:
            begin(store, "queue", 1)
        tell = end if is_over else begin
        with suppress(Killed):
            tell(Store(wire.client), "queue", 2)
        settle(redis, wire)
        seen.add(tuple(len(ids) - is_over for ids in owed(store)))
        tell(store, "queue", 3)
        assert [len(ids) - is_over for ids in owed(store)] == [1, 1]
    assert seen == {(0, 0), (1, 1)}
