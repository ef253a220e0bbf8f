"""What is usual for a target: medians in bounded space, what is worth a word, and what has changed."""

from __future__ import annotations

import random

import orjson
import pytest

from shared.baseline import Baseline, differences, digest_of, learn, summary, unusual
from shared.monitor import AnswerSeen, Attempt, CertificateSeen, CheckResult, Reason, Verdict

CERTIFICATE = CertificateSeen("shop.example", "Some CA", 1_700_000_000_000, 1_800_000_000_000, "ab" * 32)
ANSWER = AnswerSeen((), CERTIFICATE, (("Content-Type", "text/html"), ("Server", "nginx"), ("Date", "now")), None, 512)


def seen(
    answer: AnswerSeen | None = ANSWER, code: int | None = 200, address: str = "192.0.2.1:443", **phases: float
) -> CheckResult:
    phases = phases or {"connect": 10.0, "wait": 40.0}
    attempt = Attempt(1_000, sum(phases.values()), phases, code, address=address)
    verdict = Verdict.UP if code == 200 else Verdict.DOWN
    reason = None if code == 200 else Reason.STATUS
    return CheckResult("0" * 16, 1, verdict, (attempt,), 1_000, 1_050, reason=reason, answer=answer)


def taught(count: int, **phases: float) -> Baseline:
    baseline = Baseline()
    for _ in range(count):
        baseline = learn(baseline, seen(ANSWER, 200, "192.0.2.1:443", **phases))
    return baseline


def test_a_median_comes_near_the_true_one_and_stays_there() -> None:
    draw = random.Random(4)
    values = [draw.lognormvariate(4, 0.6) for _ in range(2_000)]
    baseline = Baseline()
    for value in values:
        baseline = learn(baseline, seen(wait=value))
    true = sorted(values)[len(values) // 2]
    assert baseline.medians["wait"] == pytest.approx(true, rel=0.25)


@pytest.mark.parametrize("first", [1.0, 20.0, 5_000.0])
def test_what_is_usual_does_not_depend_on_the_first_result(first: float) -> None:
    baseline = learn(Baseline(), seen(wait=first))
    for _ in range(100):
        assert unusual(baseline, seen(wait=60.0)) is None
        if baseline.count >= 10:
            assert unusual(baseline, seen(wait=240.0)) is not None
        baseline = learn(baseline, seen(wait=60.0))


def test_one_outlier_moves_a_median_by_a_step_only() -> None:
    baseline = taught(100, wait=40.0)
    assert learn(baseline, seen(wait=40_000.0)).medians["wait"] <= 40.0 * 1.04


def test_a_baseline_takes_bounded_space_and_is_read_back_as_it_was() -> None:
    baseline = taught(5_000, dns=1.0, connect=2.0, tls=3.0, wait=4.0, transfer=5.0)
    stored = orjson.dumps(baseline.document())
    assert len(stored) < 200
    assert Baseline.parse(orjson.loads(stored)) == baseline


def test_a_slow_phase_is_told_with_its_share_and_its_factor() -> None:
    baseline = taught(50, connect=10.0, tls=270.0, wait=40.0)
    told = unusual(baseline, seen(connect=10.0, tls=1_890.0, wait=400.0))
    assert told == "tls 1.9 s, 82 % of the total, 7 x its usual"


@pytest.mark.parametrize(
    ("count", "wait"),
    [(50, 110.0), (5, 4_000.0)],
    ids=["less than three times the usual", "too few results to know what is usual"],
)
def test_what_is_not_unusual_is_not_told(count: int, wait: float) -> None:
    assert unusual(taught(count, wait=40.0), seen(wait=wait)) is None


def test_nobody_is_told_of_a_few_milliseconds() -> None:
    assert unusual(taught(50, wait=0.5), seen(wait=20.0)) is None


def test_a_phase_that_never_happened_before_is_told_without_a_factor() -> None:
    told = unusual(taught(50, connect=5.0, wait=40.0), seen(dns=900.0, connect=5.0, wait=40.0))
    assert told == "dns 900 ms, 95 % of the total, which is not usual"


def test_a_summary_that_says_the_same_has_the_same_digest() -> None:
    again = seen(AnswerSeen((), CERTIFICATE, (("Server", "nginx"), ("Content-Type", "text/html")), None, 777), wait=9.0)
    assert digest_of(summary(seen())) == digest_of(summary(again))
    assert digest_of(summary(seen())) != digest_of(summary(seen(address="192.0.2.2:443")))


def test_what_changed_since_it_last_worked_is_told() -> None:
    other = CertificateSeen("other.example", "Some CA", 1_700_000_000_000, 1_800_000_000_000, "cd" * 32)
    failed = seen(
        AnswerSeen(("https://shop.example/login",), other, (("Content-Type", "text/plain"),)), 500, "192.0.2.9:443"
    )
    assert differences(summary(seen()), failed) == [
        "the address was 192.0.2.1:443 and is 192.0.2.9:443",
        "it is redirected otherwise",
        "the certificate is another one (other.example)",
        "content-type was text/html and is text/plain",
        "server was nginx and is absent",
    ]


def test_a_failure_without_an_answer_changes_nothing_but_what_it_met() -> None:
    refused = CheckResult("0" * 16, 1, Verdict.DOWN, (Attempt(1, 1.0, {"connect": 1.0}),), 1, 2, reason=Reason.REFUSED)
    assert differences(summary(seen()), refused) == []
