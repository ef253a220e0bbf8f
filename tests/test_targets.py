"""Targets in Redis: written all or nothing, one for each identity, found by id, page, slot, title and endpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis import Redis

from shared.check import Check, ContradictionError
from shared.monitor import Verdict
from shared.state import State, Status
from shared.store import Store, TargetTakenError, TooMuchChangeError, Watched, keys
from shared.store.targets import bucket_of, buckets_of_slot, slot_count
from tests.fakes import Wire, incident_fields, put, record, settings_for

SETTINGS = settings_for("redis://unused")


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def check(path: str = "", **fields: Any) -> Check:
    return Check.model_validate({"endpoint": f"http://a.example/{path}", **fields})


def everything(redis: Any) -> dict[bytes, bytes]:
    """All of Redis: every key with what it holds."""
    return {key: redis.dump(key) for key in redis.scan_iter()}


def key_names(redis: Any) -> set[str]:
    return {key.decode() for key in redis.scan_iter()}


# --- put -----------------------------------------------------------------------------------------------------------


def test_a_new_target_is_pending_under_an_id_of_its_own(store: Store) -> None:
    (written,) = store.targets.put([check("x", title="Shop", expected_http_code=204, interval=60)], now=5_000)

    assert written.created
    assert len(written.target.id) == 16
    watched = store.targets.get(written.target.id)
    assert watched is not None
    assert watched.target == written.target
    assert (watched.target.revision, watched.target.created_at) == (1, 5_000)
    assert watched.state == State(Status.PENDING, since=5_000)
    assert watched.latest is None
    assert store.targets.count_by_status()[Status.PENDING] == 1


def test_the_same_title_and_endpoint_again_is_the_same_target(store: Store, redis: Redis) -> None:
    (first,) = store.targets.put([check(title="Shop")], now=1)
    before = everything(redis)

    (second,) = store.targets.put([check(title="Shop")], now=2)

    assert (second.target, second.created, second.changed) == (first.target, False, False)
    assert everything(redis) == before


@pytest.mark.parametrize(
    "other", [check(title="Other"), check(), check(title=""), check("x", title="Shop"), check("?", title="Shop")]
)
def test_another_title_or_endpoint_is_another_target(store: Store, other: Check) -> None:
    store.targets.put([check(title="Shop")], now=1)
    assert store.targets.put([other], now=1)[0].created
    assert store.targets.count() == 2


def test_posting_a_target_again_changes_what_is_named_and_keeps_the_rest(store: Store) -> None:
    (first,) = store.targets.put([check(interval=60, timeout=3, expected_http_code=204)], now=1)

    (second,) = store.targets.put([check(timeout=4, expected_http_code=200)], now=2)

    assert (second.target.id, second.created, second.changed) == (first.target.id, False, True)
    assert second.target.check == check(interval=60, timeout=4, expected_http_code=200)
    assert (second.target.revision, second.target.created_at) == (2, 1)
    assert store.targets.load([first.target.id])[0].target == second.target


def test_a_target_named_twice_in_one_request_is_made_once_with_both_changes(store: Store) -> None:
    first, second = store.targets.put([check(interval=60, timeout=1), check(timeout=2)], now=1)

    assert (first.created, second.created) == (True, False)
    assert first.target == second.target
    assert second.target.check == check(interval=60, timeout=2)
    assert store.targets.count() == 1
    assert store.targets.load([first.target.id])[0].target == first.target


def test_an_empty_request_writes_nothing(store: Store, redis: Redis) -> None:
    assert store.targets.put([], now=1) == []
    assert not redis.keys()


def test_a_put_is_all_or_nothing(store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of three targets is made by somebody else between our look and our write, every time."""
    commit = store.targets._commit

    def interfere(drafts: Any, now: int, *args: Any) -> str:
        redis.hset(keys.target(drafts[-1].id), "revision", 7)
        outcome = commit(drafts, now, *args)
        redis.delete(keys.target(drafts[-1].id))
        return outcome

    monkeypatch.setattr(store.targets, "_commit", interfere)
    with pytest.raises(TooMuchChangeError):
        store.targets.put([check("1"), check("2"), check("3")], now=1)
    assert not redis.keys()


