"""The rule of state as a table and as stories."""

from __future__ import annotations

from collections.abc import Container
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.monitor import CheckResult, Verdict
from shared.state import Flip, Policy, State, Status, advance

UP, DEGRADED, DOWN, UNKNOWN = Verdict.UP, Verdict.DEGRADED, Verdict.DOWN, Verdict.UNKNOWN
ID = "3f0c2a9d1b7e4f65"
AT_ONCE = Policy(second_opinion=False, flap_count=0)
"""One failed check is enough, and nothing flaps."""


def result(verdict: Verdict, at: int) -> CheckResult:
    return CheckResult(ID, 1, verdict, (), started_at=at, finished_at=at + 50)


def walk(
    *verdicts: Verdict, state: State | None = None, policy: Policy = AT_ONCE, held: Container[int] = ()
) -> tuple[list[State], list[Flip | None]]:
    """The states after each verdict, ten seconds apart, and the flips they caused; in turns ``held`` nothing opens."""
    states, flips = [state or State(Status.PENDING)], []
    for turn, verdict in enumerate(verdicts, start=1):
        after, flip = advance(states[-1], result(verdict, turn * 10_000), policy, is_held=turn in held)
        states.append(after)
        flips.append(flip)
    return states[1:], flips


def told(flips: list[Flip | None]) -> list[str]:
    """What people read of these flips."""
    return [flip.tells for flip in flips if flip is not None and flip.tells is not None]


OPEN, NONE = "an incident is open", "no incident is open"

# Every state that there is: down has an open incident, up has none, the others may be in the middle of one.
RULE = [
    # status, incident, verdict, status after, incident after, what is told
    (Status.PENDING, NONE, UP, Status.UP, NONE, None),
    (Status.PENDING, NONE, DOWN, Status.DOWN, OPEN, "opens"),
    (Status.PENDING, NONE, UNKNOWN, Status.UNKNOWN, NONE, None),
    (Status.PENDING, OPEN, UP, Status.UP, NONE, "closes"),  # resumed from a pause in the middle of an incident
    (Status.PENDING, OPEN, DOWN, Status.DOWN, OPEN, None),
    (Status.PENDING, OPEN, UNKNOWN, Status.UNKNOWN, OPEN, None),
    (Status.UP, NONE, UP, Status.UP, NONE, None),
    (Status.UP, NONE, DOWN, Status.DOWN, OPEN, "opens"),
    (Status.UP, NONE, UNKNOWN, Status.UNKNOWN, NONE, None),
    (Status.PENDING, NONE, DEGRADED, Status.DEGRADED, NONE, None),
    (Status.PENDING, OPEN, DEGRADED, Status.DEGRADED, NONE, "closes"),
    (Status.UP, NONE, DEGRADED, Status.DEGRADED, NONE, None),  # slow is not down: nobody is told
    (Status.DEGRADED, NONE, UP, Status.UP, NONE, None),
    (Status.DEGRADED, NONE, DEGRADED, Status.DEGRADED, NONE, None),
    (Status.DEGRADED, NONE, DOWN, Status.DOWN, OPEN, "opens"),
    (Status.DEGRADED, NONE, UNKNOWN, Status.UNKNOWN, NONE, None),
    (Status.DOWN, OPEN, DEGRADED, Status.DEGRADED, NONE, "closes"),
    (Status.UNKNOWN, NONE, DEGRADED, Status.DEGRADED, NONE, None),
    (Status.UNKNOWN, OPEN, DEGRADED, Status.DEGRADED, NONE, "closes"),
    (Status.DOWN, OPEN, UP, Status.UP, NONE, "closes"),
    (Status.DOWN, OPEN, DOWN, Status.DOWN, OPEN, None),
    (Status.DOWN, OPEN, UNKNOWN, Status.UNKNOWN, OPEN, None),
    (Status.UNKNOWN, NONE, UP, Status.UP, NONE, None),
    (Status.UNKNOWN, NONE, DOWN, Status.DOWN, OPEN, "opens"),
    (Status.UNKNOWN, NONE, UNKNOWN, Status.UNKNOWN, NONE, None),
    (Status.UNKNOWN, OPEN, UP, Status.UP, NONE, "closes"),
    (Status.UNKNOWN, OPEN, DOWN, Status.DOWN, OPEN, None),
    (Status.UNKNOWN, OPEN, UNKNOWN, Status.UNKNOWN, OPEN, None),
]


