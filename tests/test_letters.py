"""Which stories a mail tells of many alerts, and how it groups them."""

from typing import Any

import pytest

from shared.monitor import Alert, Report
from worker import letters
from worker.letters import LINES, Digest, Downs


def alert(number: int = 1, kind: str = "down", host: str = "", **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": f"t{number}-{kind}",
        "kind": kind,
        "target_id": f"t{number}",
        "title": f"Service {number}",
        "endpoint": f"https://{host or f'svc{number}.site{number}.example'}/",
        "at": 41_000,
        "began_at": 1000,
        "expected": 200,
        "got": None,
        "reason": "dns",
        "incident": f"t{number}-1",
    }
    return Alert(**{**fields, **changes})


def digest(*alerts: Alert) -> Digest:
    return letters.digest(letters.stories(alerts))


def downs(*alerts: Alert) -> Downs:
    return digest(*alerts).downs


def headings(found: Downs) -> list[tuple[str, int]]:
    return [(group.heading, group.lines.count) for group in found.groups]


def test_down_and_up_of_one_incident_are_one_story_in_whatever_order() -> None:
    for alerts in ([alert(), alert(kind="up")], [alert(kind="up"), alert()]):
        (story,) = letters.stories(alerts)
        assert (story.down, story.up) == (alert(), alert(kind="up"))
        assert story.lasted_ms == 40_000


def test_two_incidents_of_one_target_are_two_stories() -> None:
    again = alert(began_at=50_000, at=51_000, incident="t1-3")
    assert [story.began_at for story in letters.stories([again, alert(), alert(kind="up")])] == [1000, 50_000]


def test_alerts_without_an_incident_are_never_taken_for_one() -> None:
    assert len(letters.stories([alert(incident=None), alert(kind="up", incident=None)])) == 2


def test_downs_are_grouped_by_cause_and_the_largest_group_is_first() -> None:
    found = downs(alert(1, reason="refused"), alert(2), alert(3, got=503, reason="status"), alert(4))
    assert headings(found) == [("DNS failure", 2), ("connection refused", 1), ("503 Service Unavailable", 1)]


@pytest.mark.parametrize(
    ("hosts", "site"),
    [
        (("a.example.com", "b.example.com", "c.d.example.com"), "DNS failure on *.example.com"),
        (("a.eu.example.com", "b.eu.example.com", "c.eu.example.com"), "DNS failure on *.eu.example.com"),
        (("www.example.com",) * 3, "DNS failure on www.example.com"),
        (("10.0.0.1", "10.0.0.1", "10.0.0.1"), "DNS failure on 10.0.0.1"),
        (("[2001:db8::1]",) * 3, "DNS failure on 2001:db8::1"),
        (("10.1.0.1", "10.2.0.1", "10.3.0.1"), "DNS failure"),
        (("a.co.uk", "b.co.uk", "c.co.uk"), "DNS failure"),
        (("a.example.com", "b.example.com", "c.example.org"), "DNS failure"),
    ],
)
def test_three_on_one_site_are_a_group_under_the_longest_name_they_share(hosts: tuple[str, ...], site: str) -> None:
    found = downs(*(alert(number, host=host) for number, host in enumerate(hosts)))
    assert headings(found) == [(site, 3)]


def test_a_sentence_that_all_of_a_group_say_is_said_once() -> None:
    same, different = (
        downs(alert(1, sentence="The name does not exist."), alert(2, sentence=sentence)).groups[0]
        for sentence in ("The name does not exist.", "The name server does not answer.")
    )
    assert same.sentence == "The name does not exist."
    assert different.sentence is None


@pytest.mark.parametrize(
    ("down", "up", "over", "headline"),
    [
        (37, 2, 0, "37 targets down, 2 up"),
        (1, 0, 2, "1 target down, 2 down and up again"),
        (0, 2, 0, "2 targets up"),
        (0, 0, 3, "3 targets down and up again"),
        (1234, 0, 0, "1,234 targets down"),
    ],
)
def test_the_headline_counts_what_happened(down: int, up: int, over: int, headline: str) -> None:
    reasons = ("refused", "timeout", "tls", "reset")  # No cause that most share.
    alerts = [alert(number, reason=reasons[number % 4]) for number in range(down)]
    alerts += [alert(5000 + number, "up") for number in range(up)]
    alerts += [alert(6000 + number, kind) for number in range(over) for kind in ("down", "up")]
    assert digest(*alerts).headline == headline
    assert digest(*alerts).subject == headline


def test_the_subject_names_the_cause_that_most_share() -> None:
    alerts = [alert(number, host=f"svc{number}.example.com") for number in range(36)]
    alerts.append(alert(99, reason="timeout"))
    assert digest(*alerts).subject == "37 targets down: 36 of them DNS failure on *.example.com"
    assert digest(*alerts[:36]).subject == "36 targets down: all DNS failure on *.example.com"


def test_the_subject_leaves_out_the_site_and_then_the_cause_before_it_grows_past_60_characters() -> None:
    site = "a-rather-long-name-of-a-site.example.com"
    alerts = [alert(number, host=f"svc{number}.{site}") for number in range(36)]
    assert digest(*alerts).subject == "36 targets down: all DNS failure"
    alerts.append(alert(90, "up"))
    assert digest(*alerts).subject == "36 targets down (all DNS failure), 1 up"
    alerts += [alert(number, kind) for number in range(100, 1110) for kind in ("down", "up")]
    assert digest(*alerts).subject == "36 targets down, 1 up, 1,010 down and up again"


def test_a_digest_names_a_hundred_of_each_and_counts_the_rest() -> None:
    alerts = [alert(number, host=f"svc{number}.example.com") for number in range(150)]
    alerts += [alert(number, reason="timeout") for number in range(150, 180)]
    alerts += [alert(1000 + number, "up") for number in range(101)]
    found = digest(*alerts)
    (group,) = found.downs.groups
    assert (len(group.lines.shown), group.lines.more, found.downs.more) == (LINES, 50, 30)
    assert (len(found.ups.shown), found.ups.more) == (LINES, 1)


def test_no_text_of_an_alert_is_longer_than_its_place() -> None:
    (story,) = letters.stories([alert(title="x" * 10_000, sentence="y" * 10_000, attempts=({"started_at": 0},) * 1000)])
    assert len(story.name) <= 300
    assert len(story.alert.sentence or "") <= 300
    assert len(story.alert.attempts) <= 20


@pytest.mark.parametrize(
    ("targets", "down", "headline"),
    [
        (120, 3, "3 of 120 targets are down"),
        (120, 1, "1 of 120 targets is down"),
        (1, 1, "1 of 1 target is down"),
        (120, 0, "none of 120 targets is down"),
        (0, 0, "no target is being watched"),
    ],
)
def test_a_report_says_how_many_of_how_many(targets: int, down: int, headline: str) -> None:
    assert letters.report_headline(Report(at=0, targets=targets, down=(), down_in_all=down)) == headline


def test_a_report_counts_what_it_does_not_carry() -> None:
    found = letters.report_downs(Report(at=0, targets=9, down=(alert(1), alert(2)), down_in_all=7))
    assert (found.count, found.more) == (7, 5)