def test_eight_who_put_the_same_new_target_at_once_make_one(store: Store, valkey_url: str) -> None:
    barrier = threading.Barrier(8)

    def put_once(_number: int) -> tuple[str, bool]:
        with Redis.from_url(valkey_url) as client:
            barrier.wait(5)
            (written,) = Store(client).targets.put([check(title="Shop")], now=1)
            return written.target.id, written.created

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(put_once, range(8)))

    assert store.targets.count() == 1
    assert len({target_id for target_id, _ in outcomes}) == 1
    assert sorted(created for _, created in outcomes) == [False] * 7 + [True]


def test_eight_who_put_lists_that_overlap_make_each_target_once(store: Store, valkey_url: str) -> None:
    barrier = threading.Barrier(8)

    def put_some(number: int) -> set[str]:
        with Redis.from_url(valkey_url) as client:
            barrier.wait(5)
            checks = [check(str(path)) for path in range(number, number + 30)]
            return {each.target.id for each in Store(client).targets.put(checks, now=1) if each.created}

    with ThreadPoolExecutor(8) as pool:
        created = [each for made in pool.map(put_some, range(8)) for each in made]

    assert store.targets.count() == 37
    assert len(created) == len(set(created)) == 37


def test_a_thousand_targets_are_put_in_two_round_trips(store: Store, valkey_url: str) -> None:
    store.targets.put([check("warm")], now=1)  # the script is in Redis from now on
    wire = Wire.untouched(valkey_url)
    wire.client.ping()
    before = wire.sends
    Store(wire.client).targets.put([check(str(number)) for number in range(1000)], now=1)
    round_trips = wire.sends - before
    wire.close()
    assert round_trips == 2  # who has these identities, and the write
    assert store.targets.count() == 1001


# --- patch ---------------------------------------------------------------------------------------------------------


def changing(**fields: Any) -> Callable[[Check], Check]:
    return lambda found: found.model_copy(update=fields)


def test_a_change_of_nothing_writes_nothing(store: Store, redis: Redis) -> None:
    (written,) = store.targets.put([check()], now=1)
    before = everything(redis)
    patched = store.targets.patch(written.target.id, changing(title=None), now=2)
    assert patched is not None
    assert not patched.changed
    assert everything(redis) == before


def test_a_target_that_is_not_there_cannot_be_changed(store: Store, redis: Redis) -> None:
    assert store.targets.patch("0" * 16, changing(title="x"), now=1) is None
    assert not redis.keys()


def test_a_changed_title_is_found_and_the_old_one_is_free(store: Store) -> None:
    (written,) = store.targets.put([check(title="Old")], now=1)
    store.targets.patch(written.target.id, changing(title="New"), now=2)

    assert [each.target.id for each in store.targets.find(title="New")[0]] == [written.target.id]
    assert store.targets.find(title="Old") == ([], 0)
    assert store.targets.put([check(title="Old")], now=3)[0].created


def test_a_title_and_endpoint_that_another_target_has_are_refused_and_nothing_changes(
    store: Store, redis: Redis
) -> None:
    first, _ = store.targets.put([check(title="A"), check(title="B")], now=1)
    before = everything(redis)
    with pytest.raises(TargetTakenError):
        store.targets.patch(first.target.id, changing(title="B"), now=2)
    assert everything(redis) == before


def test_what_the_change_raises_comes_out_and_nothing_changes(store: Store, redis: Redis) -> None:
    (written,) = store.targets.put([check()], now=1)
    before = everything(redis)

    def refuse(_found: Check) -> Check:
        raise LookupError

    with pytest.raises(LookupError):
        store.targets.patch(written.target.id, refuse, now=2)
    assert everything(redis) == before


def test_changes_made_at_once_are_all_kept(store: Store, valkey_url: str) -> None:
    (written,) = store.targets.put([check(timeout=1)], now=1)
    barrier = threading.Barrier(6)

    def longer(found: Check) -> Check:
        return found.model_copy(update={"timeout": (found.timeout or 0) + 1})

    def patch_twice(_number: int) -> None:
        with Redis.from_url(valkey_url) as client:
            barrier.wait(5)
            for _ in range(2):
                assert Store(client).targets.patch(written.target.id, longer, now=2)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(patch_twice, range(6)))

    (watched,) = store.targets.load([written.target.id])
    assert (watched.target.check.timeout, watched.target.revision) == (13, 13)


def test_a_target_that_is_deleted_while_it_is_changed_stays_deleted(store: Store, redis: Redis) -> None:
    (written,) = store.targets.put([check()], now=1)

    def delete_first(found: Check) -> Check:
        store.targets.delete(written.target.id, now=2)
        return found.model_copy(update={"title": "x"})

    assert store.targets.patch(written.target.id, delete_first, now=2) is None
    assert store.targets.count() == 0
    assert not redis.exists(keys.target(written.target.id))


