"""Which stories a mail tells of many alerts, and how it groups them."""

from typing import Any

import pytest

from shared.monitor import Alert, Report
from worker.alerts import letters
from worker.alerts.letters import LINES, Digest, Downs


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


def kinds(*alerts: Alert) -> list[str]:
    """What each incident has become, oldest first."""
    return [story.kind for story in letters.stories(alerts)]


def downs(*alerts: Alert) -> Downs:
    return digest(*alerts).downs


def headings(found: Downs) -> list[tuple[str, int]]:
    return [(group.heading, group.lines.count) for group in found.groups]


def test_down_and_up_of_one_incident_are_one_story_in_whatever_order() -> None:
    for alerts in ([alert(), alert(kind="up")], [alert(kind="up"), alert()]):
        (story,) = letters.stories(alerts)
        assert (story.kind, story.before, story.alert) == ("over", alert(), alert(kind="up"))
        assert story.lasted_ms == 40_000


def test_two_incidents_of_one_target_are_two_stories() -> None:
    again = alert(began_at=50_000, at=51_000, incident="t1-3")
    assert [story.began_at for story in letters.stories([again, alert(), alert(kind="up")])] == [1000, 50_000]


def test_alerts_without_an_incident_are_never_taken_for_one() -> None:
    assert len(letters.stories([alert(incident=None), alert(kind="up", incident=None)])) == 2


@pytest.mark.parametrize(
    ("told", "become"),
    [
        (["down"], "down"),
        (["down", "up"], "over"),
        (["up"], "up"),
        (["reminder"], "reminder"),
        (["reminder", "reminder"], "reminder"),
        (["reminder", "up"], "up"),
        (["down", "reminder"], "down"),
        (["down", "flapping"], "flapping"),
        (["down", "up", "flapping"], "flapping"),
        (["reminder", "flapping"], "flapping"),
        (["flapping", "calm"], "calm"),
        (["down", "flapping", "calm"], "calm"),
        (["calm", "reminder"], "calm"),
        (["calm", "up"], "up"),
        (["flapping", "calm", "up"], "up"),
        (["down", "flapping", "calm", "up"], "over"),
        (["trouble"], "trouble"),
        (["trouble", "well"], "well"),
        (["trouble", "well", "trouble"], "trouble"),
        (["well"], "well"),
    ],
)
def test_all_that_is_told_of_one_incident_becomes_one_story(told: list[str], become: str) -> None:
    alerts = [alert(kind=kind, at=41_000 + 1000 * number) for number, kind in enumerate(told)]
    assert kinds(*alerts) == kinds(*reversed(alerts)) == [become]


def test_a_story_of_what_is_over_remembers_how_it_began() -> None:
    for first, last in (("down", "up"), ("flapping", "calm"), ("trouble", "well")):
        (story,) = letters.stories([alert(kind=first), alert(kind=last, at=90_000, began_at=2000)])
        assert (story.before, story.began_at) == (alert(kind=first), 1000)


def test_a_kind_that_only_another_version_knows_is_told_and_stops_no_mail() -> None:
    assert kinds(alert(kind="of next year")) == ["down"]


def test_troubles_without_an_incident_are_one_by_their_title() -> None:
    one: dict[str, Any] = {"target_id": "", "endpoint": "", "incident": None, "title": "no worker takes checks"}
    other = {**one, "title": "the disk is full"}
    told = [alert(kind="trouble", **one), alert(kind="trouble", **other), alert(kind="well", **one)]
    assert sorted(kinds(*told)) == ["trouble", "well"]


def test_a_recovery_counts_until_the_first_good_check_and_not_until_the_last() -> None:
    (story,) = letters.stories([alert(kind="up", detected_at=11_000)])
    assert story.lasted_ms == 10_000


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
        (1, 3, 2, "1 target down, 2 down and up again, 3 up"),
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
    assert digest(*alerts).subject == "36 targets down, 1,010 down and up again, 1 up"


def of_each_kind(count: int = 1) -> list[Alert]:
    """Alerts that make ``count`` stories of every kind, the least severe first."""
    told = []
    for number in range(count):
        told += [alert(1000 + number, "well", title=f"w{number}", incident=None)]
        told += [alert(2000 + number, kind) for kind in ("down", "up")]
        for base, kind in enumerate(("up", "calm", "reminder", "flapping", "down"), start=3):
            told.append(alert(1000 * base + number, kind))
        told += [alert(9000 + number, "trouble", title=f"t{number}", incident=None)]
    return told


def test_a_digest_tells_the_most_severe_first() -> None:
    found = digest(*of_each_kind())
    assert [section.kind for section in found.sections] == list(letters.TELLINGS)
    assert found.chief.tone == "monitor"
    assert digest(*of_each_kind()[:-1]).chief.verdict == "Down"
    assert found.headline == (
        "monitor trouble, 1 target down, 1 flapping, 1 still down, 1 calm again, 1 down and up again, 1 up, "
        "monitor well"
    )


@pytest.mark.parametrize(
    ("left_out", "count", "subject"),
    [
        ((), 1, "trouble, 1 down, 1 flapping, 1 still down, 1 calm, …"),
        ((), 99, "99 troubles, 99 down, 99 flapping, 99 still down, 99 calm, …"),
        (("trouble", "well"), 1, "1 down, 1 flapping, 1 still down, 1 calm, 1 up again, 1 up"),
        (("trouble", "down", "flapping", "up"), 1, "1 target still down, 1 calm again, monitor well"),
        (("flapping", "reminder", "calm", "up", "well", "down"), 2, "2 monitor troubles"),
        (("flapping", "reminder", "calm", "up", "trouble", "down"), 2, "2 monitor troubles over"),
    ],
)
def test_the_subject_of_a_digest_names_each_kind_as_far_as_it_has_room(
    left_out: tuple[str, ...], count: int, subject: str
) -> None:
    assert digest(*(each for each in of_each_kind(count) if each.kind not in left_out)).subject == subject


