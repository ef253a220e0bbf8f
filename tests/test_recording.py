"""Recording: what is dropped, what happens in one step, who wins a race, and what can be read back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis import Redis

from shared.check import Check
from shared.monitor import PHASES, Alert, Attempt, CheckResult, Reason, Verdict
from shared.snapshot import Saved
from shared.state import State, Status
from shared.store import Defaults, Recorded, Store, Watched, keys
from shared.store.history import pack, unpack
from shared.store.recording import history_length
from tests.fakes import Killed, Wire, everywhere, incident_fields, put, result, settings_for, settle

UP, DOWN, UNKNOWN = Verdict.UP, Verdict.DOWN, Verdict.UNKNOWN
SETTINGS = settings_for("redis://unused", alert_group_wait=10)
DEFAULTS = Defaults.of(SETTINGS)
HOUR, DAY = 3_600_000, 86_400_000


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def target(store: Store) -> Watched:
    (watched,) = put(store, "http://user:pw@a.example/?token=abc")
    return watched


def record(store: Store, watched: Watched, verdict: Verdict, at: int) -> list[Recorded]:
    """What was recorded of one result, decided on the state as it was when ``watched`` was read."""
    return store.recording.record([(watched, result(watched, verdict, at))], DEFAULTS)


def now(store: Store, watched: Watched) -> Watched:
    (found,) = store.targets.load([watched.target.id])
    return found


def everything(redis: Any) -> dict[bytes, Any]:
    """What each key holds; a hash has no order, which its dump would show."""
    return {key: redis.hgetall(key) if redis.type(key) == b"hash" else redis.dump(key) for key in redis.scan_iter()}


def outbox_ids(store: Store) -> list[str]:
    return [entry["id"] for entry in store.outbox.entries()]


# --- what is recorded ----------------------------------------------------------------------------------------------


def test_a_result_becomes_the_state_the_latest_result_and_history(store: Store, target: Watched) -> None:
    (recorded,) = record(store, target, UP, 1_000)

    assert recorded.target == target.target
    assert recorded.flip is not None
    assert (recorded.flip.before, recorded.flip.after) == (Status.PENDING, Status.UP)
    watched = now(store, target)
    assert watched.state == State(Status.UP, since=1_000, flips=1, checked_at=1_000)
    assert watched.latest == recorded.result.document()
    assert [row["started_at"] for row in store.recording.history(target.target.id)] == [1_000]
    assert store.targets.newest() == (target.target.id, recorded.result.finished_at)
    assert store.targets.count_by_status()[Status.UP] == 1


def test_a_batch_is_recorded_in_order_with_two_results_of_one_target(store: Store) -> None:
    first, second = put(store, "http://a.example/", "http://b.example/")
    seen = [(first, result(first, DOWN, 1_000)), (second, result(second, UP, 1_000)), (first, result(first, UP, 2_000))]

    recorded = store.recording.record(seen, DEFAULTS)

    assert [(each.target.id, each.result.started_at) for each in recorded] == [
        (first.target.id, 1_000),
        (second.target.id, 1_000),
        (first.target.id, 2_000),
    ]
    assert now(store, first).state.status is Status.UP
    assert outbox_ids(store) == [f"{first.target.id}-1", f"{first.target.id}-2"]


def test_a_batch_of_250_is_one_round_trip(store: Store, valkey_url: str) -> None:
    targets = put(store, *[f"http://a.example/{number}" for number in range(250)])
    record(store, targets[0], UP, 1)  # the script is in Redis from now on
    wire = Wire.untouched(valkey_url)
    wire.client.ping()
    before = wire.sends
    Store(wire.client).recording.record([(each, result(each, UP, 1_000)) for each in targets[1:]], DEFAULTS)
    round_trips = wire.sends - before
    wire.close()
    assert round_trips == 1
    assert store.targets.count_by_status()[Status.UP] == 250


def test_nothing_to_record_asks_nothing_of_redis(store: Store, redis: Redis) -> None:
    assert store.recording.record([], DEFAULTS) == []
    assert not everything(redis)


# --- what is dropped -----------------------------------------------------------------------------------------------


def deleted(store: Store, watched: Watched) -> None:
    store.targets.delete(watched.target.id, now=5)


def paused(store: Store, watched: Watched) -> None:
    store.targets.patch(watched.target.id, lambda check: check.model_copy(update={"paused": True}), now=5)


def paused_and_resumed(store: Store, watched: Watched) -> None:
    paused(store, watched)
    store.targets.patch(watched.target.id, lambda check: check.model_copy(update={"paused": False}), now=6)


def changed(store: Store, watched: Watched) -> None:
    store.targets.patch(watched.target.id, lambda check: check.model_copy(update={"expected_http_code": 204}), now=5)


def deleted_and_made_anew(store: Store, watched: Watched) -> None:
    deleted(store, watched)
    store.targets.put([watched.target.check], now=6)


@pytest.mark.parametrize("happens", [deleted, paused, paused_and_resumed, changed, deleted_and_made_anew])
def test_a_result_is_dropped_when_its_target_was(store: Store, redis: Redis, target: Watched, happens: Any) -> None:
    happens(store, target)
    before = everything(redis)
    assert record(store, target, DOWN, 1_000) == []
    assert everything(redis) == before


def test_a_result_of_a_paused_target_is_dropped_whoever_checked_it(store: Store, redis: Redis) -> None:
    (watched,) = put(store, "http://a.example/", paused=True)
    before = everything(redis)
    assert record(store, watched, DOWN, 1_000) == []
    assert everything(redis) == before


@pytest.mark.parametrize("at", [1_000, 999, 1])
def test_a_result_that_is_not_newer_than_the_last_is_dropped(
    store: Store, redis: Redis, target: Watched, at: int
) -> None:
    record(store, target, UP, 1_000)
    before = everything(redis)
    assert record(store, now(store, target), DOWN, at) == []
    assert record(store, target, DOWN, at) == []  # decided on the state before the first
    assert everything(redis) == before


def test_the_good_results_of_a_batch_are_recorded_beside_the_dropped_ones(store: Store) -> None:
    gone, stale, good = put(store, "http://a.example/", "http://b.example/", "http://c.example/")
    store.targets.delete(gone.target.id, now=5)
    record(store, stale, UP, 2_000)
    seen = [(each, result(each, DOWN, 1_000)) for each in (gone, stale, good)]
    assert [each.target.id for each in store.recording.record(seen, DEFAULTS)] == [good.target.id]


# --- races ---------------------------------------------------------------------------------------------------------


def test_of_two_writers_who_read_the_same_state_one_opens_the_incident(store: Store, target: Watched) -> None:
    (first,) = record(store, target, DOWN, 1_000)
    (second,) = record(store, target, DOWN, 2_000)

    assert first.flip is not None
    assert second.flip is None
    assert now(store, target).state.failures == 2
    assert outbox_ids(store) == [first.flip.id]


def test_a_writer_who_lost_the_race_decides_again_on_what_the_winner_wrote(store: Store, target: Watched) -> None:
    record(store, target, DOWN, 1_000)
    (second,) = record(store, target, UP, 2_000)  # on the first state, it would be silent

    assert second.flip is not None
    assert second.flip.closes == f"{target.target.id}-1"
    assert outbox_ids(store) == [f"{target.target.id}-1", f"{target.target.id}-2"]


def test_a_run_that_is_repeated_records_nothing_twice(store: Store, redis: Redis) -> None:
    targets = put(store, "http://a.example/", "http://b.example/")
    seen = [(each, result(each, DOWN, 1_000)) for each in targets]
    assert len(store.recording.record(seen, DEFAULTS)) == 2
    before = everything(redis)
    assert store.recording.record(seen, DEFAULTS) == []
    assert everything(redis) == before


def test_killed_at_any_moment_a_flip_is_recorded_with_its_alert_or_not_at_all(redis: Redis, valkey_url: str) -> None:
    outcomes = set()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        watched, other = put(store, "http://a.example/", "http://b.example/")
        seen = [(each, result(each, DOWN, 1_000)) for each in (watched, other)]
        with suppress(Killed):
            Store(wire.client).recording.record(seen, DEFAULTS)
        settle(redis, wire)
        for each in (watched, other):
            incident = f"{each.target.id}-1"
            is_down = now(store, each).state.status is Status.DOWN
            facts = {
                is_down,
                incident in outbox_ids(store),
                incident_fields(store, incident) is not None,
                bool(store.recording.history(each.target.id)),
                bool(redis.zscore(keys.status("down"), each.target.id)),
            }
            assert facts == {is_down}
            outcomes.add(is_down)
    assert outcomes == {True, False}


# --- flips ---------------------------------------------------------------------------------------------------------


def test_a_flip_to_down_opens_an_incident_and_owes_an_alert_in_the_same_step(store: Store, target: Watched) -> None:
    changes = store.vitals.changes()
    record(store, target, DOWN, 1_000)

    incident = incident_fields(store, f"{target.target.id}-1")
    assert incident is not None
    assert (incident["target"], incident["opened_at"]) == (target.target.id, "1000")
    (entry,) = store.outbox.entries()
    assert (entry["place"], entry["tries"]) == ("waiting", 0)
    assert orjson.loads(incident["opened"]) == entry["alert"]
    alert = Alert.parse(entry["alert"])
    assert alert == Alert(
        id=f"{target.target.id}-1",
        kind="down",
        target_id=target.target.id,
        title=None,
        endpoint="http://***@a.example/?token=***",
        at=1_010,
        began_at=1_000,
        expected="200",
        got=503,
        reason="status",
        incident=f"{target.target.id}-1",
        elapsed_ms=10.0,
        bottleneck="wait",
        phases={"connect": 2.0, "wait": 8.0},
        attempts=alert.attempts,
        detected_at=1_010,
        written_at=alert.written_at,
    )
    assert len(alert.attempts) == 1
    assert alert.written_at is not None
    assert store.outbox.counts().oldest_at == 1_010 + 10_000  # the grouping window
    assert store.vitals.changes() > changes


def test_the_flip_back_closes_the_incident_and_says_since_when_it_lasted(store: Store, redis: Redis) -> None:
    (watched,) = put(store, "http://a.example/", title="Shop")
    record(store, watched, DOWN, 1_000)
    record(store, watched, UNKNOWN, 2_000)
    record(store, watched, UP, 3_000)

    opened, closed = store.outbox.entries()
    assert (opened["alert"]["kind"], closed["alert"]["kind"]) == ("down", "up")
    assert closed["alert"]["title"] == "Shop"
    assert closed["alert"]["began_at"] == 1_000
    assert closed["alert"]["incident"] == opened["alert"]["incident"]
    incident = incident_fields(store, opened["alert"]["incident"])
    assert incident is not None
    assert (incident["opened_at"], incident["closed_at"]) == ("1000", "3010")
    assert redis.ttl(keys.incident(opened["alert"]["incident"])) > 0


@pytest.mark.parametrize("verdicts", [(UP, UP), (UNKNOWN, UP), (UP, UNKNOWN, UP)])
def test_what_is_not_worth_telling_owes_nothing(store: Store, target: Watched, verdicts: tuple[Verdict, ...]) -> None:
    for turn, verdict in enumerate(verdicts, start=1):
        record(store, target, verdict, turn * 1_000)
    assert outbox_ids(store) == []
    assert store.vitals.changes() > 0


def test_a_result_without_a_flip_is_no_change_worth_a_snapshot(store: Store, target: Watched) -> None:
    record(store, target, UP, 1_000)
    changes = store.vitals.changes()
    record(store, target, UP, 2_000)
    assert store.vitals.changes() == changes


def test_the_counts_by_status_follow_every_flip(store: Store) -> None:
    targets = put(store, *[f"http://a.example/{number}" for number in range(4)])
    for turn, verdicts in enumerate([(UP, UP, DOWN, UNKNOWN), (DOWN, UP, UP, DOWN), (UP, UNKNOWN, DOWN, UP)], start=1):
        for watched, verdict in zip(targets, verdicts, strict=True):
            record(store, watched, verdict, turn * 1_000)
        counts = store.targets.count_by_status()
        for status in Status:
            assert counts[status] == [Status(verdict) for verdict in verdicts].count(status)


def test_every_result_and_every_flip_is_an_event(store: Store, target: Watched) -> None:
    (first,) = record(store, target, UP, 1_000)
    (second,) = record(store, target, DOWN, 2_000)
    record(store, target, DOWN, 3_000)

    events = store.events.read("0", block_ms=0)

    kinds = [event.type for event in events]
    assert kinds == ["check_finished", "target_flipped", "check_finished", "target_flipped", "check_finished"]
    assert {event.target for event in events} == {target.target.id}
    assert events[0].data == first.result.document()
    assert second.flip is not None
    assert events[3].data == {
        "id": second.flip.id,
        "before": "up",
        "after": "down",
        "at": 2_010,
        "opens": second.flip.id,
        "closes": None,
        "tells": "down",
    }


# --- sums ----------------------------------------------------------------------------------------------------------


def test_results_are_summed_by_the_hour_and_by_the_day(store: Store, target: Watched) -> None:
    day = 20_000
    for hour, verdict in [(0, UP), (0, UP), (0, DOWN), (5, UNKNOWN), (24, DOWN)]:
        last = now(store, target).state.checked_at
        assert record(store, target, verdict, max(day * DAY + hour * HOUR, last + 1_000))

    assert store.recording.sums(target.target.id) == {
        "hours": [(day * 24, 2, 1, 0, 30), (day * 24 + 5, 0, 0, 1, 10), (day * 24 + 24, 0, 1, 0, 10)],
        "days": [(day, 2, 1, 1, 40), (day + 1, 0, 1, 0, 10)],
    }


def test_the_rings_hold_48_hours_and_90_days_and_start_anew_in_an_old_place(store: Store, target: Watched) -> None:
    first_hour, first_day = 480_000, 20_000
    for number in range(100):
        record(store, target, UP, (first_hour + number) * HOUR)
    hours = store.recording.sums(target.target.id)["hours"]
    assert [row[0] for row in hours] == [first_hour + number for number in range(52, 100)]
    assert {row[1:] for row in hours} == {(1, 0, 0, 10)}

    for number in range(100):
        record(store, target, UP, (first_day + 10 + number) * DAY)
    days = store.recording.sums(target.target.id)["days"]
    assert [row[0] for row in days] == [first_day + 10 + number for number in range(10, 100)]
    assert {row[1:] for row in days} == {(1, 0, 0, 10)}


def test_after_a_week_without_checks_the_hours_before_it_are_not_among_the_last_48(
    store: Store, target: Watched
) -> None:
    record(store, target, UP, 480_000 * HOUR)
    record(store, target, UP, (480_000 + 7 * 24 + 1) * HOUR)
    sums = store.recording.sums(target.target.id)
    assert [row[0] for row in sums["hours"]] == [480_169]
    assert [row[0] for row in sums["days"]] == [20_000, 20_007]


# --- history -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "length"), [(300, 288), (86_400, 100), (864, 100), (5, 2_000), (60, 1_440)])
def test_the_history_holds_one_day_of_checks_within_bounds(interval: int, length: int) -> None:
    assert history_length(interval) == length


def test_the_history_is_bounded(store: Store) -> None:
    (watched,) = put(store, "http://a.example/", interval=3_600)
    seen = [(watched, result(watched, UP, 1_000 * turn)) for turn in range(1, 401)]
    for start in range(0, 400, 50):
        for each in seen[start : start + 50]:
            store.recording.record([each], DEFAULTS)

    history = store.recording.history(watched.target.id, limit=1_000)

    assert 100 <= len(history) <= 200  # a stream is trimmed by whole nodes of 100
    assert history[0]["started_at"] == 400_000


def test_the_history_is_read_newest_first_within_limits(store: Store, target: Watched) -> None:
    for turn in range(1, 8):
        record(store, target, UP, turn * 1_000)

    def times(**limits: Any) -> list[int]:
        return [row["started_at"] for row in store.recording.history(target.target.id, **limits)]

    assert times() == [7_000, 6_000, 5_000, 4_000, 3_000, 2_000, 1_000]
    assert times(limit=2) == [7_000, 6_000]
    assert times(before=6_000, limit=2) == [5_000, 4_000]
    assert times(since=6_000) == [7_000, 6_000]
    assert times(since=2_000, before=4_000) == [3_000, 2_000]
    assert times(before=1_000) == []
    assert times(since=7_001) == []
    assert store.recording.history("0" * 16) == []


def test_pages_of_the_history_hold_every_result_once_while_new_ones_come_in(store: Store, target: Watched) -> None:
    for turn in range(1, 26):
        record(store, target, UP, turn * 1_000)
    seen: list[int] = []
    before: int | None = None
    while page := store.recording.history(target.target.id, before=before, limit=10):
        seen += [row["started_at"] for row in page]
        before = seen[-1]
        record(store, target, UP, 100_000 + len(seen))
    assert seen == [turn * 1_000 for turn in range(25, 0, -1)]


MS = st.floats(0, 400_000, allow_nan=False)
RESULTS = st.builds(
    CheckResult,
    st.just("a" * 16),
    st.just(1),
    st.sampled_from(list(Verdict)),
    st.lists(
        st.builds(
            Attempt,
            st.integers(0, 2**41),
            MS,
            st.dictionaries(st.sampled_from(PHASES), MS),
            st.none() | st.integers(100, 599),
        ),
        max_size=4,
    ).map(tuple),
    st.integers(400_000, 2**41),
    st.integers(2**41, 2**41 + 400_000),
    st.none() | st.integers(0, 2**41),
    reason=st.none() | st.sampled_from(list(Reason)),
    enqueued_at=st.none() | st.integers(0, 2**41),
)


@settings(max_examples=150, deadline=None)
@given(RESULTS, st.text(max_size=80))
def test_a_packed_result_is_unpacked_as_it_was_to_a_tenth_of_a_millisecond(seen: CheckResult, why: str) -> None:
    seen = replace(seen, sentence=why if seen.reason else None)
    document = seen.document()

    row = unpack(f"{seen.started_at}-0".encode(), pack(seen))

    for name in (
        "scheduled_at",
        "enqueued_at",
        "started_at",
        "finished_at",
        "verdict",
        "status_code",
        "reason",
        "sentence",
    ):
        assert row[name] == document.get(name)
    assert row["attempts"] == len(seen.attempts)
    assert row["elapsed_ms"] == pytest.approx(seen.elapsed_ms, abs=0.051)
    assert row["phases"] == pytest.approx(dict(seen.phases), abs=0.051)
    if seen.phases:
        assert seen.phases[row["bottleneck"]] == pytest.approx(max(seen.phases.values()), abs=0.101)
    else:
        assert row["bottleneck"] is None


# --- what it costs -------------------------------------------------------------------------------------------------

PHASES_MS: Mapping[str, float] = {"dns": 3.217, "connect": 11.384, "tls": 24.771, "wait": 83.402, "transfer": 0.893}


def ordinary(watched: Watched, turn: int) -> CheckResult:
    """A result like those of a site on the Internet; three a day are bad ones, after four attempts."""
    is_up, at = turn % 96 != 0, 1_732_000_000_000 + turn * 300_000
    failed = Attempt(
        at, 5_000.128, {"dns": 3.217, "connect": 4_996.911}, None, Reason.TIMEOUT, "connect", "142.250.185.68:443"
    )
    phases = {**PHASES_MS, "wait": PHASES_MS["wait"] + turn}  # the phases of an attempt add up to its time
    good = Attempt(at, sum(phases.values()), phases, 200, address="142.250.185.68:443")
    return CheckResult(
        watched.target.id,
        watched.target.revision,
        UP if is_up else DOWN,
        (good,) if is_up else (failed,) * 4,
        at + 7,
        at + 131 + turn,
        at,
        enqueued_at=at + 3,
        by="monitor-checks-1/0f2d8c1b",
        reason=None if is_up else Reason.TIMEOUT,
        sentence=None if is_up else "no connection within 5 seconds",
    )


def test_a_target_with_a_day_of_history_costs_less_than_20_kilobytes(store: Store, redis: Any) -> None:
    names = [f"https://www.example{number}.org/health" for number in range(10)]
    store.targets.put([Check(endpoint=name, title=f"Shop {name}", expected_http_code=200) for name in names], now=1)
    targets = store.targets.page()
    for turn in range(1, 289):
        store.recording.record([(each, ordinary(each, turn)) for each in targets], DEFAULTS)

    own = {each.target.id: 0 for each in targets}
    for key in redis.scan_iter():
        target_id = key.decode().rpartition(":")[2]
        if target_id in own:
            own[target_id] += redis.memory_usage(key, samples=0)

    assert all(len(store.recording.history(target_id, limit=400)) >= 288 for target_id in own)
    print(f"bytes of Redis a target with 288 results: {max(own.values())}")
    assert max(own.values()) < 20_000


# --- in a maintenance ----------------------------------------------------------------------------------------------


class Window:
    """A maintenance of every target, while it is open."""

    def __init__(self) -> None:
        self.is_open = True

    def record(self, store: Store, watched: Watched, verdict: Verdict, at: int) -> list[Recorded]:
        defaults = Defaults.of(SETTINGS, lambda _target: self.is_open)
        return store.recording.record([(watched, result(watched, verdict, at))], defaults)


def uptime(store: Store, watched: Watched) -> list[int]:
    """How many checks count as up, down and unknown."""
    return [sum(row[column] for row in store.recording.sums(watched.target.id)["hours"]) for column in (1, 2, 3)]


def test_in_a_maintenance_nobody_is_told_and_nothing_counts_but_all_is_recorded(store: Store, target: Watched) -> None:
    window = Window()
    for at, verdict in enumerate((UP, DOWN, UNKNOWN, DOWN, UP), 1):
        assert window.record(store, target, verdict, at)
    assert outbox_ids(store) == []
    assert uptime(store, target) == [0, 0, 0]
    assert [row["verdict"] for row in store.recording.history(target.target.id)] == [UP, DOWN, UNKNOWN, DOWN, UP]
    assert len(store.recording.failures(target.target.id)) == 3
    assert now(store, target).state.incident is None
    window.is_open = False
    window.record(store, target, UP, 10)
    assert uptime(store, target) == [1, 0, 0]


def test_what_is_still_down_after_a_maintenance_is_told_then_and_began_when_it_did(
    store: Store, target: Watched
) -> None:
    window = Window()
    window.record(store, target, DOWN, 1_000)
    window.record(store, target, DOWN, 2_000)
    assert now(store, target).state.status is Status.DOWN
    window.is_open = False
    window.record(store, target, DOWN, 3_000)
    window.record(store, target, DOWN, 4_000)
    (entry,) = store.outbox.entries()
    assert (entry["alert"]["kind"], entry["alert"]["began_at"], entry["alert"]["at"]) == ("down", 1_000, 3_010)
    assert uptime(store, target) == [0, 2, 0]


def test_a_recovery_in_a_maintenance_is_told_where_the_fall_was(store: Store, target: Watched) -> None:
    window = Window()
    window.is_open = False
    window.record(store, target, DOWN, 1_000)
    window.is_open = True
    window.record(store, target, UP, 2_000)
    window.record(store, target, DOWN, 3_000)
    window.record(store, target, UP, 4_000)
    assert [entry["alert"]["kind"] for entry in store.outbox.entries()] == ["down", "up"]


# --- when a result is overdue --------------------------------------------------------------------------------------


def due(redis: Any, watched: Watched) -> int | None:
    score = redis.zscore(keys.DUE, watched.target.id)
    return None if score is None else int(score)


def longest(watched: Watched) -> int:
    return 1000 * SETTINGS.longest_check(watched.target.check)


def test_the_next_result_is_overdue_two_intervals_and_a_whole_check_after_the_last(store: Store, redis: Redis) -> None:
    (own,) = put(store, "http://a.example/", interval=60, timeout=3)
    (plain,) = put(store, "http://b.example/")
    for watched, interval in ((own, 60), (plain, 300)):
        record(store, watched, UP, 1_000_000)
        assert due(redis, watched) == 1_000_010 + 2_000 * interval + longest(watched)
    assert [(each.target.id, at) for each, at in store.targets.overdue(now=2_000_000, limit=9)] == [
        (own.target.id, due(redis, own)),
        (plain.target.id, due(redis, plain)),
    ]
    assert store.targets.overdue(now=2_000_000, limit=1)[0][0].target.id == own.target.id
    assert store.targets.count_overdue(now=due(redis, own) or 0) == 1
    assert store.targets.count_overdue(now=(due(redis, own) or 0) - 1) == 0


def test_a_target_that_is_new_resumed_changed_or_restored_has_the_time_for_a_first_check(
    store: Store, redis: Redis
) -> None:
    (watched,) = put(store, "http://a.example/", interval=60, now=1_000_000)
    first = due(redis, watched) or 0
    assert first >= 1_000_000 + 120_000 + longest(watched)
    record(store, watched, UP, 1_000)
    store.targets.patch(watched.target.id, lambda check: check.changed({"interval": 600}), now=2_000_000)
    assert (due(redis, watched) or 0) >= 2_000_000 + 1_200_000 + longest(watched)
    store.targets.patch(watched.target.id, lambda check: check.changed({"paused": True}), now=3_000_000)
    assert due(redis, watched) is None
    store.targets.patch(watched.target.id, lambda check: check.changed({"title": "still paused"}), now=3_100_000)
    assert due(redis, watched) is None
    store.targets.patch(watched.target.id, lambda check: check.changed({"paused": False}), now=4_000_000)
    assert (due(redis, watched) or 0) >= 4_000_000 + 1_200_000 + longest(watched)
    saved = [Saved(watched.target.id, now(store, watched).target.check, now(store, watched).state, None)]
    store.targets.delete(watched.target.id, now=5_000_000)
    assert due(redis, watched) is None
    store.targets.restore(saved, now=6_000_000)
    assert (due(redis, watched) or 0) >= 6_000_000 + 1_200_000 + longest(watched)


def test_a_target_that_is_new_and_paused_is_never_overdue(store: Store, redis: Redis) -> None:
    (watched,) = put(store, "http://a.example/", paused=True)
    assert due(redis, watched) is None


def test_a_result_that_is_dropped_because_of_a_pause_makes_nothing_overdue(
    store: Store, redis: Redis, target: Watched
) -> None:
    paused(store, target)
    record(store, target, UP, 1_000)
    assert due(redis, target) is None


def test_targets_without_an_interval_follow_the_default_that_the_scheduler_tells(store: Store, redis: Redis) -> None:
    store.targets.set_default_interval(3600)
    (watched,) = put(store, "http://a.example/", now=1_000_000)
    assert (due(redis, watched) or 0) >= 1_000_000 + 7_200_000