def test_another_interval_moves_the_target_to_another_bucket(store: Store) -> None:
    (written,) = store.targets.put([check(interval=60)], now=1)
    number = bucket_of(written.target.id)
    assert store.targets.intervals() == {60: {number}}
    orders = store.vitals.orders()

    store.targets.patch(written.target.id, changing(interval=None), now=2)

    assert store.targets.intervals() == {0: {number}}
    assert store.vitals.orders() > orders
    assert store.targets.slot(60, number, with_default=False) == []
    assert store.targets.slot(60, number, with_default=True) == [written.target.id]


# --- pause and resume ----------------------------------------------------------------------------------------------


def test_a_paused_target_is_in_no_slot_and_a_resumed_one_is_pending_in_its_slot(store: Store) -> None:
    (written,) = store.targets.put([check()], now=1)
    target_id, slot = written.target.id, bucket_of(written.target.id)

    store.targets.patch(target_id, changing(paused=True), now=2)

    (paused,) = store.targets.load([target_id])
    assert paused.state == State(Status.PAUSED, since=2)
    assert store.targets.slot(300, slot, with_default=True) == []
    assert store.targets.intervals() == {}
    assert store.targets.count_by_status()[Status.PAUSED] == 1
    assert store.targets.count_by_status()[Status.PENDING] == 0

    store.targets.patch(target_id, changing(paused=False), now=3)

    (resumed,) = store.targets.load([target_id])
    assert resumed.state == State(Status.PENDING, since=3)
    assert store.targets.slot(300, slot, with_default=True) == [target_id]
    assert store.targets.count_by_status()[Status.PENDING] == 1


def test_a_pause_keeps_the_incident_open(store: Store) -> None:
    (watched,) = put(store, "http://a.example/")
    record(store, SETTINGS, [watched], Verdict.DOWN, 1_000)
    (down,) = store.targets.load([watched.target.id])
    assert down.state.incident

    store.targets.patch(watched.target.id, changing(paused=True), now=2_000)
    store.targets.patch(watched.target.id, changing(paused=False), now=3_000)

    (resumed,) = store.targets.load([watched.target.id])
    assert resumed.state == replace(down.state, status=Status.PENDING, since=3_000, failures=0, suspect=None)
    assert resumed.state.incident is not None


def test_a_result_between_the_look_and_the_pause_is_not_lost(store: Store) -> None:
    (watched,) = put(store, "http://a.example/")

    def pause_while_a_result_comes_in(found: Check) -> Check:
        record(store, SETTINGS, [watched], Verdict.DOWN, 1_000)
        return found.model_copy(update={"paused": True})

    store.targets.patch(watched.target.id, pause_while_a_result_comes_in, now=2_000)

    (paused,) = store.targets.load([watched.target.id])
    assert paused.state.status is Status.PAUSED
    assert paused.state.checked_at == 1_000
    assert paused.state.incident


def test_a_target_may_be_made_paused(store: Store) -> None:
    (written,) = store.targets.put([check(paused=True)], now=1)
    (watched,) = store.targets.load([written.target.id])
    assert watched.state.status is Status.PAUSED
    assert store.targets.intervals() == {}


def test_a_change_of_anything_else_leaves_the_state_alone(store: Store) -> None:
    (watched,) = put(store, "http://a.example/")
    record(store, SETTINGS, [watched], Verdict.UP, 1_000)
    (before,) = store.targets.load([watched.target.id])
    store.targets.patch(watched.target.id, changing(timeout=9), now=2_000)
    (after,) = store.targets.load([watched.target.id])
    assert (after.state, after.latest) == (before.state, before.latest)


# --- parents ---


def test_a_parent_may_be_of_the_same_request_and_is_found_by_its_title(store: Store) -> None:
    child, gate = store.targets.put(
        [
            Check(endpoint="http://child.example/", parent="Gate"),
            Check(title="Gate", endpoint="http://gate.example/"),
        ],
        now=1,
    )
    assert child.target.check.parent == gate.target.id