@pytest.mark.parametrize(("status", "incident", "verdict", "status_after", "incident_after", "tells"), RULE)
def test_the_rule_of_state(
    status: Status, incident: str, verdict: Verdict, status_after: Status, incident_after: str, tells: str | None
) -> None:
    is_open = incident == OPEN
    before = State(
        status=status,
        since=1_000,
        flips=4,
        failures=2,
        checked_at=1_000,
        incident=f"{ID}-3" if is_open else None,
        down_at=700 if is_open else None,
    )

    after, flip = advance(before, result(verdict, 9_000), AT_ONCE)

    assert after.status is status_after
    assert (after.incident is not None) is (after.down_at is not None) is (incident_after == OPEN)
    assert after.checked_at == 9_000
    assert (flip is not None) is (status is not status_after)
    assert after.since == (9_000 if flip else 1_000)
    assert after.flips == before.flips + (flip is not None)
    if flip is None:
        assert tells is None
        return
    assert (flip.before, flip.after, flip.at, flip.target_id) == (status, status_after, 9_050, ID)
    assert flip.is_worth_telling is (tells is not None)
    assert flip.opens == (flip.id if tells == "opens" else None)
    assert flip.closes == (f"{ID}-3" if tells == "closes" else None)


def test_the_table_above_has_every_pair_of_a_state_and_a_verdict() -> None:
    seen = {row[:3] for row in RULE}
    assert len(seen) == len(RULE)
    assert {(status, verdict) for status, _, verdict in seen} == {
        (status, verdict) for status in set(Status) - {Status.PAUSED} for verdict in Verdict
    }


def test_fail_fail_success_success_is_told_once_down_and_once_up() -> None:
    states, flips = walk(DOWN, DOWN, UP, UP)

    assert [state.status for state in states] == [Status.DOWN, Status.DOWN, Status.UP, Status.UP]
    assert [state.failures for state in states] == [1, 2, 0, 0]
    assert [state.since for state in states] == [10_000, 10_000, 30_000, 30_000]
    assert [flip is not None for flip in flips] == [True, False, True, False]
    assert told(flips) == ["down", "up"]
    opened, closed = flips[0], flips[2]
    assert opened is not None
    assert closed is not None
    assert closed.closes == opened.opens


def test_a_target_that_is_up_from_the_beginning_is_not_told() -> None:
    _, flips = walk(UP, UP)
    assert flips[0] is not None
    assert told(flips) == []


def test_a_target_that_is_down_from_the_beginning_is_told() -> None:
    assert told(walk(DOWN)[1]) == ["down"]


def test_a_fault_of_our_own_in_the_middle_of_an_incident_does_not_make_two_of_it() -> None:
    states, flips = walk(DOWN, UNKNOWN, DOWN, UNKNOWN, UP)

    assert told(flips) == ["down", "up"]
    assert len({state.incident for state in states[:4]}) == 1
    assert {state.down_at for state in states[:4]} == {10_000}


def test_a_fault_of_our_own_is_neither_a_failure_nor_a_success() -> None:
    assert [state.failures for state in walk(DOWN, UNKNOWN, DOWN)[0]] == [1, 1, 2]


def test_a_target_that_recovers_while_paused_is_told_to_be_up_when_it_is_resumed() -> None:
    (down,), _ = walk(DOWN)
    resumed = replace(down, status=Status.PENDING, since=15_000)
    assert told(walk(UP, state=resumed)[1]) == ["up"]


