"""Whose fault it is when most of a batch fails at once."""

from __future__ import annotations

import pytest

from shared.check import Check
from shared.monitor import Attempt, CheckResult, Reason, Target, Verdict
from worker.checks.canary import Canaries, is_canary

URLS = ("http://canary.example/", "http://192.0.2.80/")


def failed(number: int, reason: Reason = Reason.TIMEOUT) -> CheckResult:
    return CheckResult(f"t{number}", 1, Verdict.DOWN, (Attempt(1, 5_000.0, {}, reason=reason),), 1, 2, reason=reason)


def answered(name: str, code: int = 200) -> CheckResult:
    verdict = Verdict.UP if code == 200 else Verdict.DOWN
    return CheckResult(name, 1, verdict, (Attempt(1, 5.0, {}, code),), 1, 2)


def target(name: str, host: str) -> Target:
    return Target(name, Check(endpoint=f"http://{host}/"), 1, 1)


def doubt(hosts: int, urls: tuple[str, ...] = URLS) -> Canaries:
    canaries = Canaries(urls, 5.0)
    for number in range(hosts):
        canaries.expect(target(f"t{number}", f"host{number}.example"))
    return canaries


def verdicts(results: list[CheckResult]) -> set[tuple[Verdict, Reason | None]]:
    return {(result.verdict, result.reason) for result in results}


def test_without_canaries_everything_is_judged_as_usual() -> None:
    canaries = doubt(20, ())
    assert len(canaries.hold([failed(number) for number in range(20)])) == 20
    assert canaries.to_ask() == []


def test_a_few_failures_are_given_out_once_half_of_the_hosts_have_answered() -> None:
    canaries = doubt(20)
    assert canaries.hold([failed(0), failed(1)]) == []
    assert canaries.to_ask() == []
    given = canaries.hold([answered(f"t{number}") for number in range(2, 12)])
    assert {result.target_id for result in given} == {f"t{number}" for number in range(12)}


def test_a_small_batch_asks_no_canary() -> None:
    canaries = doubt(9)
    assert len(canaries.hold([failed(number) for number in range(9)])) == 9
    assert canaries.to_ask() == []


def test_many_targets_of_one_host_are_one_host() -> None:
    canaries = Canaries(URLS, 5.0)
    for number in range(50):
        canaries.expect(target(f"t{number}", "one.example"))
    assert len(canaries.hold([failed(number) for number in range(50)])) == 50


def test_canaries_are_asked_once_when_more_than_half_have_failed() -> None:
    canaries = doubt(20)
    canaries.hold([failed(number) for number in range(10)])
    assert canaries.to_ask() == []
    canaries.hold([failed(10)])
    asked = canaries.to_ask()
    assert [target.check.endpoint for target in asked] == list(URLS)
    assert all(is_canary(target.id) for target in asked)
    assert canaries.to_ask() == []


def test_silent_canaries_make_the_batch_unknown_and_also_what_fails_later() -> None:
    canaries = doubt(20)
    canaries.hold([failed(number) for number in range(15)])
    first, second = canaries.to_ask()
    assert canaries.hold([failed_canary(first.id)]) == []
    given = canaries.hold([failed_canary(second.id)])
    assert len(given) == 15
    assert verdicts(given) == {(Verdict.UNKNOWN, Reason.INTERNAL)}
    assert canaries.to_ask() == []
    assert verdicts(canaries.hold([failed(16)])) == {(Verdict.UNKNOWN, Reason.INTERNAL)}
    assert verdicts(canaries.hold([answered("t17", 500)])) == {(Verdict.DOWN, None)}


@pytest.mark.parametrize("code", [200, 503])
def test_one_canary_that_answers_anything_makes_the_failures_true(code: int) -> None:
    canaries = doubt(20)
    canaries.hold([failed(number) for number in range(15)])
    first, second = canaries.to_ask()
    canaries.hold([failed_canary(first.id)])
    given = canaries.hold([answered(second.id, code)])
    assert verdicts(given) == {(Verdict.DOWN, Reason.TIMEOUT)}
    assert len(given) == 15


def test_a_doubt_that_never_became_a_suspicion_ends_with_the_run() -> None:
    canaries = doubt(20)
    canaries.hold([failed(number) for number in range(10)] + [answered(f"t{number}") for number in range(10, 15)])
    assert verdicts(canaries.release()) == {(Verdict.DOWN, Reason.TIMEOUT)}


def test_a_wrong_status_is_no_failure_of_the_connection() -> None:
    canaries = doubt(20)
    assert len(canaries.hold([answered(f"t{number}", 500) for number in range(20)])) == 20


def failed_canary(name: str) -> CheckResult:
    return CheckResult(name, 0, Verdict.DOWN, (Attempt(1, 5_000.0, {}),), 1, 2, reason=Reason.TIMEOUT)
