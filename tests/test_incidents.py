"""Incidents in the store: read, paged and acknowledged, by whoever comes first and long after they are gone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis import Redis

from shared.monitor import Verdict
from shared.store import Incident, IncidentPage, Place, Store
from tests.fakes import put, record, settings_for
from tests.incidents import (
    BEGAN,
    EVIDENCE,
    TARGET,
    alert,
    close_incident,
    closed_incident,
    expire,
    open_incident,
    tell,
)

OTHER = "f" * 16
NOW = BEGAN + 90_000


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def get(store: Store, incident_id: str) -> Incident:
    found = store.incidents.get(incident_id)
    assert found is not None
    return found


def ids(page: IncidentPage) -> list[str]:
    return [each.id for each in page.incidents]


def walk(store: Store, **asked: Any) -> list[str]:
    """The ids of all pages, one after the other."""
    found: list[str] = []
    before: Place | None = None
    while True:
        page = store.incidents.page(before=before, **asked)
        found += ids(page)
        if page.next is None:
            return found
        before = page.next


# --- one of them ---------------------------------------------------------------------------------------------------


def test_an_incident_is_read_with_everything_that_is_known(store: Store, redis: Redis) -> None:
    found = get(store, open_incident(redis))
    assert (found.id, found.target_id, found.title, found.endpoint, found.name) == (
        f"{TARGET}-1",
        TARGET,
        "Shop",
        "https://shop.example/",
        "Shop",
    )
    assert (found.opened_at, found.detected_at, found.confirmed_at) == (BEGAN, BEGAN + 150, BEGAN + 1_250)
    assert (found.closed_at, found.flapping_at, found.is_open, found.is_deleted) == (None, None, True, False)
    assert (found.reason, found.sentence, found.by) == ("status", "The status code was 503 and not 200.", "w2")
    assert found.opinion is not None
    assert found.opinion["by"] == "w1"
    assert found.evidence == EVIDENCE
    assert found.opened is not None
    assert found.opened["kind"] == "down"
    assert (found.acknowledged, found.closed, found.notifications) == (None, None, ())


def test_an_open_incident_lasts_until_now_and_a_closed_one_no_longer(store: Store, redis: Redis) -> None:
    incident_id = open_incident(redis)
    assert get(store, incident_id).duration_ms(NOW) == 90_000
    assert get(store, incident_id).duration_ms(BEGAN - 5) == 0, "a clock that went back"
    close_incident(redis, incident_id, at=BEGAN + 60_000)
    assert get(store, incident_id).duration_ms(NOW) == 60_000
    assert not get(store, incident_id).is_open


def test_an_incident_of_an_earlier_version_is_told_from_its_alert(store: Store, redis: Redis) -> None:
    opened = alert("old-3", 3, "down", BEGAN + 1_000)
    redis.hset("monitor:incident:old-3", mapping={"target": "old", "opened_at": BEGAN})
    assert get(store, "old-3").name == "old"
    redis.hset("monitor:incident:old-3", "opened", orjson.dumps(opened))
    found = get(store, "old-3")
    assert (found.title, found.endpoint, found.sentence) == ("Shop", "https://shop.example/", opened["sentence"])
    assert (found.confirmed_at, found.detected_at) == (BEGAN + 1_000, None)
    assert (found.opinion, found.evidence, found.notifications) == (None, None, ())


def test_an_empty_title_is_none_even_where_the_alert_had_one(store: Store, redis: Redis) -> None:
    assert get(store, open_incident(redis, title="")).title is None


def test_an_incident_whose_beginning_was_lost_with_redis_is_told_from_its_end(store: Store, redis: Redis) -> None:
    closed_incident(redis)
    redis.hdel(f"monitor:incident:{TARGET}-1", "opened_at", "opened", "title")
    assert (get(store, f"{TARGET}-1").opened_at, get(store, f"{TARGET}-1").title) == (BEGAN, "Shop")


def test_what_is_left_of_an_incident_that_never_was_is_none(store: Store, redis: Redis) -> None:
    assert store.incidents.get("x") is None
    redis.hset("monitor:incident:x", mapping={"closed_at": BEGAN, "deleted": 1})
    assert store.incidents.get("x") is None


def test_notifications_tell_their_channel_kind_and_fate_oldest_first(store: Store, redis: Redis) -> None:
    incident_id = open_incident(redis)
    down, reminder, up = incident_id, f"{TARGET}-1-r1", f"{TARGET}-2"
    close_incident(redis, incident_id, at=NOW)
    tell(redis, incident_id, up, "delayed", kind="up", at=NOW + 2, error="no route", next_at=NOW + 5_000, recipients=[])
    tell(redis, incident_id, f"webhook:{down}", "given_up", at=BEGAN + 5, error="HTTP 500")
    tell(redis, incident_id, down, at=BEGAN + 3, refused={"old@example.org": "no such user"})
    tell(redis, incident_id, reminder, kind="reminder", at=NOW)
    told = get(store, incident_id).notifications
    assert [(each.alert, each.channel, each.kind, each.fate) for each in told] == [
        (down, "mail", "down", "sent"),
        (down, "webhook", "down", "given_up"),
        (reminder, "mail", "reminder", "sent"),
        (up, "mail", "up", "delayed"),
    ]
    assert (told[0].recipients, told[0].refused) == (("ops@example.org",), {"old@example.org": "no such user"})
    assert (told[3].error, told[3].next_at, told[3].recipients) == ("no route", NOW + 5_000, ())


# --- pages ---------------------------------------------------------------------------------------------------------


def test_the_newest_come_first_and_evidence_stays_behind(store: Store, redis: Redis) -> None:
    for number, at in ((1, BEGAN), (2, BEGAN + 20), (3, BEGAN + 10)):
        tell(redis, open_incident(redis, number, at=at), f"{TARGET}-{number}")
    page = store.incidents.page()
    assert ids(page) == [f"{TARGET}-2", f"{TARGET}-3", f"{TARGET}-1"]
    assert (page.total, page.next) == (3, None)
    assert {(each.evidence, each.opinion, each.notifications) for each in page.incidents} == {(None, None, ())}


def test_pages_follow_each_other_without_loss_where_all_began_at_once(store: Store, redis: Redis) -> None:
    made = [open_incident(redis, number, at=BEGAN) for number in range(1, 26)]
    made += [open_incident(redis, number, at=BEGAN + number) for number in range(30, 35)]
    for limit in (1, 4, 10, 30):
        seen = walk(store, limit=limit)
        assert len(seen) == 30
        assert set(seen) == set(made)


def test_a_page_continues_behind_an_incident_that_has_expired_meanwhile(store: Store, redis: Redis) -> None:
    made = sorted((closed_incident(redis, number, at=BEGAN) for number in range(1, 7)), reverse=True)
    first = store.incidents.page(limit=3)
    expire(redis, made[2])
    store.incidents.page()
    assert redis.zscore("monitor:incidents", made[2]) is None
    assert ids(store.incidents.page(before=first.next, limit=3)) == made[3:]


def test_pages_follow_the_index_where_an_incident_tells_an_earlier_beginning(store: Store, redis: Redis) -> None:
    made = [open_incident(redis, number, at=BEGAN + 10 * number) for number in range(1, 10)]
    for number, incident_id in enumerate(made):
        redis.hset(f"monitor:incident:{incident_id}", "opened_at", BEGAN - 1_000 * number)
    assert walk(store, limit=2) == made[::-1]


def test_it_flaps_until_it_is_calm_or_over(store: Store, redis: Redis) -> None:
    incident_id = open_incident(redis)
    assert not get(store, incident_id).is_flapping
    for name, at, is_flapping in (("flapping_at", 5, True), ("calm_at", 9, False), ("flapping_at", 11, True)):
        redis.hset(f"monitor:incident:{incident_id}", name, at)
        assert get(store, incident_id).is_flapping is is_flapping
    close_incident(redis, incident_id, at=NOW)
    assert not get(store, incident_id).is_flapping


def test_open_ones_closed_ones_and_those_of_a_target_are_told_apart(store: Store, redis: Redis) -> None:
    was, over = closed_incident(redis, 1), closed_incident(redis, 1, target=OTHER, at=BEGAN + 1)
    lasts = open_incident(redis, 3, at=BEGAN + 2)
    page = store.incidents.page
    assert (ids(page(open=True)), page(open=True).total) == ([lasts], 1)
    assert (ids(page(open=False)), page(open=False).total) == ([over, was], 2)
    assert (ids(page(target_id=TARGET)), page(target_id=TARGET).total) == ([lasts, was], 2)
    assert (ids(page(target_id=TARGET, open=False)), page(target_id=TARGET, open=False).total) == ([was], None)
    assert ids(page(target_id=OTHER, open=True)) == []
    assert ids(page(target_id="nobody")) == []


def test_closed_ones_behind_many_open_ones_fill_their_page(store: Store, redis: Redis) -> None:
    over = [closed_incident(redis, number, at=BEGAN + number) for number in range(1, 4)]
    for number in range(1, 30):
        open_incident(redis, number, target=OTHER, at=BEGAN + 100 + number)
    assert walk(store, open=False, limit=2) == over[::-1]


def test_times_include_the_first_and_exclude_the_last(store: Store, redis: Redis) -> None:
    made = {at: open_incident(redis, at, at=BEGAN + at) for at in range(1, 6)}
    page = store.incidents.page(since=BEGAN + 2, until=BEGAN + 4)
    assert (ids(page), page.total) == ([made[3], made[2]], 2)
    assert walk(store, since=BEGAN + 2, until=BEGAN + 4, limit=1) == [made[3], made[2]]
    assert ids(store.incidents.page(until=BEGAN + 4, before=(BEGAN + 9, "x"))) == [made[3], made[2], made[1]]
    assert ids(store.incidents.page(since=BEGAN + 4, before=(BEGAN + 3, "x"))) == []


def test_what_has_expired_is_neither_shown_nor_kept_in_any_index(store: Store, redis: Redis) -> None:
    gone, there = closed_incident(redis, 1), closed_incident(redis, 2, at=BEGAN + 1)
    redis.zadd("monitor:incidents:open", {gone: BEGAN})
    redis.zadd("monitor:reminders", {gone: BEGAN})
    expire(redis, gone)
    page = store.incidents.page()
    assert (ids(page), page.total) == ([there], 1)
    assert redis.zrange("monitor:incidents", 0, -1) == [there.encode()]
    assert redis.zrange(f"monitor:incidents:of:{TARGET}", 0, -1) == [there.encode()]
    assert not redis.exists("monitor:incidents:open", "monitor:reminders")


def test_one_page_looks_at_so_many_of_the_oldest_only(store: Store, redis: Redis) -> None:
    for number in range(1, 121):
        expire(redis, closed_incident(redis, number, at=BEGAN + number))
    newest = open_incident(redis, 500, at=BEGAN + 500)
    assert ids(store.incidents.page(since=BEGAN + 400)) == [newest]
    assert redis.zcard("monitor:incidents") == 121 - 50


# --- acknowledging -------------------------------------------------------------------------------------------------


def test_acknowledging_says_who_and_ends_the_reminders(store: Store, redis: Redis) -> None:
    incident_id, other = open_incident(redis), open_incident(redis, target=OTHER)
    answer = store.incidents.acknowledge(incident_id, by="Ada", note="I am on it.", now=NOW)
    assert answer == get(store, incident_id)
    assert answer is not None
    assert answer.acknowledged is not None
    assert (answer.acknowledged.by, answer.acknowledged.note, answer.acknowledged.at) == ("Ada", "I am on it.", NOW)
    assert redis.zrange("monitor:reminders", 0, -1) == [other.encode()]
    (event,) = store.events.read("0-0", block_ms=0)
    assert (event.type, event.target) == ("incident_acknowledged", TARGET)
    assert event.data == {"incident": incident_id, "by": "Ada", "note": "I am on it.", "at": NOW}


def test_a_second_acknowledgement_replaces_the_first(store: Store, redis: Redis) -> None:
    incident_id = open_incident(redis)
    store.incidents.acknowledge(incident_id, by="Ada", note="I am on it.", now=NOW)
    store.incidents.acknowledge(incident_id, by="Grace", note=None, now=NOW + 1)
    acknowledged = get(store, incident_id).acknowledged
    assert acknowledged is not None
    assert (acknowledged.by, acknowledged.note, acknowledged.at) == ("Grace", None, NOW + 1)


def test_what_is_over_or_unknown_is_not_acknowledged(store: Store, redis: Redis) -> None:
    over = closed_incident(redis)
    for incident_id in (over, "unknown"):
        assert store.incidents.acknowledge(incident_id, by="Ada", note=None, now=NOW) is None
    assert get(store, over).acknowledged is None
    assert not redis.exists("monitor:incident:unknown", "monitor:events")


# --- the secret of links -------------------------------------------------------------------------------------------


def test_the_secret_of_links_is_made_once_for_all(store: Store, redis: Redis, valkey_url: str) -> None:
    secret = store.link_secret()
    with Redis.from_url(valkey_url) as another:
        assert Store(another).link_secret() == store.link_secret() == secret
    assert len(secret) == 32
    redis.delete("monitor:secret")
    assert store.link_secret() != secret


def test_an_alert_that_waits_is_among_the_notifications_of_its_incident(store: Store) -> None:
    settings = settings_for("redis://unused", alert_group_wait=10, webhook_url="https://hook.example/")
    (watched,) = put(store, "http://a.example/")
    record(store, settings, [watched], Verdict.DOWN, 1_000)
    (incident,) = store.incidents.page(open=True, limit=1).incidents
    told = get(store, incident.id).notifications
    assert {(each.channel, each.kind, each.fate, each.next_at) for each in told} == {
        ("mail", "down", "waiting", 11_010),
        ("notifications", "down", "waiting", 11_010),
    }