def test_two_incidents_of_one_target_have_two_names() -> None:
    _, flips = walk(DOWN, UP, DOWN, UP)
    opened = [flip.opens for flip in flips if flip is not None and flip.opens]
    assert len(set(opened)) == 2


def test_two_writers_who_decide_on_the_same_state_name_the_same_flip() -> None:
    (up,), _ = walk(UP)
    (_, first), (_, second) = (advance(up, result(DOWN, at), AT_ONCE) for at in (20_000, 20_400))
    assert first is not None
    assert second is not None
    assert first.id == second.id


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(list(Verdict)), max_size=30))
def test_along_any_walk_flips_have_unique_ids_and_what_is_told_alternates(verdicts: list[Verdict]) -> None:
    states, flips = walk(*verdicts)
    ids = [flip.id for flip in flips if flip is not None]
    assert len(set(ids)) == len(ids)
    assert all(first != second for first, second in pairwise(told(flips)))
    assert told(flips)[:1] in ([], ["down"])
    for state in states:
        assert (state.incident is None) is (state.down_at is None)
        assert state.status is not Status.DOWN or state.incident is not None
        assert State.decode(state.encode()) == State.parse(orjson.loads(state.encode())) == state


@pytest.mark.parametrize("document", [{}, {"status": "sideways"}, {"status": "up", "mood": 3}, {"since": 4}])
def test_what_is_not_a_state_is_not_parsed_as_one(document: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        State.parse(document)


# --- how often it takes --------------------------------------------------------------------------------------------

THRESHOLDS = [
    # failures, successes, second opinion, the verdicts, the status after each
    (1, 1, True, "dd", "pending down"),
    (1, 1, True, "udud", "up up up up"),  # one failure alone is never believed
    (1, 1, True, "uddu", "up up down up"),
    (1, 1, True, "ud?d", "up up unknown down"),  # a fault of our own is no opinion
    (3, 1, False, "uddd", "up up up down"),
    (3, 1, False, "uddudd", "up up up up up up"),  # a good one in between counts from the beginning
    (2, 1, True, "uddd", "up up up down"),
    (1, 2, False, "duu", "down down up"),
    (1, 2, False, "duduu", "down down down down up"),
    (1, 3, False, "du?uu", "down down unknown unknown up"),
    (2, 2, False, "uddggdg", "up up down down degraded degraded degraded"),
]
_VERDICTS = {"u": UP, "d": DOWN, "?": UNKNOWN, "g": DEGRADED}


@pytest.mark.parametrize(("failures", "successes", "opinion", "verdicts", "statuses"), THRESHOLDS)
def test_what_is_believed_follows_the_thresholds(
    failures: int, successes: int, opinion: bool, verdicts: str, statuses: str
) -> None:
    policy = Policy(failures, successes, second_opinion=opinion, flap_count=0)
    states, flips = walk(*(_VERDICTS[letter] for letter in verdicts), policy=policy)
    assert " ".join(state.status for state in states) == statuses
    assert all(first != second for first, second in pairwise(told(flips)))


def test_a_failure_that_is_not_believed_yet_is_a_doubt_and_a_good_check_ends_it() -> None:
    states, _ = walk(UP, DOWN, UP, policy=Policy())
    assert [state.is_in_doubt for state in states] == [False, True, False]
    assert states[2].suspect is None


def test_an_incident_began_with_the_first_failure_and_remembers_who_saw_it() -> None:
    states, flips = walk(UP, DOWN, DOWN, DOWN, policy=Policy(failure_threshold=3, second_opinion=False))
    assert states[3].down_at == 20_000
    assert states[3].suspect is not None
    assert (states[3].suspect["at"], states[3].suspect["ended"]) == (20_000, 20_050)
    assert flips[3] is not None
    assert flips[3].at == 40_050


def test_what_was_hidden_by_a_fault_of_our_own_is_down_again_without_an_opinion() -> None:
    states, flips = walk(DOWN, DOWN, UNKNOWN, DOWN, policy=Policy())
    assert [state.status for state in states[2:]] == [Status.UNKNOWN, Status.DOWN]
    assert told(flips) == ["down"]


# --- when nobody is to be alarmed ------------------------------------------------------------------------------------


def test_what_goes_down_and_comes_back_while_held_is_never_told() -> None:
    states, flips = walk(UP, DOWN, DOWN, UP, held=range(2, 5))
    assert [state.status for state in states] == [Status.UP, Status.DOWN, Status.DOWN, Status.UP]
    assert told(flips) == []


def test_what_is_still_down_afterwards_is_told_then_and_began_when_it_failed_first() -> None:
    states, flips = walk(UP, DOWN, DOWN, DOWN, UP, held=range(2, 4))
    assert told(flips) == ["down", "up"]
    assert flips[3] is not None
    assert (flips[3].before, flips[3].after) == (Status.DOWN, Status.DOWN)
    assert states[3].down_at == 20_000


def test_a_recovery_is_never_held_back() -> None:
    _, flips = walk(UP, DOWN, UP, held=[3])
    assert told(flips) == ["down", "up"]


# --- flapping ------------------------------------------------------------------------------------------------------

FLAPPY = Policy(second_opinion=False, flap_count=3, flap_window_ms=100_000)


def test_more_changes_than_allowed_are_told_as_flapping_once_and_end_with_calm() -> None:
    _, flips = walk(UP, *(DOWN, UP) * 6, *[UP] * 12, policy=FLAPPY)
    assert told(flips) == ["down", "up", "down", "flapping", "calm"]
    closed = [flip.closes for flip in flips if flip is not None and flip.closes]
    opened = [flip.opens for flip in flips if flip is not None and flip.opens]
    assert opened == closed


def test_what_calms_down_while_it_is_down_stays_an_incident_until_it_is_up() -> None:
    states, flips = walk(UP, *(DOWN, UP) * 3, *[DOWN] * 13, UP, policy=FLAPPY)
    assert told(flips) == ["down", "up", "down", "flapping", "calm", "up"]
    assert states[-2].incident is not None
    assert states[-1].incident is None


def test_changes_that_are_far_enough_apart_are_no_flapping() -> None:
    verdicts = [verdict for turn in range(8) for verdict in [(UP, DOWN)[turn % 2]] * 4]
    _, flips = walk(*verdicts, policy=FLAPPY)
    assert "flapping" not in told(flips)


def test_what_goes_up_and_down_while_held_does_not_flap() -> None:
    _, flips = walk(UP, *(DOWN, UP) * 6, policy=FLAPPY, held=range(20))
    assert told(flips) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(list(Verdict)), max_size=60),
    st.builds(
        Policy,
        st.integers(1, 3),
        st.integers(1, 3),
        second_opinion=st.booleans(),
        flap_count=st.integers(0, 4),
        flap_window_ms=st.sampled_from([50_000, 200_000]),
    ),
    st.sets(st.integers(1, 60)),
)
def test_along_any_walk_under_any_policy_incidents_open_and_close_in_turn(
    verdicts: list[Verdict], policy: Policy, held: set[int]
) -> None:
    states, flips = walk(*verdicts, policy=policy, held=held)
    ids = [flip.id for flip in flips if flip is not None]
    assert len(set(ids)) == len(ids)
    open_one: str | None = None
    for state, flip in zip(states, flips, strict=True):
        if flip is not None and flip.opens:
            assert open_one is None
            open_one = flip.opens
        if flip is not None and flip.closes:
            assert flip.closes == open_one
            open_one = None
        assert state.incident == open_one
        assert not state.is_flapping or state.incident is not None
        assert len(state.changes) <= policy.flap_count + 1
        assert State.decode(state.encode()) == State.parse(orjson.loads(state.encode())) == state
    counts = [told(flips).count(kind) for kind in ("flapping", "calm")]
    assert counts[0] - counts[1] in (0, 1)
