"""How mails say things, as tables."""

from collections.abc import Mapping
from typing import Any

import pytest

from shared.monitor import Alert
from worker.alerts import words


@pytest.mark.parametrize(
    ("ms", "said", "said_briefly"),
    [
        (-5000, "less than 1 s", "less than 1 s"),
        (0, "less than 1 s", "less than 1 s"),
        (1999, "1 s", "1 s"),
        (59_999, "59 s", "59 s"),
        (60_000, "1 min", "1 min"),
        (724_000, "12 min 4 s", "12 min"),
        (3_600_000, "1 h", "1 h"),
        (3_604_000, "1 h", "1 h"),
        (7_380_000, "2 h 3 min", "2 h 3 min"),
        (86_400_000 * 400 + 3_600_000, "400 d 1 h", "400 d 1 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(ms: int, said: str, said_briefly: str) -> None:
    assert words.duration(ms) == said
    assert words.briefly(ms) == said_briefly


@pytest.mark.parametrize(
    ("ms", "said"),
    [(0.0, "0.0 ms"), (8.44, "8.4 ms"), (99.96, "100 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (5000, "5.00 s")],
)
def test_a_measured_time_has_three_digits(ms: float, said: str) -> None:
    assert words.elapsed(ms) == said


def test_a_time_is_utc_to_the_second() -> None:
    assert words.clock(1_795_366_865_999) == "2026-11-22 17:01:05 UTC"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is", "as it is"),
        ("a\r\nb\x0bc\x1cd\u2028e", "a b c d e"),
        ("\u202egnp.exe", "gnp.exe"),
        ("  much \t space ", "much space"),
        ("half \ud800 a pair", "half a pair"),
    ],
)
def test_a_plain_text_is_one_line_that_reads_in_one_direction(text: str, line: str) -> None:
    assert words.plain(text) == line


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ({"status_code": 200}, "200 OK"),
        ({"status_code": 503, "reason": "status"}, "503 Service Unavailable"),
        ({"status_code": 599}, "599"),
        ({"reason": "timeout", "phase": "tls"}, "timed out during TLS handshake"),
        ({"reason": "dns", "phase": "dns"}, "DNS failure"),
        ({"reason": "too_many_redirects", "status_code": 302}, "too many redirects (302)"),
        ({"reason": "a_reason_of_next_year"}, "a reason of next year"),
        ({}, "no answer"),
    ],
)
def test_the_outcome_of_an_attempt_is_its_code_or_its_reason(attempt: Mapping[str, Any], said: str) -> None:
    assert words.outcome(attempt) == said


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Shop", "DOWN: Shop (503, expected 200)"),
        ("https://shop.example/", "DOWN: shop.example/ (503, expected 200)"),
        ("x" * 35, "DOWN: " + "x" * 33 + "… (503, expected 200)"),
        ("x" * 34, "DOWN: " + "x" * 34 + " (503, expected 200)"),
    ],
)
def test_a_subject_cuts_the_name_and_never_the_verdict(name: str, subject: str) -> None:
    framed = words.framed(name, "DOWN: ", " (503, expected 200)")
    assert framed == subject
    assert len(framed) <= 60


@pytest.mark.parametrize(
    ("endpoint", "is_link"),
    [
        ("https://www.google.com/", True),
        ("https://shop.example/?token=***", False),
        ("https://shop.example/abc…", False),
        ("javascript:alert(1)", False),
    ],
)
def test_only_a_whole_web_address_is_a_link(endpoint: str, is_link: bool) -> None:
    assert (words.link(endpoint) is not None) is is_link


def chart_of(phases: Mapping[str, float], bottleneck: str | None = None) -> list[words.Bar]:
    return words.chart(Alert("a", "down", "t", None, "", 0, 0, 200, None, phases=phases, bottleneck=bottleneck))


def test_each_phase_in_the_chart_begins_where_the_one_before_ended() -> None:
    bars = chart_of({"transfer": 10, "dns": 20, "wait": 70}, "wait")
    assert [(bar.name, bar.gap, bar.width, bar.is_bottleneck) for bar in bars] == [
        ("dns", 0, 20, False),
        ("wait", 20, 70, True),
        ("transfer", 90, 10, False),
    ]