def test_the_shared_cause_is_told_with_the_downs_wherever_they_stand() -> None:
    told = [alert(number) for number in range(9)]
    told.append(alert(90, "trouble", title="x", incident=None))
    assert digest(*told).subject == "monitor trouble, 9 targets down (all DNS failure)"


HOUR = 3_600_000


@pytest.mark.parametrize(
    ("changes", "subject", "deed"),
    [
        ({"kind": "down"}, "DOWN: Service 1 (DNS failure)", "is down"),
        ({"kind": "up"}, "UP: Service 1 after 40 s", "is up again after 40 s"),
        (
            {"kind": "flapping", "flips": 7, "is_up": False},
            "FLAPPING: Service 1 (7 changes in 1 h, now down)",
            "keeps going up and down (7 changes in 1 h)",
        ),
        (
            {"kind": "flapping", "flips": 7, "is_up": True, "title": "A name that is not short"},
            "FLAPPING: A name that is not short (7 changes in 1 h)",
            "keeps going up and down (7 changes in 1 h)",
        ),
        ({"kind": "flapping"}, "FLAPPING: Service 1", "keeps going up and down"),
        ({"kind": "calm", "is_up": True}, "CALM again: Service 1 (up)", "is calm again: up"),
        ({"kind": "calm", "is_up": False}, "CALM again: Service 1 (down)", "is calm again: down"),
        ({"kind": "calm"}, "CALM again: Service 1", "is calm again"),
        (
            {"kind": "reminder", "at": 6 * HOUR + 1000},
            "STILL DOWN: Service 1 (6 h; DNS failure)",
            "is still down (6 h)",
        ),
        (
            {"kind": "reminder", "at": 6 * HOUR + 1000, "title": "A name that needs nearly all the room"},
            "STILL DOWN: A name that needs nearly all the room (6 h)",
            "is still down (6 h)",
        ),
        ({"kind": "trouble", "title": "no worker takes checks"}, "MONITOR TROUBLE: no worker takes checks", None),
        ({"kind": "well", "title": "no worker takes checks"}, 'MONITOR WELL: "no worker takes checks" is over', None),
    ],
)
def test_a_story_alone_is_told_by_its_subject(changes: dict[str, Any], subject: str, deed: str | None) -> None:
    (story,) = letters.stories([alert(**changes)], window_ms=HOUR)
    assert story.subject == subject
    if deed:
        assert story.deed == deed


@pytest.mark.parametrize("kind", [*letters.TELLINGS])
def test_no_name_makes_a_subject_longer_than_60_characters(kind: str) -> None:
    told = [alert(kind=each, title="x" * 200, flips=9999) for each in (("down", "up") if kind == "over" else (kind,))]
    (story,) = letters.stories(told, window_ms=86_399_000)
    assert story.kind == kind
    assert len(story.subject) == 60


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        (
            {"detected_at": 3000, "at": 5000, "written_at": 5100},
            {"Down since": "1970-01-01 00:00:01 UTC", "Noticed": "00:00:03 UTC, confirmed 00:00:05 UTC"}
            | {"Queued": "00:00:05 UTC"},
        ),
        ({"at": 5000}, {"Noticed": "00:00:05 UTC"}),
        ({"at": 86_401_000}, {"Noticed": "1970-01-02 00:00:01 UTC"}),
        (
            {"kind": "up", "detected_at": 60_000, "at": 90_000},
            {"Up again": "1970-01-01 00:01:00 UTC, confirmed 00:01:30 UTC"},
        ),
        ({"kind": "flapping", "is_up": True}, {"Now": "up, as of 1970-01-01 00:00:41 UTC"}),
        ({"kind": "trouble"}, {"Since": "1970-01-01 00:00:01 UTC"}),
        ({"kind": "well"}, {"Over": "1970-01-01 00:00:41 UTC, after 40 s"}),
    ],
)
def test_the_details_say_when_it_began_was_noticed_and_was_certain(
    changes: dict[str, Any], rows: dict[str, str]
) -> None:
    (story,) = letters.stories([alert(**changes)])
    assert rows.items() <= dict(story.facts).items()
    assert all(len(label) <= 10 for label, _ in story.facts)


def test_the_details_of_a_reminder_without_a_check_do_not_make_one_up() -> None:
    (story,) = letters.stories([alert(kind="reminder", reason=None)])
    assert {"Expected", "Got"}.isdisjoint(dict(story.facts))


def test_a_digest_names_a_hundred_of_each_and_counts_the_rest() -> None:
    alerts = [alert(number, host=f"svc{number}.example.com") for number in range(150)]
    alerts += [alert(number, reason="timeout") for number in range(150, 180)]
    alerts += [alert(1000 + number, "up") for number in range(101)]
    found = digest(*alerts)
    (group,) = found.downs.groups
    assert (len(group.lines.shown), group.lines.more, found.downs.more) == (LINES, 50, 30)
    assert [(section.kind, len(section.lines.shown), section.lines.more) for section in found.sections] == [
        ("down", LINES, 80),
        ("up", LINES, 1),
    ]


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
