"""The way of an alert from the outbox to the mail server, killed and cut off at every point of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import signals
from shared.monitor import Verdict
from shared.settings import Settings
from shared.store import Store, Watched, keys
from shared.store.outbox import LEASE_MS, LONGEST_WAIT_MS
from tests.fakes import FakeMailer, Killed, Wire, everywhere, lose_the_connection, put, record, settings_for, settle
from worker import delivery
from worker.delivery import Delivery
from worker.mailer import MailDelayed, MailRefused, Sent

SENT_TO_ALL = Sent(("ops@example.org", "late@example.org"))
SENT_TO_SOME = Sent(("ops@example.org",), {"late@example.org": "450 later"})
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SETTINGS = settings_for("unix:///nowhere", alert_group_wait=0)


class Clock:
    """The clock of deliver jobs, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivery, "_now", lambda: clock.now)
    return clock


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


def fall(store: Store, clock: Clock, *names: str, settings: Settings = SETTINGS) -> list[Watched]:
    """These targets go down now, one a millisecond; they owe one alert each, due at once."""
    targets = put(store, *(f"http://{name}.example/" for name in names))
    for number, watched in enumerate(targets):
        record(store, settings, [watched], Verdict.DOWN, clock.now + number)
    clock.now += len(names) + 10
    return targets


def deliver(store: Store, mailer: FakeMailer) -> None:
    Delivery(store, mailer, SETTINGS).deliver_all()


def place_of_alerts(store: Store) -> dict[str, str]:
    return {entry["id"]: entry["place"] for entry in store.outbox.entries()}


def told(store: Store, target: Watched) -> dict[str, Any]:
    """What its incident remembers of the mail."""
    incident = store.recording.incident(f"{target.target.id}-1") or {}
    found: dict[str, Any] = orjson.loads(incident[f"told:{target.target.id}-1"])
    return found


# --- what goes well ------------------------------------------------------------------------------------------------