@pytest.mark.parametrize("titled", [0, 2])
def test_a_title_that_nobody_or_more_than_one_has_is_no_parent(store: Store, redis: Redis, titled: int) -> None:
    for number in range(titled):
        store.targets.put([Check(title="Gate", endpoint=f"http://{number}.example/")], now=1)
    before = key_names(redis)
    with pytest.raises(ContradictionError) as caught:
        store.targets.put([check(), Check(endpoint="http://child.example/", parent="Gate")], now=2)
    assert (caught.value.field, caught.value.index) == ("parent", 1)
    assert key_names(redis) == before


def test_nobody_is_their_own_parent_not_even_by_way_of_others(store: Store) -> None:
    first, second, third = (each.target.id for each in put(store, *(f"http://{n}.example/" for n in range(3))))
    store.targets.patch(second, changing(parent=first), now=2)
    store.targets.patch(third, changing(parent=second), now=2)
    for parent in (first, second, third):
        with pytest.raises(ContradictionError):
            store.targets.patch(first, changing(parent=parent), now=3)
    assert store.targets.load([first])[0].target.check.parent is None


def test_a_parent_that_a_snapshot_does_not_hold_is_dropped(store: Store) -> None:
    saved = [Saved(ID, check(parent="Gone")), Saved(None, check("1", parent=ID))]
    orphan, child = store.targets.restore(saved, now=1)
    assert (orphan.target.check.parent, child.target.check.parent) == (None, ID)


# --- delete --------------------------------------------------------------------------------------------------------


def test_deleting_all_targets_leaves_counters_streams_and_closed_incidents_only(store: Store, redis: Redis) -> None:
    targets = put(store, "http://a.example/", "http://b.example/", title="Shop", interval=60)
    put(store, "http://c.example/", paused=True)
    record(store, SETTINGS, targets, Verdict.UP, 1_000)
    record(store, SETTINGS, targets[:1], Verdict.DOWN, 2_000)
    alerts = {name for name in key_names(redis) if name.startswith("monitor:outbox")}
    assert alerts

    for watched in store.targets.page():
        assert store.targets.delete(watched.target.id, now=3_000)

    incident = f"monitor:incident:{targets[0].target.id}-2"
    counters = {"monitor:order", "monitor:orders", "monitor:changes", "monitor:event"}
    of_target = f"monitor:incidents:of:{targets[0].target.id}"
    assert key_names(redis) == counters | {"monitor:events", "monitor:incidents", of_target, incident} | alerts
    assert 0 < redis.ttl(of_target) <= 90 * 86_400
    assert 0 < redis.ttl(incident) <= 90 * 86_400
    assert incident_fields(store, incident.removeprefix("monitor:incident:")) is not None


def test_put_and_delete_leave_nothing_but_counters(store: Store, redis: Redis) -> None:
    (written,) = store.targets.put([check(title="Shop", interval=60)], now=1)
    store.targets.delete(written.target.id, now=2)
    assert key_names(redis) == {"monitor:order", "monitor:orders", "monitor:changes"}


def test_deleting_one_target_leaves_the_others_findable(store: Store) -> None:
    first, second = put(store, "http://a.example/", "http://b.example/", title="Shop", interval=60)
    store.targets.delete(first.target.id, now=2)

    assert [each.target.id for each in store.targets.page()] == [second.target.id]
    assert store.targets.find(title="Shop") == ([second], 1)
    assert store.targets.slot(60, bucket_of(second.target.id), with_default=False) == [second.target.id]
    assert store.targets.intervals() == {60: {bucket_of(second.target.id)}}


def test_what_is_not_there_cannot_be_deleted(store: Store, redis: Redis) -> None:
    assert not store.targets.delete("0" * 16, now=1)
    assert not redis.keys()


# --- reading -------------------------------------------------------------------------------------------------------


def test_pages_hold_every_target_once_while_targets_are_added_and_deleted(store: Store) -> None:
    at_first = [watched.target.id for watched in put(store, *[f"http://a.example/{n}" for n in range(25)])]
    seen: list[str] = []
    after = 0
    while page := store.targets.page(after=after, limit=10):
        seen += [watched.target.id for watched in page]
        after = page[-1].order
        if len(seen) < 30:
            put(store, f"http://b.example/{len(seen)}")
            store.targets.delete(seen[0], now=9)

    assert len(seen) == len(set(seen))
    assert seen[:25] == at_first
    assert len(seen) == 30


