"""The documents that results and alerts become, and the fields of a check."""

from __future__ import annotations

import orjson
import pytest
from pydantic import ValidationError

from shared.check import Check
from shared.monitor import Alert, Attempt, CheckResult, Reason, Target, Verdict

ID = "3f0c2a9d1b7e4f65"


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
        detected_at=4,
        written_at=6,
        opinion={"at": 1, "by": "host/1"},
        by="host/2",
        to=("ops@example.org",),
    )
    assert Alert.parse(orjson.loads(orjson.dumps(alert.document()))) == alert


def test_a_result_leaves_out_what_is_not_known_and_names_its_bottleneck() -> None:
    attempts = (
        Attempt(1_000, 30.00049, {"connect": 30.0}, reason=Reason.REFUSED, phase="connect"),
        Attempt(2_000, 20.1234567, {"dns": 1.0, "wait": 15.12345}, status_code=200, address="192.0.2.1:443"),
    )
    seen = CheckResult(ID, 1, Verdict.UP, attempts, started_at=1_000, finished_at=2_021)

    document = seen.document()

    assert document["status_code"] == 200
    assert document["elapsed_ms"] == 20.123
    assert document["phases"] == {"dns": 1.0, "wait": 15.123}
    assert document["bottleneck"] == "wait"
    assert document["address"] == "192.0.2.1:443"
    assert [attempt["elapsed_ms"] for attempt in document["attempts"]] == [30.0, 20.123]
    assert not {"scheduled_at", "reason", "sentence"} & document.keys()


def test_a_result_without_any_attempt_has_no_code_no_phases_and_no_bottleneck() -> None:
    document = CheckResult(ID, 1, Verdict.UNKNOWN, (), started_at=1_000, finished_at=1_050).document()
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