def test_all_that_is_due_is_one_mail_with_the_alerts_in_order_of_time(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    targets = fall(store, clock, *"hgfedcba")
    deliver(store, mailer)
    ((mail_id, alerts),) = mailer.taken
    assert alerts == tuple(f"{watched.target.id}-1" for watched in targets)
    assert not place_of_alerts(store)
    for target in targets:
        fate = told(store, target)
        assert (fate["fate"], fate["mail"], fate["recipients"]) == ("sent", mail_id, ["ops@example.org"])


def test_with_nothing_due_nobody_is_asked(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    fall(store, clock, "a", settings=settings_for("unix:///nowhere", alert_group_wait=10))
    deliver(store, mailer)
    assert not mailer.taken
    clock.now += 10_000
    deliver(store, mailer)
    assert len(mailer.taken) == 1


def test_an_alert_in_its_grouping_window_goes_along_with_one_that_is_due(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    slow = settings_for("unix:///nowhere", alert_group_wait=10)
    fall(store, clock, "a", settings=slow)
    clock.now += 9_000
    fall(store, clock, "b", settings=slow)
    clock.now += 1_500
    deliver(store, mailer)
    assert [len(alerts) for _, alerts in mailer.taken] == [2]


def test_more_alerts_than_a_mail_may_hold_are_several_mails_and_each_is_in_one(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.outbox.MAIL_SIZE", 3)
    mailer = FakeMailer()
    targets = fall(store, clock, *"abcdefgh")
    deliver(store, mailer)
    assert [len(alerts) for _, alerts in mailer.taken] == [3, 3, 2]
    assert len({mail_id for mail_id, _ in mailer.taken}) == 3
    assert [each for _, alerts in mailer.taken for each in alerts] == [f"{each.target.id}-1" for each in targets]


def test_a_sent_mail_is_an_event_and_a_signal(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    (target,) = fall(store, clock, "a")
    heard: list[dict[str, Any]] = []

    def hear(_sender: object, **about: object) -> None:
        heard.append(about)

    with signals.alert_mailed.connected_to(hear):
        deliver(store, mailer)
    mail_id = mailer.taken[0][0]
    about = {"alert_ids": [f"{target.target.id}-1"], "mail_id": mail_id}
    assert heard == [about]
    event = store.events.read("0-0", block_ms=0)[-1]
    assert (event.type, event.target, event.data) == ("alert_mailed", None, about)


def test_a_report_tells_what_is_down_now_and_does_not_take_alerts_along(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    down, _other = put(store, "http://a.example/", "http://b.example/")
    record(store, SETTINGS, [down], Verdict.DOWN, clock.now)
    clock.now += 100
    store.outbox.request_report(now=clock.now)
    store.outbox.request_report(now=clock.now + 1)
    clock.now += 100
    deliver(store, mailer)
    assert [len(alerts) for _, alerts in mailer.taken] == [1]
    ((_, report),) = mailer.reports
    assert (report.targets, report.down_in_all) == (2, 1)
    assert [alert.target_id for alert in report.down] == [down.target.id]


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_after_a_failure_that_surely_delivered_nothing_newer_alerts_join(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(MailDelayed("450 later"))
    old = fall(store, clock, "a", "b")
    deliver(store, mailer)
    assert not mailer.taken
    assert told(store, old[0])["fate"] == "delayed"
    new = fall(store, clock, "c")
    deliver(store, mailer)
    assert not mailer.taken, "it did not wait"
    clock.now += 6_000
    deliver(store, mailer)
    ((_, alerts),) = mailer.taken
    assert alerts == tuple(f"{each.target.id}-1" for each in old + new)


def test_a_mail_that_may_have_arrived_is_sent_again_as_it_is(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(MailDelayed("the line dropped", may_have_arrived=True))
    tried: list[str] = []
    mailer.before_taking = lambda: tried.append(mail_of(store))
    old = fall(store, clock, "a", "b")
    deliver(store, mailer)
    new = fall(store, clock, "c")
    clock.now += 6_000
    deliver(store, mailer)
    (again, first_alerts), (other, later_alerts) = mailer.taken
    assert first_alerts == tuple(f"{each.target.id}-1" for each in old)
    assert later_alerts == tuple(f"{each.target.id}-1" for each in new)
    assert tried[0] == again != other


def mail_of(store: Store) -> str:
    """The mail that the oldest alert under way was put into."""
    redis: Any = store.redis
    (raw,) = redis.zrange(keys.SENDING, 0, 0)
    mail: bytes = redis.hget(keys.outbox_entry(raw.decode()), "mail")
    return mail.decode()


def test_a_refused_mail_is_a_dead_letter_that_can_be_sent_again_and_stops_no_other(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(MailRefused("550 never"))
    (refused,) = fall(store, clock, "a")
    deliver(store, mailer)
    alert = f"{refused.target.id}-1"
    assert place_of_alerts(store) == {alert: "dead"}
    assert store.outbox.entries()[0]["error"] == "550 never"
    assert told(store, refused)["fate"] == "refused"
    fall(store, clock, "b")
    deliver(store, mailer)
    assert len(mailer.taken) == 1
    assert store.outbox.revive(alert, now=clock.now)
    assert not store.outbox.revive(alert, now=clock.now)
    deliver(store, mailer)
    assert mailer.taken[1][1] == (alert,)
    assert not place_of_alerts(store)
    assert told(store, refused)["fate"] == "sent"


@pytest.mark.parametrize("may_have_arrived", [False, True])
def test_a_server_that_never_answers_is_tried_for_three_days_and_then_the_alert_is_a_dead_letter(
    store: Store, clock: Clock, may_have_arrived: bool
) -> None:
    mailer = FakeMailer(*(MailDelayed("no answer", may_have_arrived=may_have_arrived) for _ in range(1000)))
    began = clock.now
    (target,) = fall(store, clock, "a")
    tries, waits = 0, []
    while (left := len(mailer.outcomes)) and store.outbox.counts().dead == 0:
        deliver(store, mailer)
        tries += left - len(mailer.outcomes)
        until = int(store.redis.hget(keys.HOLD, "until") or 0)
        waits.append(until - clock.now)
        clock.now = until
    assert waits[:9] == [5_000 * 2**number for number in range(8)] + [LONGEST_WAIT_MS]
    assert tries == len(waits)
    assert 3 * DAY_MS < clock.now - began < 3 * DAY_MS + HOUR_MS
    fate = told(store, target)
    assert (fate["fate"], "next_at" in fate) == ("given_up", False)


def test_recipients_that_a_server_delayed_get_the_same_mail_later_alone(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(SENT_TO_SOME, MailDelayed("450 later still"))
    old = fall(store, clock, "a", "b")
    deliver(store, mailer)
    new = fall(store, clock, "c")
    for _ in range(3):
        clock.now += 15_000
        deliver(store, mailer)
    assert mailer.asked == [None, ("late@example.org",), ("late@example.org",), None]
    first, again, other = mailer.taken
    assert first == again
    assert first[1] == tuple(f"{each.target.id}-1" for each in old)
    assert other[1] == tuple(f"{each.target.id}-1" for each in new)
    assert not place_of_alerts(store)


def test_a_fault_of_ours_leaves_the_job_and_the_mail_waits_before_it_is_tried_again(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(ZeroDivisionError("a bug"))
    fall(store, clock, "a")
    with pytest.raises(ZeroDivisionError):
        deliver(store, mailer)
    assert not store.outbox.is_due(now=clock.now)
    clock.now += 5_000
    deliver(store, mailer)
    assert len(mailer.taken) == 1


@pytest.mark.parametrize("is_under_way", [False, True])
def test_an_alert_without_its_text_keeps_no_other_from_being_sent(
    store: Store, clock: Clock, is_under_way: bool
) -> None:
    mailer = FakeMailer()
    lost, *_ = fall(store, clock, "a")
    if is_under_way:
        store.outbox.claim("mail", now=clock.now)
        clock.now += LEASE_MS
    store.redis.delete(keys.outbox_entry(f"{lost.target.id}-1"))
    deliver(store, mailer)
    (kept,) = fall(store, clock, "b")
    deliver(store, mailer)
    assert [alerts for _, alerts in mailer.taken] == [(f"{kept.target.id}-1",)]
    assert not mailer.reports
    assert not place_of_alerts(store)


# --- killed, cut off, at once --------------------------------------------------------------------------------------


def go_through(
    redis: Redis, clock: Clock, wire: Wire, *, before: Callable[[FakeMailer], None] = lambda mailer: None
) -> tuple[FakeMailer, list[Watched]]:
    """One run on the wire, which may die; then, when its lease is over, another in good order."""
    store, mailer = Store(redis), FakeMailer()
    before(mailer)
    targets = fall(store, clock, "a", "b", "c")
    with suppress(Killed, Exception):
        deliver(Store(wire.client), mailer)
    settle(redis, wire)
    clock.now += LEASE_MS + 1
    mailer.before_taking = mailer.after_taking = lambda: None
    deliver(store, mailer)
    return mailer, targets


@pytest.mark.parametrize("happening", [Wire.kill, lose_the_connection], ids=["killed", "cut off"])
def test_at_any_send_no_alert_is_lost_and_it_comes_twice_only_between_the_servers_yes_and_the_mark(
    redis: Redis, valkey_url: str, clock: Clock, happening: Callable[[Wire], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    doubled = []
    for wire in everywhere(valkey_url, redis, happening):
        taken_at: list[int] = []

        def note(mailer: FakeMailer, wire: Wire = wire, taken_at: list[int] = taken_at) -> None:
            mailer.after_taking = lambda: taken_at.append(wire.sends)

        mailer, targets = go_through(redis, clock, wire, before=note)
        expected = tuple(f"{each.target.id}-1" for each in targets)
        assert {alerts for _, alerts in mailer.taken} == {expected}, wire.moment
        assert len({mail_id for mail_id, _ in mailer.taken}) == 1, wire.moment
        assert not place_of_alerts(Store(redis))
        if len(mailer.taken) > 1:
            assert wire.moment is not None
            doubled.append((wire.moment.number - taken_at[0], wire.moment.place))
    if happening is Wire.kill:
        # The send of the mark itself: before it, and amid it; the server's part is done, ours is not.
        assert doubled == [(0, "before"), (0, "amid")]
    else:
        assert not doubled


@pytest.mark.parametrize("point", ["before_taking", "after_taking"])
def test_killed_around_the_server_the_same_mail_is_sent_again(
    redis: Redis, valkey_url: str, clock: Clock, point: str
) -> None:
    def die() -> None:
        raise Killed

    wire = Wire.untouched(valkey_url)
    mailer, targets = go_through(redis, clock, wire, before=lambda mailer: setattr(mailer, point, die))
    counts = Counter(mailer.taken)
    assert len(counts) == 1
    assert set(counts.values()) == {2 if point == "after_taking" else 1}
    assert mailer.taken[0][1] == tuple(f"{each.target.id}-1" for each in targets)


def test_a_run_whose_lease_was_taken_over_does_not_settle_what_another_has_settled(store: Store, clock: Clock) -> None:
    fall(store, clock, "a")
    slow = store.outbox.claim("slow", now=clock.now)
    assert slow is not None
    clock.now += LEASE_MS
    mailer = FakeMailer()
    deliver(store, mailer)
    fall(store, clock, "b")
    store.outbox.delayed(slow, now=clock.now, error="too late", may_have_arrived=False)
    assert len(place_of_alerts(store)) == 1
    clock.now += 6_000
    deliver(store, mailer)
    assert [len(alerts) for _, alerts in mailer.taken] == [1, 1]


def test_eight_at_once_put_each_alert_into_exactly_one_mail(redis: Redis, valkey_url: str, clock: Clock) -> None:
    store, mailers = Store(redis), [FakeMailer() for _ in range(8)]
    alerts: list[str] = []
    barrier = threading.Barrier(9, timeout=20)

    def work(mailer: FakeMailer) -> None:
        with Redis.from_url(valkey_url) as client:
            own = Store(client)
            barrier.wait()
            for _ in range(20):
                deliver(own, mailer)

    threads = [threading.Thread(target=work, args=(mailer,), daemon=True) for mailer in mailers]
    for thread in threads:
        thread.start()
    targets = put(store, *(f"http://{number}.example/" for number in range(100)))
    barrier.wait()
    for watched in targets:
        record(store, SETTINGS, [watched], Verdict.DOWN, clock.now - 1000)
        alerts.append(f"{watched.target.id}-1")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    deliver(store, mailers[0])
    counts = Counter(alert for mailer in mailers for _, inside in mailer.taken for alert in inside)
    assert counts == Counter(alerts)
    assert sum(bool(mailer.taken) for mailer in mailers) > 1


@pytest.mark.parametrize("mark", ["sent", "partly_sent"])
def test_a_mark_that_redis_does_not_answer_is_tried_again_until_it_does(
    store: Store, clock: Clock, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the mail: giving up now would mean a second one."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    mailer = FakeMailer(SENT_TO_ALL if mark == "sent" else SENT_TO_SOME)
    fall(store, clock, "a")
    troubles: list[Exception] = [RedisConnectionError("away"), RedisTimeoutError("hangs")]
    real = getattr(store.outbox, mark)

    def marked(*arguments: Any, **named: Any) -> None:
        if troubles:
            raise troubles.pop()
        real(*arguments, **named)

    monkeypatch.setattr(store.outbox, mark, marked)
    deliver(store, mailer)
    assert not troubles
    assert len(mailer.taken) == 1
    clock.now += 6_000
    deliver(store, mailer)
    assert mailer.asked == [None] if mark == "sent" else [None, ("late@example.org",)]
    assert not place_of_alerts(store)
