"""The outbox: who takes which alerts, what becomes of a mail, and that none of it is lost or sent by two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import orjson
import pytest
from redis import Redis

from shared.monitor import Verdict
from shared.settings import Settings
from shared.store import Mail, Outbox, Store, Watched, keys
from shared.store.outbox import DELAY_BOUNDS, LEASE_MS, LONGEST_WAIT_MS
from tests.fakes import Killed, Wire, everywhere, incident_fields, put, record, settings_for, settle

WINDOW_MS = 10_000
SETTINGS = settings_for("redis://unused", alert_group_wait=WINDOW_MS / 1000)
DAY_MS = 86_400_000
DUE = 1_000_000
"""When the alerts of the first flips are due."""


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def flip(store: Store, *names: str, due: int = DUE, verdict: Verdict = Verdict.DOWN) -> list[Watched]:
    """Targets of these names that flip so that their alerts are due at ``due``."""
    targets = put(store, *[f"http://{name}.example/" for name in names])
    record(store, SETTINGS, targets, verdict, due - WINDOW_MS - 10)
    return targets


def claim(store: Store, mail_id: str = "mail-1", *, now: int = DUE) -> Mail:
    mail = store.outbox.claim(mail_id, now=now)
    assert mail is not None
    return mail


def names(mail: Mail) -> list[str]:
    return [alert.endpoint.removeprefix("http://").removesuffix(".example/") for alert in mail.alerts]


def places(store: Store) -> list[str]:
    return sorted(entry["place"] for entry in store.outbox.entries())


def fate(store: Store, alert_id: str) -> dict[str, Any]:
    """What the incident remembers of the mail that told it."""
    incident = incident_fields(store, alert_id)
    assert incident is not None
    remembered: dict[str, Any] = orjson.loads(incident[f"told:{alert_id}"])
    return remembered


# --- claiming ------------------------------------------------------------------------------------------------------


def test_nothing_is_due_in_an_empty_outbox(store: Store) -> None:
    assert not store.outbox.is_due(now=DUE)
    assert store.outbox.claim("mail-1", now=DUE) is None


def test_an_alert_waits_for_the_end_of_its_grouping_window(store: Store) -> None:
    flip(store, "a")
    assert not store.outbox.is_due(now=DUE - 1)
    assert store.outbox.claim("mail-1", now=DUE - 1) is None
    assert store.outbox.is_due(now=DUE)
    assert names(claim(store)) == ["a"]


def test_what_flipped_within_the_window_goes_into_the_same_mail_in_order(store: Store) -> None:
    flip(store, "b", due=DUE + 4_000)
    flip(store, "c", due=DUE + 9_000)
    flip(store, "a", due=DUE)
    assert names(claim(store)) == ["a", "b", "c"]
    assert store.outbox.claim("mail-2", now=DUE + 9_000) is None


def test_down_and_up_of_one_target_within_the_window_are_both_told(store: Store) -> None:
    targets = flip(store, "a")
    record(store, SETTINGS, targets, Verdict.UP, DUE - 5_000)
    assert [alert.kind for alert in claim(store).alerts] == ["down", "up"]


def test_a_mail_holds_so_many_alerts_and_the_rest_is_the_next_mail(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.outbox.MAIL_SIZE", 40)
    flip(store, *[f"n{number}" for number in range(43)])
    assert len(claim(store, "mail-1").alerts) == 40
    assert len(claim(store, "mail-2").alerts) == 3
    assert store.outbox.claim("mail-3", now=DUE) is None


def test_those_who_claim_at_once_have_no_alert_in_common(store: Store, valkey_url: str) -> None:
    flip(store, *[f"n{number}" for number in range(20)])
    barrier = threading.Barrier(6)

    def claim_once(number: int) -> Mail | None:
        with Redis.from_url(valkey_url) as client:
            barrier.wait(5)
            return Store(client).outbox.claim(f"mail-{number}", now=DUE)

    with ThreadPoolExecutor(6) as pool:
        mails = [mail for mail in pool.map(claim_once, range(6)) if mail is not None]

    assert [len(mail.entries) for mail in mails] == [20]


def test_an_alert_whose_text_was_deleted_behind_our_back_keeps_no_other_from_being_sent(
    store: Store, redis: Redis
) -> None:
    flip(store, "a")
    redis.zadd("monitor:outbox", {"nobody-1": 1})
    redis.zadd("monitor:outbox:sending", {"nobody-2": 1})
    mails = [store.outbox.claim(f"mail-{number}", now=DUE) for number in range(3)]
    assert [names(mail) for mail in mails if mail is not None] == [["a"]]
    assert store.outbox.counts().waiting == 0


# --- the lease -----------------------------------------------------------------------------------------------------


def test_a_mail_whose_job_was_killed_is_claimed_again_under_its_own_id_with_the_same_alerts(store: Store) -> None:
    flip(store, "b", due=DUE)
    flip(store, "a", due=DUE + 200)
    first = claim(store, "mail-1")
    flip(store, "c", due=DUE + 1_000)

    assert store.outbox.claim("mail-2", now=DUE + 500) is None
    again = claim(store, "mail-3", now=DUE + LEASE_MS)

    assert (again.id, again.alerts, sorted(again.entries)) == (first.id, first.alerts, sorted(first.entries))
    assert names(again) == ["b", "a"]
    assert [entry["tries"] for entry in store.outbox.entries() if entry["place"] == "sending"] == [2, 2]
    assert names(claim(store, "mail-4", now=DUE + LEASE_MS)) == ["c"]


def test_two_mails_whose_jobs_were_killed_are_not_mixed(store: Store) -> None:
    flip(store, "a", "b")
    first = claim(store, "mail-1")
    flip(store, "c", "d", due=DUE + 1_000)
    second = claim(store, "mail-2", now=DUE + 1_000)

    later = DUE + 1_000 + LEASE_MS
    assert [claim(store, "x", now=later), claim(store, "y", now=later)] == [first, second]


def test_is_due_says_so_when_a_lease_has_ended(store: Store) -> None:
    flip(store, "a")
    claim(store)
    assert not store.outbox.is_due(now=DUE + LEASE_MS - 1)
    assert store.outbox.is_due(now=DUE + LEASE_MS)


def test_a_job_that_comes_too_late_settles_nothing_of_what_another_has_taken_over(store: Store) -> None:
    flip(store, "a")
    late = claim(store, "mail-1")
    store.outbox.delayed(late, now=DUE, error="refused", may_have_arrived=False)
    taken = claim(store, "mail-2", now=DUE + LEASE_MS)

    store.outbox.sent(late, now=DUE + LEASE_MS, recipients=["ops@example.org"], refused={})

    assert places(store) == ["sending"]
    store.outbox.sent(taken, now=DUE + LEASE_MS, recipients=["ops@example.org"], refused={})
    assert places(store) == []


def test_killed_at_any_moment_of_a_claim_the_alerts_are_in_one_mail_after_the_lease(
    redis: Redis, valkey_url: str
) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        flip(store, "a", "b")
        with suppress(Killed):
            Store(wire.client).outbox.claim("mail-1", now=DUE)
        settle(redis, wire)
        mail = store.outbox.claim("mail-2", now=DUE + LEASE_MS)
        assert mail is not None
        assert sorted(names(mail)) == ["a", "b"]


# --- settling ------------------------------------------------------------------------------------------------------


def test_a_sent_mail_leaves_and_the_incident_remembers_it(store: Store, redis: Redis) -> None:
    flip(store, "a")
    mail = claim(store)
    store.outbox.sent(mail, now=DUE + 7, recipients=["ops@example.org"], refused={"x@example.org": "550 no"})

    (refused,) = store.outbox.entries()
    assert (refused["id"], refused["place"], refused["error"]) == (f"{mail.entries[0]}!", "dead", "550 no")
    assert not redis.exists("monitor:outbox", "monitor:outbox:sending", "monitor:outbox:hold")
    assert len(list(redis.scan_iter("monitor:outbox:entry:*"))) == 1
    assert fate(store, mail.entries[0]) == {
        "kind": "down",
        "fate": "sent",
        "at": DUE + 7,
        "mail": "mail-1",
        "recipients": ["ops@example.org"],
        "refused": {"x@example.org": "550 no"},
    }


def test_sending_does_not_bring_back_an_incident_that_has_expired(store: Store, redis: Redis) -> None:
    flip(store, "a")
    mail = claim(store)
    redis.delete(f"monitor:incident:{mail.entries[0]}")
    store.outbox.sent(mail, now=DUE, recipients=["ops@example.org"], refused={})
    assert incident_fields(store, mail.entries[0]) is None


def test_after_a_failure_nothing_is_claimed_before_the_pause_is_over(store: Store) -> None:
    flip(store, "a")
    until = store.outbox.delayed(claim(store), now=DUE, error="timeout", may_have_arrived=False)
    flip(store, "b", due=DUE + 1_000)

    assert until == DUE + 5_000
    assert not store.outbox.is_due(now=until - 1)
    assert store.outbox.claim("mail-2", now=until - 1) is None
    assert store.outbox.is_due(now=until)
    assert names(claim(store, "mail-3", now=until)) == ["a", "b"]


def test_the_pauses_double_up_to_fifteen_minutes(store: Store) -> None:
    flip(store, "a")
    now, waits = DUE, []
    for _ in range(12):
        mail = claim(store, now=now)
        until = store.outbox.delayed(mail, now=now, error="timeout", may_have_arrived=False)
        waits.append(until - now)
        now = until
    assert waits[:4] == [5_000, 10_000, 20_000, 40_000]
    assert waits[-3:] == [LONGEST_WAIT_MS] * 3
    assert LONGEST_WAIT_MS == 900_000
    assert store.outbox.counts().failures == 12


def test_a_mail_that_gets_through_ends_the_pauses(store: Store) -> None:
    flip(store, "a")
    until = store.outbox.delayed(claim(store), now=DUE, error="timeout", may_have_arrived=False)
    store.outbox.sent(claim(store, "mail-2", now=until), now=until, recipients=["ops@example.org"], refused={})

    assert store.outbox.counts().failures == 0
    flip(store, "b", due=until)
    again = claim(store, "mail-3", now=until)
    assert store.outbox.delayed(again, now=until, error="timeout", may_have_arrived=False) == until + 5_000


def test_a_mail_that_may_have_arrived_is_sent_again_as_it_was(store: Store) -> None:
    flip(store, "a", "b")
    mail = claim(store, "mail-1")
    flip(store, "c", due=DUE + 1_000)
    until = store.outbox.delayed(mail, now=DUE, error="connection lost", may_have_arrived=True)

    assert claim(store, "mail-2", now=until) == mail
    assert names(claim(store, "mail-3", now=until)) == ["c"]
    (error,) = {entry["error"] for entry in store.outbox.entries() if entry["id"] in mail.entries}
    assert error == "connection lost"


@pytest.mark.parametrize("may_have_arrived", [True, False])
def test_a_mail_that_some_have_had_is_sent_to_the_others_alone_until_they_have_it(
    store: Store, may_have_arrived: bool
) -> None:
    flip(store, "a")
    mail = claim(store, "mail-1")
    assert mail.recipients is None
    until = store.outbox.partly_sent(
        mail, now=DUE, recipients=["had@example.org"], remaining=["waits@example.org"], error="451 later"
    )
    flip(store, "b", due=DUE + 1_000)

    again = claim(store, "mail-2", now=until)
    assert (again.id, again.alerts, again.recipients) == (mail.id, mail.alerts, ("waits@example.org",))
    until = store.outbox.delayed(again, now=until, error="timeout", may_have_arrived=may_have_arrived)

    mails = [claim(store, f"mail-{number}", now=until) for number in (3, 4)]
    assert sorted((names(each), each.recipients) for each in mails) == [(["a"], ("waits@example.org",)), (["b"], None)]


@pytest.mark.parametrize("may_have_arrived", [True, False])
def test_after_three_days_of_failures_an_alert_is_a_dead_letter(store: Store, may_have_arrived: bool) -> None:
    flip(store, "a")
    almost, over = DUE + 3 * DAY_MS, DUE + 3 * DAY_MS + 1

    store.outbox.delayed(claim(store, now=almost), now=almost, error="timeout", may_have_arrived=may_have_arrived)
    assert store.outbox.counts().dead == 0

    later = over + LONGEST_WAIT_MS
    mail = claim(store, "mail-2", now=later)
    store.outbox.delayed(mail, now=later, error="timeout", may_have_arrived=may_have_arrived)

    (entry,) = store.outbox.entries()
    assert (entry["place"], entry["error"], entry["tries"]) == ("dead", "timeout", 2)
    assert entry["alert"]["endpoint"] == "http://a.example/"
    assert fate(store, entry["id"])["fate"] == "given_up"
    assert store.outbox.claim("mail-3", now=later + DAY_MS) is None


def test_a_younger_alert_in_the_same_mail_is_not_given_up(store: Store) -> None:
    flip(store, "old")
    flip(store, "young", due=DUE + 3 * DAY_MS)
    now = DUE + 3 * DAY_MS + 1
    store.outbox.delayed(claim(store, now=now), now=now, error="timeout", may_have_arrived=False)
    assert {entry["alert"]["endpoint"]: entry["place"] for entry in store.outbox.entries()} == {
        "http://old.example/": "dead",
        "http://young.example/": "waiting",
    }


def test_a_refused_mail_is_a_dead_letter_at_once_and_pauses_nothing(store: Store) -> None:
    flip(store, "a")
    mail = claim(store)
    store.outbox.refused(mail, now=DUE, error="550 no such user")

    (entry,) = store.outbox.entries()
    assert (entry["place"], entry["error"]) == ("dead", "550 no such user")
    assert fate(store, entry["id"]) == {
        "kind": "down",
        "fate": "refused",
        "at": DUE,
        "error": "550 no such user",
    }
    flip(store, "b", due=DUE + 1)
    assert names(claim(store, "mail-2", now=DUE + 1)) == ["b"]


def test_a_dead_letter_can_be_sent_again_for_three_days_more(store: Store) -> None:
    flip(store, "a")
    mail = claim(store)
    store.outbox.refused(mail, now=DUE, error="550")
    later = DUE + 10 * DAY_MS

    assert store.outbox.revive(mail.entries[0], now=later)

    again = claim(store, "mail-2", now=later)
    assert (again.id, again.alerts) == ("mail-2", mail.alerts)
    store.outbox.delayed(again, now=later, error="timeout", may_have_arrived=False)
    assert places(store) == ["waiting"]


def test_only_a_dead_letter_can_be_revived(store: Store) -> None:
    flip(store, "a")
    (waiting,) = store.outbox.entries()
    assert not store.outbox.revive(waiting["id"], now=DUE)
    assert not store.outbox.revive("nobody-1", now=DUE)
    assert store.outbox.counts().waiting == 1


def test_dead_letters_are_bounded(store: Store, redis: Redis) -> None:
    flip(store, "a")
    redis.zadd("monitor:outbox:dead", {f"old-{number}": number for number in range(10_000)})
    redis.hset("monitor:outbox:entry:old-0", "alert", "")
    store.outbox.refused(claim(store), now=DUE, error="550")
    assert store.outbox.counts().dead == 10_000
    assert not redis.exists("monitor:outbox:entry:old-0")


def test_the_alert_of_a_target_deleted_meanwhile_is_still_sent(store: Store) -> None:
    (watched,) = flip(store, "a")
    store.targets.delete(watched.target.id, now=DUE - 5)
    assert names(claim(store)) == ["a"]


# --- reports -------------------------------------------------------------------------------------------------------


def test_a_report_is_due_at_once_and_asked_for_twice_it_is_one(store: Store) -> None:
    store.outbox.request_report(now=DUE)
    store.outbox.request_report(now=DUE + 1)
    mail = claim(store)
    assert mail.is_report
    assert len(mail.entries) == 1
    assert store.outbox.claim("mail-2", now=DUE + 1) is None


def test_a_report_asked_for_while_one_is_being_sent_is_another(store: Store) -> None:
    store.outbox.request_report(now=DUE)
    first = claim(store, "mail-1")
    store.outbox.request_report(now=DUE + 1)
    second = claim(store, "mail-2", now=DUE + 1)
    assert second.is_report
    assert second.entries != first.entries


@pytest.mark.parametrize("report_at", [DUE - 1, DUE + 1])
def test_a_report_and_alerts_are_separate_mails(store: Store, report_at: int) -> None:
    flip(store, "a", "b")
    store.outbox.request_report(now=report_at)
    mails = [claim(store, f"mail-{number}", now=DUE + 1) for number in range(2)]
    assert sorted(len(mail.alerts) for mail in mails) == [0, 2]
    assert [mail.is_report for mail in mails] == [report_at < DUE, report_at > DUE]


def test_a_report_whose_job_was_killed_is_claimed_again(store: Store) -> None:
    store.outbox.request_report(now=DUE)
    first = claim(store, "mail-1")
    assert claim(store, "mail-2", now=DUE + LEASE_MS) == first


def test_a_sent_report_leaves_nothing_waiting(store: Store) -> None:
    store.outbox.request_report(now=DUE)
    store.outbox.sent(claim(store), now=DUE, recipients=["ops@example.org"], refused={})
    assert store.outbox.entries() == []
    store.outbox.request_report(now=DUE + 5)
    assert claim(store, "mail-2", now=DUE + 5).is_report


# --- counts --------------------------------------------------------------------------------------------------------


def test_the_counts_tell_how_full_the_outbox_is(store: Store) -> None:
    flip(store, "a")
    store.outbox.refused(claim(store, "mail-1"), now=DUE, error="550")
    flip(store, "b")
    claim(store, "mail-2")
    flip(store, "c", due=DUE + 50)
    flip(store, "d", due=DUE + 60)
    counts = store.outbox.counts()
    assert (counts.waiting, counts.sending, counts.dead, counts.oldest_at) == (2, 1, 1, DUE + 50)


# --- audiences -----------------------------------------------------------------------------------------------------


def test_alerts_of_different_audiences_are_different_mails_and_none_is_in_two(store: Store) -> None:
    settings = settings_for(
        "redis://unused", alert_group_wait=WINDOW_MS / 1000, mail_tag_recipients="web=web@example.org"
    )
    targets = [
        *put(store, "http://plain.example/"),
        *put(store, "http://own.example/", "http://own2.example/", recipients=("own@example.org",)),
        *put(store, "http://tagged.example/", tags=("web",)),
        *put(store, "http://both.example/", tags=("web",), recipients=("own@example.org",)),
    ]
    record(store, settings, targets, Verdict.DOWN, DUE - WINDOW_MS - 10)
    told: dict[tuple[str, ...], list[str]] = {}
    while (mail := store.outbox.claim(f"mail-{len(told)}", now=DUE)) is not None:
        told[mail.audience] = sorted(names(mail))
    # Without recipients in the settings, those of a target are all there are.
    assert told == {
        (): ["plain"],
        ("own@example.org",): ["own", "own2"],
        ("web@example.org",): ["tagged"],
        ("own@example.org", "web@example.org"): ["both"],
    }


def test_a_name_with_a_comma_is_one_recipient(store: Store) -> None:
    targets = put(store, "http://a.example/", recipients=('"Doe, Jane" <jane@example.org>', "b@example.org"))
    record(store, SETTINGS, targets, Verdict.DOWN, DUE - WINDOW_MS - 10)
    assert claim(store).audience == ('"Doe, Jane" <jane@example.org>', "b@example.org")


def test_channels_have_no_audiences(store: Store) -> None:
    targets = [*put(store, "http://a.example/"), *put(store, "http://b.example/", recipients=("b@example.org",))]
    record(store, BOTH_BOXES, targets, Verdict.DOWN, DUE - WINDOW_MS - 10)
    mail = store.notifications.claim("message", now=DUE)
    assert mail is not None
    assert sorted(names(mail)) == ["a", "b"]


# --- more may come -------------------------------------------------------------------------------------------------


def mailed(
    store: Store,
    flips: dict[int, list[Watched]],
    *,
    seconds: int,
    wait_ms: int = WINDOW_MS,
    settings: Settings = SETTINGS,
) -> list[tuple[int, tuple[str, ...], list[str]]]:
    """The mails (second, audience, names) while targets flip at these seconds, by jobs that look each second.

    None follows the pace of another; each is looked for only when something is due.
    """
    mails: list[tuple[int, tuple[str, ...], list[str]]] = []
    for second in range(seconds):
        now = DUE + second * 1000
        record(store, settings, flips.get(second, []), Verdict.DOWN, now - 10)
        while store.outbox.is_due(now=now):
            mail = store.outbox.claim(f"mail-{now}-{len(mails)}", now=now, wait_ms=wait_ms)
            if mail is None:
                assert not store.outbox.is_due(now=now), "it would be looked at again at once"
                break
            mails.append((second, mail.audience, names(mail)))
            store.outbox.sent(mail, now=now, recipients=["ops@example.org"], refused={})
    return mails


def numbered(store: Store, seconds: Iterable[int], name: str = "n", **fields: Any) -> dict[int, list[Watched]]:
    """A target a second, named after it."""
    return {second: put(store, f"http://{name}{second}.example/", **fields) for second in seconds}


def test_a_lone_flip_is_mailed_when_its_window_is_over(store: Store) -> None:
    assert mailed(store, numbered(store, [0]), seconds=60) == [(10, (), ["n0"])]


def test_two_flips_within_a_window_are_one_mail_and_the_first_waits_for_the_window_of_the_second(store: Store) -> None:
    assert mailed(store, numbered(store, [0, 7]), seconds=60) == [(17, (), ["n0", "n7"])]


def test_two_flips_that_are_a_window_apart_are_two_mails(store: Store) -> None:
    assert mailed(store, numbered(store, [0, 11]), seconds=60) == [(10, (), ["n0"]), (21, (), ["n11"])]


def test_flips_that_follow_closely_for_eighty_seconds_are_one_mail(store: Store) -> None:
    flips = numbered(store, range(0, 81, 5))
    assert mailed(store, flips, seconds=240) == [(100, (), [f"n{second}" for second in flips])]
    assert store.outbox.entries() == []


def test_while_more_comes_it_is_looked_at_once_a_window(store: Store) -> None:
    looks = 0
    flips = numbered(store, range(80))
    for second in range(99):
        now = DUE + second * 1000
        record(store, SETTINGS, flips.get(second, []), Verdict.DOWN, now - 10)
        if store.outbox.is_due(now=now):
            looks += 1
            assert store.outbox.claim("early", now=now, wait_ms=WINDOW_MS) is None or second == 98
    assert looks in range(5, 11)


def test_flips_that_never_cease_are_mailed_when_the_oldest_has_waited_for_twelve_windows(store: Store) -> None:
    mails = mailed(store, numbered(store, range(0, 600, 5)), seconds=800)
    assert [second for second, _, _ in mails] == [120, 245, 370, 495, 615]
    assert [name for _, _, inside in mails for name in inside] == [f"n{second}" for second in range(0, 600, 5)]
    assert all(second - int(inside[0][1:]) <= 120 for second, _, inside in mails)


def test_a_storm_that_pauses_for_less_than_two_windows_is_one_mail_where_few_are_two(store: Store) -> None:
    def mails(prefix: str, many: int) -> list[int]:
        pausing = [*range(many), *range(many + 14, many + 20)]
        return [second for second, _, _ in mailed(store, numbered(store, pausing, prefix), seconds=120)]

    assert mails("storm", 10) == [29 + 20]
    assert len(mails("few", 3)) == 2


def test_a_long_window_is_no_reason_to_wait_for_hours(store: Store) -> None:
    settings = settings_for("redis://unused", alert_group_wait=60)
    mails = mailed(store, numbered(store, range(0, 300, 20)), seconds=400, wait_ms=60_000, settings=settings)
    assert mails[0][0] == 60 + 120


def test_an_audience_does_not_wait_for_what_another_is_owed(store: Store) -> None:
    storm, lone = numbered(store, range(0, 61, 5)), numbered(store, [21, 29], "own", recipients=("own@example.org",))
    settings = settings_for("redis://unused", alert_group_wait=WINDOW_MS / 1000)
    assert mailed(store, storm | lone, seconds=200, settings=settings) == [
        (39, ("own@example.org",), ["own21", "own29"]),
        (80, (), [f"n{second}" for second in storm]),
    ]


@pytest.mark.parametrize(("window", "expected"), [(0, [0, 2, 4, 6]), (1, [1, 3, 5, 7]), (3, [9])])
def test_a_short_window_is_a_short_wait(store: Store, window: int, expected: list[int]) -> None:
    settings = settings_for("redis://unused", alert_group_wait=window)
    mails = mailed(store, numbered(store, range(0, 8, 2)), seconds=60, wait_ms=window * 1000, settings=settings)
    assert [second for second, _, _ in mails] == expected


def test_a_full_mail_waits_for_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.store.outbox.MAIL_SIZE", 4)
    mails = mailed(store, numbered(store, range(0, 30, 5)), seconds=60)
    assert [(second, len(inside)) for second, _, inside in mails] == [(20, 4), (35, 2)]


def test_a_report_does_not_wait_for_alerts_to_which_more_comes(store: Store) -> None:
    flip(store, "a", due=DUE)
    flip(store, "b", due=DUE + 5_000)
    store.outbox.request_report(now=DUE + 1)
    mail = store.outbox.claim("mail-1", now=DUE + 1, wait_ms=WINDOW_MS)
    assert mail is not None
    assert mail.is_report


def test_after_a_failure_what_was_to_be_mailed_waits_for_no_more_than_the_longest_time(store: Store) -> None:
    """New alerts come every few seconds while the server is away."""
    flips = numbered(store, range(0, 300, 5))
    mailed(store, flips, seconds=119)
    mail = claim(store, now=DUE + 120_000)
    until = store.outbox.delayed(mail, now=DUE + 120_000, error="timeout", may_have_arrived=False)
    record(store, SETTINGS, flips[120], Verdict.DOWN, DUE + 120_000)
    again = store.outbox.claim("mail-2", now=until, wait_ms=WINDOW_MS)
    assert again is not None
    assert set(names(again)) == {*names(mail), "n120"}


def test_what_is_held_below_a_parent_makes_nobody_wait(store: Store, family: tuple[Watched, Watched]) -> None:
    parent, child = family
    record(store, SETTINGS, [child], Verdict.DOWN, DUE - 5_000)
    record(store, SETTINGS, [parent], Verdict.DOWN, DUE - WINDOW_MS - 10)
    assert store.outbox.counts().waiting == 2
    mail = store.outbox.claim("mail-1", now=DUE, wait_ms=WINDOW_MS)
    assert mail is not None
    assert names(mail) == ["parent"]


def test_killed_at_any_moment_of_a_look_that_finds_nothing_ready_all_of_it_is_one_mail_later(
    redis: Redis, valkey_url: str
) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        flip(store, "a", due=DUE)
        flip(store, "b", due=DUE + 4_000)
        with suppress(Killed):
            assert Store(wire.client).outbox.claim("mail-1", now=DUE, wait_ms=WINDOW_MS) is None
        settle(redis, wire)
        flip(store, "c", due=DUE + 9_000)
        assert store.outbox.claim("mail-2", now=DUE + 4_000, wait_ms=WINDOW_MS) is None
        mail = store.outbox.claim("mail-3", now=DUE + 9_000, wait_ms=WINDOW_MS)
        assert mail is not None
        assert names(mail) == ["a", "b", "c"]
        assert store.outbox.counts().waiting == 0


# --- two boxes -----------------------------------------------------------------------------------------------------

BOTH_BOXES = settings_for(
    "redis://unused", alert_group_wait=WINDOW_MS / 1000, webhook_url="https://hook.example/", alert_reminder=3600
)


def dump(redis: Any, box: str) -> dict[bytes, bytes]:
    return {key: redis.dump(key) for key in redis.scan_iter(f"{box}*")}


DEEDS: dict[str, Callable[[Outbox, Mail], object]] = {
    "claimed": lambda box, mail: None,
    "sent": lambda box, mail: box.sent(mail, now=DUE, recipients=["x"], refused={}, pause_ms=20_000),
    "refused": lambda box, mail: box.refused(mail, now=DUE, error="550"),
    "delayed": lambda box, mail: box.delayed(mail, now=DUE, error="451", may_have_arrived=False),
    "unclear": lambda box, mail: box.delayed(mail, now=DUE, error="451", may_have_arrived=True),
    "partly": lambda box, mail: box.partly_sent(mail, now=DUE, recipients=["x"], remaining=["y"], error="451"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("names_of_boxes", [(keys.OUTBOX, keys.NOTIFICATIONS), (keys.NOTIFICATIONS, keys.OUTBOX)])
def test_whatever_happens_in_one_box_leaves_the_other_as_it_was(
    store: Store, redis: Redis, deed: str, names_of_boxes: tuple[str, str]
) -> None:
    record(store, BOTH_BOXES, put(store, "http://a.example/"), Verdict.DOWN, DUE - WINDOW_MS - 10)
    store.outbox.request_report(now=DUE + 1)
    box, other = (store.outbox if name == keys.OUTBOX else store.notifications for name in names_of_boxes)
    before = dump(redis, other.box)
    assert before
    mail = box.claim("mail-1", now=DUE)
    assert mail is not None
    DEEDS[deed](box, mail)
    assert dump(redis, other.box) == before
    assert other.claim("mail-2", now=DUE) is not None


def test_the_incident_remembers_what_became_of_the_mail_and_of_the_notification(store: Store) -> None:
    record(store, BOTH_BOXES, put(store, "http://a.example/"), Verdict.DOWN, DUE - WINDOW_MS - 10)
    mail, message = (box.claim("mail-1", now=DUE) for box in (store.outbox, store.notifications))
    assert mail is not None
    assert message is not None
    store.outbox.refused(mail, now=DUE, error="550")
    store.notifications.sent(message, now=DUE, recipients=["webhook"], refused={})
    incident = incident_fields(store, mail.entries[0])
    assert incident is not None
    found = {name: orjson.loads(value)["fate"] for name, value in incident.items() if name.startswith("told:")}
    assert found == {f"told:{mail.entries[0]}": "refused", f"told:notifications:{mail.entries[0]}": "sent"}


# --- in the order in which it happened -----------------------------------------------------------------------------


def sequence(store: Store, now: int, *, seconds: int = 1200) -> list[tuple[str, str]]:
    """What is told from now on, as (name, kind), by jobs that look each second and whose mails are all taken."""
    told: list[tuple[str, str]] = []
    for moment in range(now, now + seconds * 1000, 1000):
        while (mail := store.outbox.claim(f"mail-{moment}", now=moment)) is not None:
            told += [(name, alert.kind) for name, alert in zip(names(mail), mail.alerts, strict=True)]
            store.outbox.sent(mail, now=moment, recipients=["ops@example.org"], refused={}, pause_ms=20_000)
    return told


def killed(store: Store, mail: Mail) -> None:
    """Nobody settles it."""


def partly(store: Store, mail: Mail) -> None:
    store.outbox.partly_sent(mail, now=DUE, recipients=["had@x.org"], remaining=["waits@x.org"], error="451")


def unclear(store: Store, mail: Mail) -> None:
    store.outbox.delayed(mail, now=DUE, error="lost", may_have_arrived=True)


def on_hold(store: Store, mail: Mail) -> None:
    store.outbox.delayed(mail, now=DUE, error="450", may_have_arrived=False)


@pytest.mark.parametrize("happens", [killed, partly, unclear, on_hold])
def test_a_recovery_never_overtakes_the_fall_of_its_target(
    store: Store, happens: Callable[[Store, Mail], None]
) -> None:
    targets = flip(store, "a")
    happens(store, claim(store))
    record(store, SETTINGS, targets, Verdict.UP, DUE + 1_000)
    record(store, SETTINGS, put(store, "http://other.example/"), Verdict.DOWN, DUE + 1_000)
    told = sequence(store, DUE + 1_000)
    assert [kind for name, kind in told if name == "a"] == ["down", "up"]
    assert ("other", "down") in told
    assert store.outbox.entries() == []


def test_while_the_fall_is_being_sent_the_recovery_is_looked_at_every_five_seconds_and_not_more_often(
    store: Store,
) -> None:
    targets = flip(store, "a")
    claim(store)
    record(store, SETTINGS, targets, Verdict.UP, DUE - WINDOW_MS)
    looks = [
        moment for moment in range(DUE, DUE + 60_000, 500) if store.outbox.is_due(now=moment) and look(store, moment)
    ]
    assert len(looks) == 12


def look(store: Store, moment: int) -> bool:
    assert store.outbox.claim("nothing", now=moment) is None
    return True


def test_what_comes_in_while_a_mail_is_on_its_way_follows_its_pace(store: Store) -> None:
    settings = settings_for("redis://unused", alert_group_wait=WINDOW_MS / 1000)
    first, second = put(store, "http://a.example/", "http://b.example/")
    record(store, settings, [first], Verdict.DOWN, DUE - WINDOW_MS - 10)
    mail = claim(store)
    record(store, settings, [second], Verdict.DOWN, DUE)
    store.outbox.sent(mail, now=DUE + 500, recipients=["x"], refused={}, pause_ms=20_000)
    assert store.outbox.claim("early", now=DUE + 20_000) is None
    assert names(claim(store, now=DUE + 20_500)) == ["b"]


def test_the_tenth_flip_is_told_after_the_ninth_when_they_are_due_together(
    store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.outbox.MAIL_SIZE", 1)
    settings = settings_for("redis://unused", flap_count=0)
    (watched,) = put(store, "http://a.example/")
    for number in range(1, 14):
        verdict = Verdict.UP if number % 2 else Verdict.DOWN
        record(store, settings, [watched], verdict, DUE - 30_000 + number)
    redis.zadd(keys.OUTBOX, {entry["id"]: DUE for entry in store.outbox.entries()})
    assert [kind for _, kind in sequence(store, DUE, seconds=2)] == ["down", "up"] * 6


# --- below a parent ------------------------------------------------------------------------------------------------


@pytest.fixture
def family(store: Store) -> tuple[Watched, Watched]:
    """A parent and its child, both up."""
    (parent,) = put(store, "http://parent.example/")
    (child,) = put(store, "http://child.example/", parent=parent.target.id)
    record(store, SETTINGS, [parent, child], Verdict.UP, 1_000)
    return parent, child


def test_a_child_that_fell_before_its_parent_is_told_when_the_parent_is_up_and_it_is_still_down(
    store: Store, family: tuple[Watched, Watched]
) -> None:
    parent, child = family
    record(store, SETTINGS, [child], Verdict.DOWN, DUE - 10_010)
    record(store, SETTINGS, [parent], Verdict.DOWN, DUE - 10_005)
    assert sequence(store, DUE, seconds=600) == [("parent", "down")]
    record(store, SETTINGS, [parent], Verdict.UP, DUE + 600_000)
    assert sequence(store, DUE + 601_000) == [("child", "down"), ("parent", "up")]
    record(store, SETTINGS, [child], Verdict.UP, DUE + 2_000_000)
    assert sequence(store, DUE + 2_000_000, seconds=60) == [("child", "up")]


def test_a_child_that_fell_before_its_parent_and_recovered_meanwhile_is_one_story(
    store: Store, family: tuple[Watched, Watched]
) -> None:
    parent, child = family
    record(store, SETTINGS, [child], Verdict.DOWN, DUE - 10_010)
    record(store, SETTINGS, [parent], Verdict.DOWN, DUE - 10_005)
    record(store, SETTINGS, [child], Verdict.UP, DUE + 60_000)
    assert sequence(store, DUE, seconds=600) == [("parent", "down")]
    record(store, SETTINGS, [parent], Verdict.UP, DUE + 600_000)
    assert sequence(store, DUE + 601_000) == [("child", "down"), ("child", "up"), ("parent", "up")]


def test_a_child_that_falls_while_its_parent_is_down_is_told_only_if_it_stays_down(
    store: Store, family: tuple[Watched, Watched]
) -> None:
    parent, child = family
    (other,) = put(store, "http://other.example/", parent=parent.target.id)
    record(store, SETTINGS, [parent], Verdict.DOWN, DUE)
    record(store, SETTINGS, [child, other], Verdict.DOWN, DUE + 1_000)
    record(store, SETTINGS, [parent, other], Verdict.UP, DUE + 60_000)
    assert sequence(store, DUE, seconds=120) == [("parent", "down"), ("parent", "up")]
    record(store, SETTINGS, [child], Verdict.DOWN, DUE + 120_000)
    assert sequence(store, DUE + 120_000) == [("child", "down")]


def test_a_recovery_whose_fall_was_told_is_told_while_the_parent_is_down(
    store: Store, family: tuple[Watched, Watched]
) -> None:
    parent, child = family
    record(store, SETTINGS, [child], Verdict.DOWN, DUE - 10_010)
    assert sequence(store, DUE, seconds=60) == [("child", "down")]
    record(store, SETTINGS, [parent], Verdict.DOWN, DUE + 60_000)
    record(store, SETTINGS, [child], Verdict.UP, DUE + 61_000)
    assert sequence(store, DUE + 61_000) == [("parent", "down"), ("child", "up")]


def test_children_are_told_when_their_parent_is_deleted(store: Store, family: tuple[Watched, Watched]) -> None:
    parent, child = family
    record(store, SETTINGS, [child, parent], Verdict.DOWN, DUE - 10_010)
    assert sequence(store, DUE, seconds=60) == [("parent", "down")]
    store.targets.delete(parent.target.id, now=DUE + 60_000)
    assert sequence(store, DUE + 60_000, seconds=10) == [("child", "down")]


def test_what_is_held_below_a_parent_is_looked_at_every_five_seconds_and_not_more_often(
    store: Store, family: tuple[Watched, Watched]
) -> None:
    parent, child = family
    record(store, SETTINGS, [child, parent], Verdict.DOWN, DUE - 10_010)
    store.outbox.sent(claim(store), now=DUE, recipients=["x"], refused={})
    moments = range(DUE + 100, DUE + 60_100, 500)
    assert len([moment for moment in moments if store.outbox.is_due(now=moment) and look(store, moment)]) == 11


# --- killed --------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_of_a_record_the_alert_is_in_both_boxes_or_in_none_and_the_next_turn_tells_it(
    redis: Redis, valkey_url: str
) -> None:
    outcomes = set()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store = Store(redis)
        targets = put(store, "http://a.example/", "http://b.example/")
        with suppress(Killed):
            record(Store(wire.client), BOTH_BOXES, targets, Verdict.DOWN, DUE)
        settle(redis, wire)
        counts = [box.counts().waiting for box in (store.outbox, store.notifications)]
        outcomes.add(tuple(counts))
        reminders = redis.zcard(keys.REMINDERS)
        assert reminders == counts[0]
        record(store, BOTH_BOXES, store.targets.load(each.target.id for each in targets), Verdict.DOWN, DUE + 300_000)
        assert [box.counts().waiting for box in (store.outbox, store.notifications)] == [2, 2]
    assert outcomes == {(0, 0), (2, 2)}


@pytest.mark.parametrize("deed", sorted(set(DEEDS) - {"claimed"}))
@pytest.mark.parametrize("name", ["outbox", "notifications"])
def test_killed_at_any_moment_of_a_settlement_it_is_done_or_the_mail_comes_again_as_it_was(
    redis: Redis, valkey_url: str, name: str, deed: str
) -> None:
    outcomes: set[tuple[str, ...]] = set()
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store, dying = Store(redis), Store(wire.client)
        record(store, BOTH_BOXES, put(store, "http://a.example/", "http://b.example/"), Verdict.DOWN, DUE - 10_010)
        box = getattr(store, name)
        mail = box.claim("mail-1", now=DUE)
        with suppress(Killed):
            DEEDS[deed](getattr(dying, name), mail)
        settle(redis, wire)
        again = box.claim("mail-2", now=DUE + LEASE_MS)
        places = sorted(entry["place"] for entry in box.entries())
        outcomes.add(("again" if again == mail else "new" if again else "none", *places))
        other = store.notifications if name == "outbox" else store.outbox
        assert other.counts().waiting == 2
    # What a kill leaves is the mail as it was, under its lease; what is done is one of the others.
    under_way: tuple[str, ...] = ("again", "sending", "sending")
    done: dict[str, set[tuple[str, ...]]] = {
        "sent": {("none",)},
        "refused": {("none", "dead", "dead")},
        "delayed": {("new", "sending", "sending")},
        "unclear": {under_way},
        "partly": {("new", "sending", "sending")},
    }
    assert outcomes == {under_way} | done[deed]


# --- how long it takes ---------------------------------------------------------------------------------------------


def test_the_delays_add_up(store: Store) -> None:
    assert store.outbox.delays() == ([(f"{bound:.1f}", 0) for bound in DELAY_BOUNDS] + [("+Inf", 0)], 0)
    for number, delay_ms in enumerate((400, 1_000, 1_001, 59_000, 100_000_000)):
        at = DUE + number * 1_000_000_000
        record(store, NO_WINDOW, put(store, f"http://{number}.example/"), Verdict.DOWN, at - 10)
        mail = claim(store, now=at + delay_ms)
        store.outbox.sent(mail, now=at + delay_ms, recipients=["x"], refused={})
    counts, sum_ms = store.outbox.delays()
    assert dict(counts) == {
        "1.0": 2,
        "2.0": 3,
        "5.0": 3,
        "10.0": 3,
        "20.0": 3,
        "30.0": 3,
        "60.0": 4,
        "120.0": 4,
        "300.0": 4,
        "900.0": 4,
        "3600.0": 4,
        "86400.0": 4,
        "+Inf": 5,
    }
    assert sum_ms == 400 + 1_000 + 1_001 + 59_000 + 100_000_000


NO_WINDOW = settings_for("redis://unused", alert_group_wait=0)


def test_since_when_nothing_gets_through_is_known_until_something_does(store: Store) -> None:
    flip(store, "a", "b")
    assert store.outbox.counts().failing_since is None
    now = DUE
    for _ in range(4):
        now = store.outbox.delayed(claim(store, now=now), now=now, error="lost", may_have_arrived=True)
        assert store.outbox.counts().failing_since == DUE
    store.outbox.sent(claim(store, now=now), now=now, recipients=["x"], refused={})
    assert store.outbox.counts().failing_since is None


def test_a_mail_whose_jobs_die_again_and_again_does_not_get_through(store: Store) -> None:
    flip(store, "a")
    claim(store)
    assert store.outbox.counts().failing_since is None
    claim(store, now=DUE + LEASE_MS)
    assert store.outbox.counts().failing_since == DUE


def test_a_mailbox_that_is_full_does_not_count_as_mails_that_do_not_get_through(store: Store) -> None:
    flip(store, "a")
    until = store.outbox.partly_sent(claim(store), now=DUE, recipients=["x"], remaining=["full"], error="452")
    for _ in range(3):
        again = claim(store, now=until)
        until = store.outbox.delayed(again, now=until, error="452", may_have_arrived=False)
    assert store.outbox.counts().failing_since is None