@pytest.mark.parametrize(
    "phases", [{"dns": 0.0}, {"dns": 0.0, "wait": 5000.0, "transfer": 0.0}, {"dns": 1, "new": 1e9}]
)
def test_no_bar_is_invisible_or_sticks_out(phases: Mapping[str, float]) -> None:
    for bar in chart_of(phases):
        assert bar.width >= 2
        assert bar.gap + bar.width <= 100
        assert len(bar.drawn(30)) <= 30
        assert bar.drawn(30).endswith("█")


def test_a_code_stays_one_when_it_comes_as_text_and_ranges_stay_as_they_are() -> None:
    assert [words.code(each) for each in (404, "404", "200-299, 404", 299, None)] == [
        "404 Not Found",
        "404 Not Found",
        "200-299, 404",
        "299",
        "no answer",
    ]


FIRST = {"at": 1000, "reason": "timeout", "sentence": "The server did not answer within 5 s.", "by": "web-1/a"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"by": "web-2/b"}, "Seen by worker web-2/b."),
        (
            {"by": "web-2/b", "opinion": FIRST, "detected_at": 6000},
            "Confirmed by another check 2 s later (worker web-2/b). "
            "The first one (worker web-1/a) said: The server did not answer within 5 s.",
        ),
        (
            {"by": "web-1/a", "opinion": {**FIRST, "sentence": None}},
            "Confirmed by another check 7 s later (worker web-1/a). The first one said: timed out.",
        ),
        (
            {"opinion": {"at": 1000, "reason": "status", "sentence": "The server answered 503."}},
            "Confirmed by another check 7 s later.",
        ),
        (
            {"opinion": {"reason": "a_reason_of_next_year"}},
            "Confirmed by another check. The first one said: a reason of next year.",
        ),
        ({"kind": "reminder", "opinion": FIRST, "by": "web-2/b"}, "Seen by worker web-2/b."),
        ({"by": "x" * 100}, "Seen by worker " + "x" * 59 + "…."),
    ],
)
def test_two_checks_that_agree_are_told_apart_only_where_they_differ(changes: dict[str, Any], said: str | None) -> None:
    known = {"kind": "down", "at": 8000, "reason": "status", "sentence": "The server answered 503."}
    assert words.confirmation(_least(**{**known, **changes})) == said


def _least(**changes: Any) -> Alert:
    fields = {"id": "a", "target_id": "t", "title": None, "endpoint": "", "at": 0, "began_at": 0, "expected": 200}
    return Alert(**{**fields, "got": None, **changes})


@pytest.mark.parametrize(
    ("at", "said"), [(1_795_366_865_000, "17:01:05 UTC"), (1_795_453_265_000, "2026-11-23 17:01:05 UTC")]
)
def test_the_day_is_left_out_where_it_is_the_day_that_was_named(at: int, said: str) -> None:
    assert words.moment(at, since=1_795_366_800_000) == said


@pytest.mark.parametrize(
    ("flips", "window_ms", "said"),
    [(7, 3_600_000, "7 changes in 1 h"), (1, None, "1 change"), (0, 3_600_000, ""), (None, 3_600_000, "")],
)
def test_changes_are_told_with_their_time_if_anybody_counted(
    flips: int | None, window_ms: int | None, said: str
) -> None:
    assert words.changes(flips, window_ms) == said


def test_a_subject_drops_what_follows_the_name_before_it_cuts_the_name() -> None:
    assert words.fitted("x" * 20, "A: ", " (long)", " (l)") == "A: " + "x" * 20 + " (long)"
    assert words.fitted("x" * 53, "A: ", " (long)", " (l)") == "A: " + "x" * 53 + " (l)"
    assert words.fitted("x" * 99, "A: ", " (long)", " (l)") == "A: " + "x" * 52 + "… (l)"


def test_a_heading_of_counts_breaks_after_commas_only() -> None:
    assert words.unbroken("1,010 targets down, 2 up").split(" ") == ["1,010\xa0targets\xa0down,", "2\xa0up"]
