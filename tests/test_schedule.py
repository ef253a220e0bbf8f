"""What the schedule ought to hold: every target in one slot, every slot on a grid that nothing shifts."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import pytest

from shared import queues
from shared.store.keys import BUCKET_COUNT
from shared.store.targets import bucket_of, buckets_of_slot, slot_count
from worker.schedule import SNAPSHOT, Entry, snapshot_entry, wanted

EVERYWHERE = set(range(BUCKET_COUNT))
INTERVALS = [5, 7, 45, 59, 60, 61, 300, 3_601, 86_399, 86_400]
TIMEOUT = 100


def slots(interval: int) -> list[Entry]:
    """All slots of one interval, in order of their phase."""
    entries = wanted({interval: EVERYWHERE}, 300, TIMEOUT)
    return sorted((entry for entry in entries.values() if entry.name != SNAPSHOT), key=lambda each: each.phase_seconds)


@pytest.mark.parametrize("interval", INTERVALS)
def test_each_bucket_belongs_to_exactly_one_slot(interval: int) -> None:
    buckets = [bucket for slot in range(slot_count(interval)) for bucket in buckets_of_slot(interval, slot)]
    assert sorted(buckets) == sorted(EVERYWHERE)


@pytest.mark.parametrize(
    ("interval", "count", "seconds_apart"),
    [(300, 60, 5.0), (5, 5, 1.0), (7, 7, 1.0), (45, 45, 1.0), (60, 60, 1.0), (61, 60, 61 / 60), (86_400, 60, 1_440.0)],
)
def test_slots_are_spread_evenly_over_their_interval(interval: int, count: int, seconds_apart: float) -> None:
    phases = [entry.phase_seconds for entry in slots(interval)]
    assert len(phases) == count
    assert phases[0] == 0
    around = [*phases, interval]
    assert all(later - earlier == pytest.approx(seconds_apart) for earlier, later in pairwise(around))


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_turn_after_a_turn_is_one_interval_later_to_the_bit(interval: int) -> None:
    """A turn that is computed a little early would come twice, one a little late would be enqueued by nobody."""
    chance = random.Random(interval)
    for entry in slots(interval):
        for k in (chance.randrange(10**9 // interval, 4 * 10**9 // interval) for _ in range(20)):
            turn = entry.phase_seconds + k * interval
            following = entry.phase_seconds + (k + 1) * interval
            assert entry.next_turn(turn) == following
            assert entry.next_turn(math.nextafter(turn, math.inf)) == following
            assert entry.next_turn(math.nextafter(turn, 0)) == turn


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_next_turn_is_the_first_on_the_grid_after_any_moment(interval: int) -> None:
    chance = random.Random(-interval)
    for entry in slots(interval):
        for now in (chance.uniform(10**9, 4 * 10**9) for _ in range(20)):
            turn = entry.next_turn(now)
            assert now < turn <= now + interval
            k = Fraction(turn - entry.phase_seconds) / interval
            assert abs(k - round(k)) * interval < Fraction(1, 10**6)


def test_turns_that_were_missed_are_skipped_and_not_made_up_for() -> None:
    entry, turn = slots(300)[17], 1_000_000_285
    assert entry.phase_seconds == 85
    assert entry.next_turn(turn - 1) == turn
    assert entry.next_turn(turn + 12 * 300 + 1) == turn + 13 * 300


def test_a_slot_is_scheduled_only_while_one_of_its_buckets_holds_a_target() -> None:
    assert set(wanted({300: {17}, 5: {0, 7, 59}}, 300, TIMEOUT)) == {
        SNAPSHOT,
        "check-300-017",
        "check-5-000",
        "check-5-002",
        "check-5-004",
    }
    assert set(wanted({}, 300, TIMEOUT)) == {SNAPSHOT}


@pytest.mark.parametrize(
    ("intervals", "default", "expected"),
    [
        ({0: {1}, 300: {1}}, 300, {"check-300-001": True}),
        ({0: {1}, 300: {2}}, 300, {"check-300-001": True, "check-300-002": True}),
        ({0: {1}, 300: {1}}, 60, {"check-60-001": True, "check-300-001": False}),
        ({300: {1}}, 60, {"check-300-001": False}),
        ({0: {6}, 5: {1}}, 5, {"check-5-001": True}),
    ],
)
def test_targets_of_the_default_interval_share_the_slots_of_those_that_name_it(
    intervals: dict[int, set[int]], default: int, expected: dict[str, bool]
) -> None:
    entries = wanted(intervals, default, TIMEOUT)
    assert {name: entry.args[2] for name, entry in entries.items() if name != SNAPSHOT} == expected


def test_an_entry_says_what_its_job_must_know() -> None:
    assert wanted({61: {7}}, 300, TIMEOUT)["check-61-007"] == Entry(
        name="check-61-007",
        queue=queues.CHECKS,
        function=queues.CHECK_SLOT,
        args=(61, 7, False),
        interval=61,
        phase_seconds=7 * 61 / 60,
        timeout=TIMEOUT,
    )
    assert snapshot_entry().queue == queues.HOUSEKEEPING


def test_a_target_stays_in_its_bucket_on_every_machine_and_buckets_are_filled_evenly() -> None:
    assert [bucket_of(f"{number:016x}") for number in range(5)] == [55, 53, 20, 18, 4]
    counts = [0] * BUCKET_COUNT
    for number in range(60_000):
        counts[bucket_of(f"{number:016x}")] += 1
    assert min(counts) > 850
    assert max(counts) < 1_150