def test_a_page_of_one_status_holds_that_status_only(store: Store) -> None:
    targets = put(store, *[f"http://a.example/{n}" for n in range(5)])
    record(store, SETTINGS, targets[1:4], Verdict.DOWN, 1_000)
    record(store, SETTINGS, targets[2:3], Verdict.UP, 2_000)

    down = store.targets.page(status=Status.DOWN)

    assert [watched.target.id for watched in down] == [targets[1].target.id, targets[3].target.id]
    assert store.targets.page(status=Status.DOWN, after=down[0].order, limit=1) == [down[1]]
    assert store.targets.count_by_status() == {
        Status.PENDING: 2,
        Status.UP: 1,
        Status.DEGRADED: 0,
        Status.DOWN: 2,
        Status.UNKNOWN: 0,
        Status.PAUSED: 0,
    }


def test_load_keeps_the_order_and_leaves_out_what_is_gone(store: Store) -> None:
    first, second = put(store, "http://a.example/", "http://b.example/")
    assert store.targets.load([second.target.id, "0" * 16, first.target.id]) == [second, first]
    assert store.targets.load([]) == []
    assert store.targets.get("0" * 16) is None


def test_targets_are_found_by_exactly_their_endpoint_and_title(store: Store) -> None:
    shop_a, shop_b = put(store, "http://a.example/", "http://b.example/", title="Shop")
    (blog_a,) = put(store, "http://a.example/", title="Blog")
    (untitled,) = put(store, "http://a.example/")

    def found(**wanted: Any) -> list[Watched]:
        targets, total = store.targets.find(**wanted)
        assert len(targets) == total
        return targets

    assert found(endpoint="http://a.example/") == [shop_a, blog_a, untitled]
    assert found(title="Shop") == [shop_a, shop_b]
    assert found(endpoint="http://a.example/", title="Shop") == [shop_a]
    assert found(endpoint="http://b.example/", title="Blog") == []
    assert found(title="shop") == []
    assert found(title="") == []
    assert store.targets.find(title="Shop", after=shop_a.order) == ([shop_b], 2)
    assert store.targets.find(endpoint="http://a.example/", limit=1) == ([shop_a], 3)


def test_the_newest_target_is_the_one_whose_check_ended_last(store: Store) -> None:
    assert store.targets.newest() is None
    first, second = put(store, "http://a.example/", "http://b.example/")
    record(store, SETTINGS, [second], Verdict.UP, 1_000)
    record(store, SETTINGS, [first], Verdict.UP, 2_000)
    assert store.targets.newest() == (first.target.id, 2_010)
    store.targets.delete(first.target.id, now=3_000)
    assert store.targets.newest() == (second.target.id, 1_010)


# --- slots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [5, 6, 7, 13, 30, 45, 59, 60, 61, 300, 86_400])
def test_the_slots_of_an_interval_share_out_all_buckets(interval: int) -> None:
    slots = [set(buckets_of_slot(interval, slot)) for slot in range(slot_count(interval))]
    assert all(slots)
    assert sorted(number for slot in slots for number in slot) == list(range(60))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([None, 5, 7, 60, 300, 3_600]), max_size=60))
def test_every_target_is_in_one_slot_of_its_interval_and_in_no_other(redis: Redis, intervals: list[int | None]) -> None:
    redis.flushall()
    store = Store(redis)
    written = store.targets.put([check(str(n), interval=interval) for n, interval in enumerate(intervals)], now=1)
    expected: dict[int, set[str]] = {}
    for each in written:
        expected.setdefault(each.target.check.interval or 300, set()).add(each.target.id)

    for interval in (5, 7, 60, 300, 3_600):
        slots = [
            store.targets.slot(interval, slot, with_default=interval == 300) for slot in range(slot_count(interval))
        ]
        held = [target_id for slot in slots for target_id in slot]
        assert len(held) == len(set(held))
        assert set(held) == expected.get(interval, set())


@pytest.mark.parametrize(
    ("target_id", "bucket"),
    [("0000000000000000", 55), ("3f0c2a9d1b7e4f65", 58), ("0123456789abcdef", 19), ("ffffffffffffffff", 33)],
)
def test_a_targets_bucket_is_the_same_on_every_machine_and_in_every_version(target_id: str, bucket: int) -> None:
    assert bucket_of(target_id) == bucket


def test_targets_spread_evenly_over_the_buckets() -> None:
    counts = [0] * 60
    for number in range(12_000):
        counts[bucket_of(f"{number:016x}")] += 1
    assert min(counts) > 140
    assert max(counts) < 260


