"""The way of an alert from the outbox to the mail server, killed and cut off at every point of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import signals
from shared.monitor import Alert, Verdict
from shared.settings import Settings
from shared.store import Store, Watched, keys
from shared.store.outbox import LEASE_MS, LONGEST_WAIT_MS
from tests.fakes import (
    FakeMailer,
    Killed,
    Wire,
    everywhere,
    incident_fields,
    lose_the_connection,
    put,
    record,
    settings_for,
    settle,
)
from worker.alerts import delivery
from worker.alerts.delivery import Delivery, MailDelivery
from worker.alerts.mailer import MailDelayed, MailRefused, Sent

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
    MailDelivery(store, mailer, SETTINGS).deliver_all()


def place_of_alerts(store: Store) -> dict[str, str]:
    return {entry["id"]: entry["place"] for entry in store.outbox.entries()}


def told(store: Store, target: Watched) -> dict[str, Any]:
    """What its incident remembers of the mail."""
    incident = incident_fields(store, f"{target.target.id}-1") or {}
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
    (raw,) = redis.zrange(keys.sending(keys.OUTBOX), 0, 0)
    mail: bytes = redis.hget(keys.outbox_entry(keys.OUTBOX, raw.decode()), "mail")
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
        until = int(store.redis.hget(keys.hold(keys.OUTBOX), "until") or 0)
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
    store.redis.delete(keys.outbox_entry(keys.OUTBOX, f"{lost.target.id}-1"))
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


# --- audiences, pace -----------------------------------------------------------------------------------------------

TEAM = "team@example.org"
PACED = settings_for(
    "unix:///nowhere",
    alert_group_wait=10,
    mail_recipients=("ops@example.org", "boss@example.org"),
    webhook_url="https://hook.example/",
)


def deliver_both(store: Store, mailer: FakeMailer, notifier: FakeMailer, settings: Settings = PACED) -> None:
    MailDelivery(store, mailer, settings).deliver_all()
    Delivery(store, store.notifications, notifier, settings).deliver_all()


def test_those_of_the_settings_get_each_alert_once_and_those_of_a_target_only_its_own(
    store: Store, clock: Clock
) -> None:
    mailer, notifier = FakeMailer(), FakeMailer()
    plain = put(store, "http://a.example/", "http://b.example/")
    own = put(store, "http://c.example/", recipients=(TEAM, "boss@example.org"))
    record(store, PACED, [*plain, *own], Verdict.DOWN, clock.now)
    clock.now += 10_010
    deliver_both(store, mailer, notifier)
    got: dict[str, list[str]] = {}
    for asked, (_, alerts) in zip(mailer.asked, mailer.taken, strict=True):
        for who in asked or PACED.mail_recipients:
            got.setdefault(who, []).extend(alerts)
    every, theirs = {f"{each.target.id}-1" for each in (*plain, *own)}, [f"{own[0].target.id}-1"]
    assert got.keys() == {"ops@example.org", "boss@example.org", TEAM}
    assert len(got["ops@example.org"]) == len(got["boss@example.org"]) == 3
    assert set(got["ops@example.org"]) == set(got["boss@example.org"]) == every
    assert got[TEAM] == theirs
    ((_, notified),) = notifier.taken
    assert set(notified) == every


def storm(
    store: Store, clock: Clock, targets: list[Watched], verdict: Verdict, *, seconds: int = 60, calm: int = 120
) -> tuple[Counter[tuple[str, ...] | None], int, int]:
    """These targets change within so many seconds; mails for each set of recipients, notifications, longest wait (s).

    A deliver job runs each second, until some time after that. Each alert is told once to those of the settings, once
    to those of its target, if it has any, and once to the channels.
    """
    mailer, notifier = FakeMailer(), FakeMailer()
    changed_at: dict[str, int] = {}
    waits = []
    for second in range(seconds + calm):
        now = (
            targets[len(targets) * second // seconds : len(targets) * (second + 1) // seconds]
            if second < seconds
            else []
        )
        record(store, PACED, now, verdict, clock.now)
        changed_at |= {each.target.id: clock.now for each in now}
        before = len(mailer.taken)
        deliver_both(store, mailer, notifier)
        waits += [
            clock.now - changed_at[alert.rpartition("-")[0]] for _, inside in mailer.taken[before:] for alert in inside
        ]
        clock.now += 1_000
    own = sum(bool(each.target.check.recipients) for each in targets)
    for told, asked, count in ((mailer, None, len(targets)), (mailer, (TEAM,), own), (notifier, None, len(targets))):
        mails = [inside for who, (_, inside) in zip(told.asked, told.taken, strict=True) if who == asked]
        alerts = [alert for inside in mails for alert in inside]
        assert len(alerts) == len(set(alerts)) == count
    return Counter(mailer.asked), len(notifier.taken), max(waits) // 1000


def of_two_audiences(store: Store, count: int) -> list[Watched]:
    plain = put(store, *(f"http://plain.example/{number}" for number in range(count // 2)))
    own = put(store, *(f"http://own.example/{number}" for number in range(count // 2)), recipients=(TEAM,))
    return [each for pair in zip(plain, own, strict=True) for each in pair]


def test_an_outage_that_is_found_in_75_seconds_is_one_mail_to_each_set_of_recipients_and_so_is_the_recovery(
    store: Store, clock: Clock
) -> None:
    targets = of_two_audiences(store, 1000)
    for verdict, seconds in ((Verdict.DOWN, 75), (Verdict.UP, 45), (Verdict.DOWN, 75)):
        mails, notifications, longest_wait = storm(store, clock, targets, verdict, seconds=seconds)
        assert mails == {None: 1, (TEAM,): 1}
        assert notifications == 1
        assert longest_wait <= seconds + 21


def test_a_storm_that_goes_on_is_told_ever_more_rarely_but_every_five_minutes_at_least(
    store: Store, clock: Clock
) -> None:
    targets = of_two_audiences(store, 1200)
    mails, notifications, longest_wait = storm(store, clock, targets, Verdict.DOWN, seconds=1200, calm=400)
    assert max(mails.values()) <= 8
    assert notifications <= 8
    assert longest_wait <= 311


def test_a_minute_without_an_alert_ends_the_pace(store: Store, clock: Clock) -> None:
    targets = of_two_audiences(store, 600)
    storm(store, clock, targets, Verdict.DOWN, seconds=600, calm=400)
    (other,) = put(store, "http://other.example/")
    _, _, waited = storm(store, clock, [other], Verdict.DOWN, seconds=1, calm=20)
    assert waited == 11


def test_the_first_alert_of_a_quiet_time_waits_for_its_window_only_and_the_next_for_the_pace(
    store: Store, clock: Clock
) -> None:
    first, second = put(store, "http://a.example/", "http://b.example/")
    assert storm(store, clock, [first], Verdict.DOWN, seconds=1, calm=15)[2] == 11
    assert storm(store, clock, [second], Verdict.DOWN, seconds=1, calm=40)[2] == 15


def test_without_a_window_there_is_no_pace(store: Store, clock: Clock) -> None:
    mailer = FakeMailer()
    for name in "abcdef":
        fall(store, clock, name)
        deliver(store, mailer)
    assert len(mailer.taken) == 6


def test_a_report_has_no_part_in_the_pace(store: Store, clock: Clock) -> None:
    mailer, notifier = FakeMailer(), FakeMailer()
    store.outbox.request_report(now=clock.now)
    deliver_both(store, mailer, notifier)
    (first,) = put(store, "http://a.example/")
    record(store, PACED, [first], Verdict.DOWN, clock.now)
    clock.now += 10_010
    deliver_both(store, mailer, notifier)
    assert len(mailer.taken) == len(mailer.reports) == 1
    store.outbox.request_report(now=clock.now)
    deliver_both(store, mailer, notifier)
    assert len(mailer.reports) == 2


@pytest.mark.parametrize("box", ["outbox", "notifications"])
def test_killed_at_any_send_with_two_boxes_each_is_told_and_twice_only_between_the_yes_and_the_mark(
    redis: Redis, valkey_url: str, clock: Clock, box: str
) -> None:
    settings = settings_for("unix:///nowhere", alert_group_wait=0, webhook_url="https://hook.example/")
    doubled = []
    for wire in everywhere(valkey_url, redis, Wire.kill):
        store, dying, courier = Store(redis), Store(wire.client), FakeMailer()
        taken_at: list[int] = []
        courier.after_taking = lambda wire=wire, taken_at=taken_at: taken_at.append(wire.sends)  # type: ignore[misc]
        targets = fall(store, clock, "a", "b", settings=settings)
        with suppress(Killed):
            Delivery(dying, getattr(dying, box), courier, settings).deliver_all()
        settle(redis, wire)
        clock.now += LEASE_MS + 1
        deliver_both(store, courier, courier, settings)
        other = courier.taken.pop()  # that of the other box, which nobody has killed
        if box == "notifications":
            courier.taken, other = [*courier.taken[:-1], other], courier.taken[-1]
        expected = tuple(f"{each.target.id}-1" for each in targets)
        assert {alerts for _, alerts in (*courier.taken, other)} == {expected}
        assert store.outbox.counts().sending == store.notifications.counts().sending == 0
        if len(courier.taken) > 1:
            assert wire.moment is not None
            doubled.append((wire.moment.number - taken_at[0], wire.moment.place))
    assert doubled == [(0, "before"), (0, "amid")]


# --- one of many ---------------------------------------------------------------------------------------------------


class Mailboxes(FakeMailer):
    """Two recipients, one of whom takes nothing while the mailbox is full; ``got`` is what each has, in order."""

    channels = ("ok@example.org", "full@example.org")

    def __init__(self) -> None:
        super().__init__()
        self.is_full = True
        self.got: dict[str, list[str]] = {who: [] for who in self.channels}
        self.poison = ""

    def send_alerts(self, mail_id: str, alerts: Sequence[Alert], *, recipients: Sequence[str] | None = None) -> Sent:
        told = [f"{alert.kind} {alert.endpoint.removeprefix('http://').partition('.')[0]}" for alert in alerts]
        if self.poison and self.poison in told:
            raise MailDelayed("cut off", may_have_arrived=True, is_about_mail=True)
        everybody = recipients or self.channels
        late = [who for who in everybody if self.is_full and who.startswith("full")]
        if late == list(everybody):
            raise MailDelayed("452 mailbox full", is_about_mail=True)
        for who in everybody:
            if who not in late:
                self.got[who] += told
        return Sent(tuple(who for who in everybody if who not in late), dict.fromkeys(late, "452 mailbox full"))


def change(store: Store, name: str, verdict: Verdict, at: int) -> None:
    record(store, SETTINGS, put(store, f"http://{name}.example/"), verdict, at)


def run(store: Store, mailer: FakeMailer, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1_000
        deliver(store, mailer)


def test_a_full_mailbox_keeps_nothing_from_the_others_and_gets_all_in_order_when_there_is_room(
    store: Store, clock: Clock
) -> None:
    mailer = Mailboxes()
    change(store, "a", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 13)
    change(store, "b", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 3)
    change(store, "a", Verdict.UP, clock.now)
    run(store, mailer, clock, 3)
    assert mailer.got["ok@example.org"] == ["down a", "down b", "up a"]
    mailer.is_full = False
    change(store, "b", Verdict.UP, clock.now)
    run(store, mailer, clock, 1_000)
    full = mailer.got["full@example.org"]
    assert sorted(full) == ["down a", "down b", "up a", "up b"]
    assert full.index("down a") < full.index("up a")
    assert full.index("down b") < full.index("up b")
    assert mailer.got["ok@example.org"] == ["down a", "down b", "up a", "up b"]
    assert store.outbox.counts().sending == store.outbox.counts().waiting == 0


def test_a_mail_that_a_server_never_takes_keeps_no_other_waiting(store: Store, clock: Clock) -> None:
    mailer = Mailboxes()
    mailer.is_full, mailer.poison = False, "down a"
    change(store, "a", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 5)
    change(store, "b", Verdict.DOWN, clock.now)
    change(store, "a", Verdict.UP, clock.now + 1)
    run(store, mailer, clock, 2)
    assert mailer.got["ok@example.org"] == ["down b"], "not the recovery of what was not told yet"
    mailer.poison = ""
    run(store, mailer, clock, 1_000)
    assert mailer.got["ok@example.org"] == ["down b", "down a", "up a"]


def test_a_recovery_takes_along_a_fall_that_was_never_told(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(MailRefused("550 nobody here"))
    change(store, "a", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 1)
    assert store.outbox.counts().dead == 1
    change(store, "a", Verdict.UP, clock.now)
    run(store, mailer, clock, 1)
    ((_, together),) = mailer.taken
    assert [each.rpartition("-")[2] for each in together] == ["1", "2"]
    assert store.outbox.counts().dead == 0


def test_a_fall_that_is_sent_again_after_its_recovery_is_told_as_over(store: Store, clock: Clock) -> None:
    mailer = FakeMailer(MailRefused("550 nobody here"), MailRefused("550 nobody here"))
    change(store, "a", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 1)
    change(store, "a", Verdict.UP, clock.now)
    run(store, mailer, clock, 1)
    (fall,) = (entry["id"] for entry in store.outbox.entries() if entry["alert"]["kind"] == "down")
    assert store.outbox.revive(fall, now=clock.now)
    run(store, mailer, clock, 1)
    ((_, together),) = mailer.taken
    assert [each.rpartition("-")[2] for each in together] == ["1", "2"]


def test_whom_a_server_refuses_for_good_has_a_dead_letter_that_is_sent_again_to_them_alone(
    store: Store, clock: Clock
) -> None:
    mailer = FakeMailer(Sent(("ok@example.org",), {"gone@example.org": "550 no such user"}))
    change(store, "a", Verdict.DOWN, clock.now)
    run(store, mailer, clock, 1)
    (entry,) = store.outbox.entries()
    assert (entry["place"], entry["error"]) == ("dead", "550 no such user")
    assert store.outbox.revive(entry["id"], now=clock.now)
    run(store, mailer, clock, 1)
    assert mailer.asked == [None, ("gone@example.org",)]
    assert store.outbox.entries() == []
