"""The outbox: who takes which alerts, what becomes of a mail, and that none of it is lost or sent by two at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import orjson
import pytest
from redis import Redis

from shared.monitor import Verdict
from shared.store import Mail, Store, Watched
from shared.store.outbox import LEASE_MS, LONGEST_WAIT_MS, MAIL_SIZE
from tests.fakes import Killed, Wire, everywhere, put, record, settings_for, settle

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
    incident = store.recording.incident(alert_id)
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


def test_a_mail_holds_a_thousand_alerts_and_the_rest_is_the_next_mail(store: Store) -> None:
    flip(store, *[f"n{number}" for number in range(MAIL_SIZE + 3)])
    assert len(claim(store, "mail-1").alerts) == MAIL_SIZE
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

    assert store.outbox.entries() == []
    assert not redis.exists("monitor:outbox", "monitor:outbox:sending", "monitor:outbox:hold")
    assert not list(redis.scan_iter("monitor:outbox:entry:*"))
    assert fate(store, mail.entries[0]) == {
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
    assert store.recording.incident(mail.entries[0]) is None


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
    assert fate(store, entry["id"]) == {"fate": "refused", "at": DUE, "error": "550 no such user"}
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