def test_the_order_of_slots_is_told_only_when_a_bucket_comes_or_goes(store: Store) -> None:
    (first,) = store.targets.put([check()], now=1)
    orders = store.vitals.orders()
    same_bucket = next(number for number in range(10_000) if bucket_of(f"{number:016x}") == bucket_of(first.target.id))
    store.targets.restore([Saved(f"{same_bucket:016x}", check("x"))], now=1)
    assert store.vitals.orders() == orders

    store.targets.delete(first.target.id, now=2)
    assert store.vitals.orders() == orders
    store.targets.delete(f"{same_bucket:016x}", now=2)
    assert store.vitals.orders() == orders + 1


# --- restore -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """What a snapshot knows of one target."""

    id: str | None
    check: Check
    state: State | None = None
    latest: dict[str, Any] | None = None


ID = "3f0c2a9d1b7e4f65"
DOWN = State(Status.DOWN, 1_000, 2, 3, checked_at=5_000, incident=f"{ID}-2", down_at=1_000)


def test_a_restored_target_has_its_id_its_state_and_its_latest_result(store: Store, redis: Redis) -> None:
    latest = {"verdict": "down", "finished_at": 5_010}
    (written,) = store.targets.restore([Saved(ID, check(), DOWN, latest)], now=9_000)

    assert written.created
    (watched,) = store.targets.load([ID])
    assert (watched.state, watched.latest) == (DOWN, latest)
    assert store.targets.newest() == (ID, 5_010)
    assert [each.target.id for each in store.targets.page(status=Status.DOWN)] == [ID]
    assert store.outbox.counts().waiting == 0


def test_what_is_there_is_newer_than_any_file(store: Store, redis: Redis) -> None:
    (watched,) = put(store, "http://a.example/")
    before = everything(redis)
    same_identity = Saved(None, Check(endpoint="http://a.example/"), DOWN)
    same_id = Saved(watched.target.id, check("other"), DOWN)
    assert store.targets.restore([same_identity, same_id], now=2) == []
    assert everything(redis) == before


def test_restoring_twice_is_restoring_once(store: Store, redis: Redis) -> None:
    saved = [Saved(ID, check(), DOWN), Saved(None, check("new"))]
    assert len(store.targets.restore(saved, now=1)) == 2
    before = everything(redis)
    assert store.targets.restore(saved, now=2) == []
    assert everything(redis) == before


def test_a_target_that_a_file_only_names_is_pending_since_now(store: Store) -> None:
    (written,) = store.targets.restore([Saved(None, check())], now=9_000)
    (watched,) = store.targets.load([written.target.id])
    assert watched.state == State(Status.PENDING, since=9_000)


def test_copied_lines_in_a_file_become_targets_with_ids_of_their_own(store: Store) -> None:
    saved = [Saved(ID, check("1")), Saved(ID, check("2")), Saved(ID, check("1"))]
    written = store.targets.restore(saved, now=1)
    assert [each.target.check for each in written] == [check("1"), check("2")]
    assert written[0].target.id == ID != written[1].target.id


def test_a_file_that_says_paused_is_believed_over_its_state(store: Store) -> None:
    store.targets.restore([Saved(ID, check(paused=True), DOWN)], now=9_000)
    (watched,) = store.targets.load([ID])
    assert watched.state == replace(DOWN, status=Status.PAUSED, since=9_000, failures=0)


def test_the_ids_of_a_status_are_those_of_all_its_targets_in_the_order_of_creation(store: Store) -> None:
    targets = put(store, *[f"http://a.example/{number}" for number in range(2_100)])
    assert list(store.targets.ids(Status.PENDING)) == [each.target.id for each in targets]
    assert list(store.targets.ids(Status.UP)) == []


def test_what_is_stored_is_read_as_it_stands_in_redis_in_the_same_pages(store: Store) -> None:
    put(store, *[f"http://a.example/{number}" for number in range(5)])
    pages = store.targets.page(limit=3), store.targets.page(after=3, limit=3), store.targets.page(after=5)
    rows = store.targets.stored(limit=3), store.targets.stored(after=3, limit=3), store.targets.stored(after=5)
    assert [[each.id for each in page] for page in rows] == [[each.target.id for each in page] for page in pages]
    first, watched = rows[0][0], pages[0][0]
    assert (first.order, first.state, first.latest) == (watched.order, watched.raw_state, None)
    assert Check.model_validate_json(first.check) == watched.target.check
