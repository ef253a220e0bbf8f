"""The rule of state as a table and as stories, and the documents that states, results and alerts become."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.check import Check
from shared.monitor import (
    Alert,
    Attempt,
    CheckResult,
    Flip,
    Reason,
    State,
    Status,
    Target,
    Verdict,
    advance,
)

UP, DEGRADED, DOWN, UNKNOWN = Verdict.UP, Verdict.DEGRADED, Verdict.DOWN, Verdict.UNKNOWN
ID = "3f0c2a9d1b7e4f65"


def result(verdict: Verdict, at: int) -> CheckResult:
    return CheckResult(ID, 1, verdict, (), started_at=at, finished_at=at + 50)


def walk(*verdicts: Verdict, state: State | None = None) -> tuple[list[State], list[Flip | None]]:
    """The states after each verdict, ten seconds apart, and the flips they caused."""
    states, flips = [state or State()], []
    for turn, verdict in enumerate(verdicts, start=1):
        after, flip = advance(states[-1], result(verdict, turn * 10_000))
        states.append(after)
        flips.append(flip)
    return states[1:], flips


def told(flips: list[Flip | None]) -> list[str]:
    """What people read of these flips: "down" for an incident that opens, "up" for one that closes."""
    return ["down" if flip.opens else "up" for flip in flips if flip is not None and flip.is_worth_telling]


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
    before = State(status, 1_000, 4, 2, 1_000, f"{ID}-3" if is_open else None, 700 if is_open else None)

    after, flip = advance(before, result(verdict, 9_000))

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
    (_, first), (_, second) = advance(up, result(DOWN, 20_000)), advance(up, result(DOWN, 20_400))
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
        assert State.parse(orjson.loads(orjson.dumps(state.document()))) == state


@pytest.mark.parametrize("document", [{}, {"status": "sideways"}, {"status": "up", "mood": 3}, {"since": 4}])
def test_what_is_not_a_state_is_not_parsed_as_one(document: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        State.parse(document)


def test_an_alert_is_the_same_after_its_journey_through_the_outbox() -> None:
    alert = Alert(
        id="a-1",
        kind="down",
        target_id=ID,
        title=None,
        endpoint="https://***@example.org/",
        at=5,
        began_at=4,
        expected=200,
        got=503,
        reason=Reason.STATUS,
        sentence="The answer was 503.",
        incident="a-1",
        elapsed_ms=12.5,
        bottleneck="wait",
        phases={"wait": 12.0},
        attempts=({"started_at": 3},),
    )
    assert Alert.parse(orjson.loads(orjson.dumps(alert.document()))) == alert


def test_a_result_leaves_out_what_is_not_known_and_names_its_bottleneck() -> None:
    attempts = (
        Attempt(1_000, 30.00049, {"connect": 30.0}, reason=Reason.REFUSED, phase="connect"),
        Attempt(2_000, 20.1234567, {"dns": 1.0, "wait": 15.12345}, status_code=200, address="192.0.2.1:443"),
    )
    seen = CheckResult(ID, 1, UP, attempts, started_at=1_000, finished_at=2_021)

    document = seen.document()

    assert document["status_code"] == 200
    assert document["elapsed_ms"] == 20.123
    assert document["phases"] == {"dns": 1.0, "wait": 15.123}
    assert document["bottleneck"] == "wait"
    assert document["address"] == "192.0.2.1:443"
    assert [attempt["elapsed_ms"] for attempt in document["attempts"]] == [30.0, 20.123]
    assert not {"scheduled_at", "reason", "sentence"} & document.keys()


def test_a_result_without_any_attempt_has_no_code_no_phases_and_no_bottleneck() -> None:
    document = result(UNKNOWN, 1_000).document()
    assert document == {
        "started_at": 1_000,
        "finished_at": 1_050,
        "verdict": "unknown",
        "elapsed_ms": 0.0,
        "phases": {},
        "attempts": [],
    }


def test_a_target_without_a_title_is_called_by_its_endpoint_without_the_secrets() -> None:
    check = Check(endpoint="https://user:pw@example.org/?token=abc")
    assert Target(ID, check, 1, 0).name == "https://***@example.org/?token=***"
    assert Target(ID, check.model_copy(update={"title": "Shop"}), 1, 0).name == "Shop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expected_http_code", True),
        ("expected_http_code", "200"),
        ("expected_http_code", 200.0),
        ("expected_http_code", 99),
        ("expected_http_code", 600),
        ("interval", 4),
        ("interval", 86_401),
        ("interval", 5.5),
        ("timeout", 0),
        ("timeout", 301),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", "5"),
        ("timeout", True),
        ("retries", 4),
        ("retries", -1),
        ("retries", False),
        ("backoff_factor", -0.1),
        ("backoff_factor", float("inf")),
        ("error_codes", [500]),
        ("error_codes", [True]),
        ("error_codes", "504"),
        ("paused", 1),
        ("paused", "yes"),
        ("title", "x" * 201),
        ("title", 5),
        ("endpoint", ""),
        ("endpoint", None),
        ("interal", 60),
    ],
)
def test_a_check_is_strict_about_its_fields_and_says_which_one_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Check.model_validate({"endpoint": "https://example.org/", field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}
