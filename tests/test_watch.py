"""The monitor watches itself: what it tells, when, how often, and what it never takes for a trouble."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.job import Job

from shared.monitor import Verdict
from shared.queues import CHECKS, EMAILS, HOUSEKEEPING, NOTIFICATIONS, QUEUES, Queues
from shared.settings import Settings
from shared.store import Store, keys
from tests.fakes import put, record, settings_for
from tests.sites import Answer, RawServer, Site
from worker import heartbeat, watch
from worker.scheduler import SlotScheduler
from worker.watch import Watch

HOOK = "https://hook.example/"


class Clock:
    """Redis's clock and that of every process, in the test's hands; it begins at the present time."""

    def __init__(self) -> None:
        self.now = time.time()

    @property
    def ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("shared.store.vitals.Vitals.now", lambda _vitals: clock.now)
    monkeypatch.setattr(watch, "time", Monotonic(clock))
    return clock


class Monotonic:
    """What the watch knows of the module ``time``."""

    def __init__(self, clock: Clock) -> None:
        self.monotonic: Callable[[], float] = lambda: clock.now


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url, webhook_url=HOOK, alert_group_wait=0)


class Monitor:
    """A monitor whose processes the test starts and stops: what ticks, and who is alive on which queue."""

    def __init__(self, redis: Redis, settings: Settings, clock: Clock) -> None:
        self.redis, self.settings, self.clock = redis, settings, clock
        self.workers: dict[str, Worker] = {}
        self.sent: dict[str, list[str]] = {"outbox": [], "notifications": []}
        self.delivers = True
        self.start_scheduler()
        self.start_pool()
        for name in QUEUES:
            self.hire(name)

    def start_scheduler(self) -> None:
        self.scheduler: SlotScheduler | None = SlotScheduler(self.redis, self.settings)
        self.scheduler.store.vitals.bear()

    def start_pool(self) -> None:
        self.pool: Watch | None = Watch(Store(self.redis), Queues(self.redis, self.settings), self.settings)

    def hire(self, name: str) -> None:
        queue = Queue(name, connection=self.redis)
        self.workers[name] = Worker([queue], connection=self.redis)
        self.workers[name].register_birth()  # type: ignore[no-untyped-call]

    def fire(self, name: str) -> None:
        self.workers.pop(name).register_death()  # type: ignore[no-untyped-call]

    def go_on(self, seconds: float, step: float = 1.0) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += step
            if self.scheduler is not None:
                now, vitals = self.clock.now, self.scheduler.store.vitals
                vitals.beat("scheduler-1", now=self.clock.ms)
                self.scheduler.watch(now)
                self.scheduler.dispatch(now)
            if self.pool is not None:
                self.pool.stand_in_if_due()
            if self.delivers:
                self._deliver()

    def _deliver(self) -> None:
        store = Store(self.redis)
        for name, box in (("outbox", store.outbox), ("notifications", store.notifications)):
            while (mail := box.claim("mail", now=self.clock.ms)) is not None:
                box.sent(mail, now=self.clock.ms, recipients=["x"], refused={})
                self.sent[name] += mail.entries


@pytest.fixture
def monitor(redis: Redis, settings: Settings, clock: Clock) -> Monitor:
    return Monitor(redis, settings, clock)


def told(monitor: Monitor) -> list[str]:
    """The names of what was told or is still owed, in order, by mail and by notification alike."""
    found = []
    for box, sent in monitor.sent.items():
        waiting = [entry["id"] for entry in getattr(Store(monitor.redis), box).entries()]
        found.append([alert.rpartition("-")[0] for alert in (*sent, *waiting)])
    assert found[0] == found[1]
    return found[0]


def jobs(redis: Redis, queue: str) -> list[Job]:
    return Queue(queue, connection=redis).jobs


# --- what is no trouble --------------------------------------------------------------------------------------------


def test_a_monitor_without_targets_tells_nobody_anything_and_enqueues_nothing(
    monitor: Monitor, store: Store, redis: Redis
) -> None:
    monitor.go_on(600)
    assert told(monitor) == []
    assert not any(jobs(redis, name) for name in QUEUES)
    assert store.troubles.all() == {}


def test_processes_that_start_one_after_another_on_an_empty_redis_tell_nobody_anything(
    redis: Redis, settings: Settings, clock: Clock, store: Store
) -> None:
    monitor = Monitor(redis, settings, clock)
    monitor.scheduler = None
    for name in QUEUES:
        monitor.fire(name)
    monitor.go_on(10)
    monitor.start_scheduler()
    monitor.go_on(10)
    for name in QUEUES:
        monitor.hire(name)
    monitor.go_on(300)
    assert told(monitor) == []


def test_a_restart_of_all_processes_that_takes_twenty_seconds_tells_nobody(
    monitor: Monitor, store: Store, clock: Clock
) -> None:
    (watched,) = put(store, "http://a.example/", interval=5, now=clock.ms)
    monitor.go_on(30)
    record(store, monitor.settings, [watched], Verdict.UP, clock.ms)
    monitor.scheduler = monitor.pool = None
    for name in QUEUES:
        monitor.fire(name)
    monitor.go_on(20)
    monitor.start_pool()
    monitor.go_on(5)
    monitor.start_scheduler()
    for name in QUEUES:
        monitor.hire(name)
    record(store, monitor.settings, [watched], Verdict.UP, clock.ms)
    monitor.go_on(20)
    assert told(monitor) == []


def test_a_machine_that_slept_for_a_night_tells_nobody(monitor: Monitor, store: Store, clock: Clock) -> None:
    monitor.go_on(60)
    clock.now += 8 * 3600
    assert monitor.pool is not None
    monitor.pool.stand_in_if_due()  # The pool is the first to wake up.
    monitor.go_on(60)
    assert told(monitor) == []


def test_a_worker_is_missed_on_the_queue_of_notifications_only_where_there_are_channels(
    redis: Redis, valkey_url: str, clock: Clock, store: Store
) -> None:
    monitor = Monitor(redis, settings_for(valkey_url), clock)
    monitor.fire(NOTIFICATIONS)
    monitor.go_on(120)
    assert store.troubles.all() == {}
    Monitor(redis, settings_for(valkey_url, webhook_url=HOOK), clock)
    monitor = Monitor(redis, settings_for(valkey_url, notify_urls=("json://a.example",)), clock)
    for key in redis.scan_iter("rq:workers*"):
        redis.delete(key)
    for name in (CHECKS, EMAILS, HOUSEKEEPING):
        monitor.hire(name)
    monitor.go_on(120)
    assert store.troubles.all().keys() == {"workers-notifications"}


# --- what is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CHECKS, EMAILS, NOTIFICATIONS])
def test_a_queue_without_a_worker_is_told_after_half_a_minute_once_and_when_it_is_over(
    monitor: Monitor, store: Store, name: str
) -> None:
    monitor.go_on(60)
    monitor.fire(name)
    monitor.go_on(29)
    assert told(monitor) == []
    monitor.go_on(11)
    assert told(monitor) == [f"trouble-workers-{name}"]
    monitor.go_on(600, step=5)
    assert told(monitor) == [f"trouble-workers-{name}"]
    monitor.hire(name)
    monitor.go_on(10)
    assert told(monitor) == [f"trouble-workers-{name}", f"well-workers-{name}"]
    monitor.go_on(600, step=5)
    assert len(told(monitor)) == 2


def test_a_trouble_that_begins_again_is_told_again(monitor: Monitor, store: Store) -> None:
    for number in (1, 2, 3):
        monitor.fire(EMAILS)
        monitor.go_on(50)
        monitor.hire(EMAILS)
        monitor.go_on(50)
        assert told(monitor) == ["trouble-workers-emails", "well-workers-emails"] * number


def test_however_many_look_and_are_restarted_a_trouble_is_told_once(monitor: Monitor, store: Store) -> None:
    monitor.fire(EMAILS)
    monitor.go_on(50)
    others = [Watch(store, Queues(store.redis, monitor.settings), monitor.settings) for _ in range(3)]
    for _ in range(5):
        monitor.start_scheduler()
        monitor.start_pool()
        for _ in range(10):
            monitor.go_on(5)
            for each in others:
                each.look_if_due(now=monitor.clock.ms)
    assert told(monitor) == ["trouble-workers-emails"]


def test_a_scheduler_that_died_is_told_by_the_pool_which_has_the_mails_sent_until_it_is_back(
    monitor: Monitor, store: Store, redis: Redis
) -> None:
    monitor.delivers = False
    monitor.go_on(60)
    monitor.scheduler = None
    monitor.go_on(30)
    assert told(monitor) == []
    monitor.go_on(20)
    assert told(monitor) == ["trouble-scheduler"]
    assert len(jobs(redis, EMAILS)) == len(jobs(redis, NOTIFICATIONS)) == 1
    monitor.go_on(120)
    assert len(jobs(redis, EMAILS)) == 1
    for box, queue in ((store.outbox, EMAILS), (store.notifications, NOTIFICATIONS)):
        assert str(jobs(redis, queue)[0].func_name).startswith("worker.jobs.")
        mail = box.claim("mail", now=monitor.clock.ms)
        assert mail is not None
        box.sent(mail, now=monitor.clock.ms, recipients=["x"], refused={})
    redis.delete(f"rq:queue:{EMAILS}", f"rq:queue:{NOTIFICATIONS}")
    monitor.go_on(60)
    assert not jobs(redis, EMAILS), "nothing is due"
    # What others are owed meanwhile is sent, too.
    record(store, monitor.settings, put(store, "http://a.example/", interval=86_400), Verdict.DOWN, monitor.clock.ms)
    monitor.go_on(11)
    assert len(jobs(redis, EMAILS)) == 1
    monitor.start_scheduler()
    monitor.go_on(10)
    assert "well-scheduler" in told(monitor)
    assert store.troubles.all() == {}


def test_a_queue_whose_jobs_wait_for_two_minutes_is_told_although_newer_ones_stand_before_them(
    monitor: Monitor, store: Store, redis: Redis
) -> None:
    queues = Queues(redis, monitor.settings)
    queues.push(CHECKS, "os.getpid", (), job_id="old")
    redis.hset(
        Job.key_for("old"),
        "enqueued_at",
        (datetime.now(UTC) - timedelta(seconds=121)).isoformat().replace("+00:00", "Z"),
    )
    queues.push(CHECKS, "os.getpid", (), job_id="new", at_front=True)
    monitor.go_on(40)
    assert told(monitor) == ["trouble-queue"]
    redis.delete("rq:queue:checks")
    monitor.go_on(10)
    assert told(monitor) == ["trouble-queue", "well-queue"]


def refuse_all(store: Store, now: int, *, may_have_arrived: bool) -> None:
    mail = store.outbox.claim("mail", now=now)
    if mail is not None:
        store.outbox.delayed(mail, now=now, error="lost", may_have_arrived=may_have_arrived)


@pytest.mark.parametrize("may_have_arrived", [False, True])
def test_mails_that_do_not_get_through_for_five_minutes_are_told(
    monitor: Monitor, store: Store, may_have_arrived: bool
) -> None:
    monitor.delivers = False
    settings = settings_for(monitor.settings.redis, alert_group_wait=0)
    record(store, settings, put(store, "http://a.example/", interval=86_400), Verdict.DOWN, monitor.clock.ms)
    for _ in range(28):
        monitor.go_on(10, step=5)
        refuse_all(store, monitor.clock.ms, may_have_arrived=may_have_arrived)
    assert store.troubles.all() == {}
    monitor.go_on(70)
    assert store.troubles.all().keys() == {"undelivered-mail"}
    (alert,) = [entry["alert"] for entry in store.notifications.entries()]
    assert alert["title"] == "mails cannot be delivered"


def test_a_mailbox_that_is_full_is_no_trouble_of_the_monitor(monitor: Monitor, store: Store) -> None:
    monitor.delivers = False
    settings = settings_for(monitor.settings.redis, alert_group_wait=0)
    record(store, settings, put(store, "http://a.example/", interval=86_400), Verdict.DOWN, monitor.clock.ms)
    monitor.go_on(5)
    mail = store.outbox.claim("mail", now=monitor.clock.ms)
    assert mail is not None
    store.outbox.partly_sent(mail, now=monitor.clock.ms, recipients=["x"], remaining=["full"], error="452")
    for _ in range(60):
        monitor.go_on(20, step=5)
        refuse_all(store, monitor.clock.ms, may_have_arrived=False)
    assert store.troubles.all() == {}


def test_what_waits_below_a_parent_that_is_down_is_no_trouble(monitor: Monitor, store: Store) -> None:
    settings = settings_for(monitor.settings.redis, alert_group_wait=0)
    (parent,) = put(store, "http://parent.example/", interval=86_400)
    (child,) = put(store, "http://child.example/", parent=parent.target.id, interval=86_400)
    record(store, settings, [child, parent], Verdict.DOWN, monitor.clock.ms)
    monitor.go_on(1000, step=5)
    assert store.outbox.counts().waiting == 1
    assert store.troubles.all() == {}


# --- overdue targets -----------------------------------------------------------------------------------------------


def lateness(monitor: Monitor) -> list[str]:
    """What was told of late targets alone: RQ has a clock of its own, by which jobs here wait for minutes."""
    return [name for name in told(monitor) if name.endswith("-overdue")]


def test_overdue_targets_are_checked_once_a_minute_and_told_after_three_intervals(
    monitor: Monitor, store: Store, redis: Redis, clock: Clock
) -> None:
    (watched,) = put(store, "http://a.example/", interval=60)
    record(store, monitor.settings, [watched], Verdict.UP, clock.ms)
    limit = 120 + monitor.settings.longest_check(watched.target.check)
    monitor.go_on(limit - 5)
    assert not jobs(redis, CHECKS)
    monitor.go_on(61)
    (job,) = jobs(redis, CHECKS)
    assert (job.func_name, job.args) == ("worker.jobs.check_targets", ([watched.target.id],))
    assert store.troubles.all() == {}
    monitor.go_on(60)
    assert len(jobs(redis, CHECKS)) == 1, "the first still waits"
    redis.delete(f"rq:queue:{CHECKS}")
    monitor.go_on(61)
    assert len(jobs(redis, CHECKS)) == 1
    redis.delete(f"rq:queue:{CHECKS}")
    monitor.go_on(10)
    assert lateness(monitor) == ["trouble-overdue"]
    assert "the monitor itself is late: 1 target" in store.troubles.all()["overdue"].title  # type: ignore[operator]
    record(store, monitor.settings, [watched], Verdict.UP, clock.ms)
    redis.delete(f"rq:queue:{CHECKS}")
    monitor.go_on(65)
    assert lateness(monitor) == ["trouble-overdue", "well-overdue"]
    assert not jobs(redis, CHECKS)


def test_two_schedulers_enqueue_what_is_overdue_once(
    monitor: Monitor, store: Store, redis: Redis, clock: Clock
) -> None:
    put(store, "http://a.example/", interval=5)
    schedulers = [SlotScheduler(redis, monitor.settings) for _ in range(2)]
    for number, scheduler in enumerate(schedulers * 3):
        clock.now += 61
        store.vitals.beat("scheduler-1", now=clock.ms)
        scheduler.watch(clock.now)
        assert len(jobs(redis, CHECKS)) == 1, number


def test_a_full_queue_gets_nothing_that_is_overdue(monitor: Monitor, store: Store, redis: Redis) -> None:
    put(store, "http://a.example/", interval=5)
    for number in range(100):
        Queues(redis, monitor.settings).push(CHECKS, "os.getpid", (), job_id=f"other-{number}")
    monitor.go_on(130, step=5)
    assert len(jobs(redis, CHECKS)) == 100


# --- the heartbeat -------------------------------------------------------------------------------------------------


@pytest.fixture
def beating(redis: Redis, valkey_url: str, clock: Clock) -> Monitor:
    return Monitor(redis, settings_for(valkey_url, heartbeat_url="https://beat.example/secret"), clock)


def pings(redis: Redis) -> list[str]:
    """What a worker would ping now; it is done with it at once."""
    found = [job.id for job in jobs(redis, HOUSEKEEPING) if job.func_name == "worker.jobs.ping_heartbeat"]
    redis.delete(f"rq:queue:{HOUSEKEEPING}", *(Job.key_for(each) for each in found), "monitor:turn:heartbeat")
    return found


def test_the_heartbeat_comes_each_minute_while_no_trouble_stands(beating: Monitor, redis: Redis) -> None:
    seen = []
    for _ in range(10):
        beating.go_on(30)
        seen += pings(redis)
    assert len(set(seen)) == 5
    beating.fire(EMAILS)
    beating.go_on(40)
    pings(redis)
    beating.go_on(300, step=5)
    assert not pings(redis)
    beating.hire(EMAILS)
    beating.go_on(70)
    assert pings(redis)


def test_heartbeats_that_nobody_sends_do_not_pile_up_and_wait_before_no_alert(beating: Monitor, redis: Redis) -> None:
    beating.go_on(600, step=5)
    assert len(jobs(redis, HOUSEKEEPING)) == 1
    assert not jobs(redis, EMAILS)
    assert not jobs(redis, NOTIFICATIONS)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.mark.parametrize(("status", "is_taken"), [(200, True), (204, True), (404, False), (500, False)])
def test_an_answer_below_400_is_a_heartbeat_that_was_taken(site: Site, status: int, is_taken: bool) -> None:
    site.routes["/secret"] = Answer(status)
    assert heartbeat.ping(site.url("/secret")) is is_taken


ODD: dict[str, bytes] = {
    "no http": b"rubbish /secret\r\n\r\n",
    "nothing": b"",
    "broken header": b"HTTP/1.1 200 OK\r\nno header\r\nX: y\r\n\r\n",
    "redirect to nothing": b"HTTP/1.1 302 Found\r\nLocation: http://[secret\r\n\r\n",
    "redirect to bytes": b"HTTP/1.1 302 Found\r\nLocation: http://secret\x80:x/\r\n\r\n",
    "redirect elsewhere": b"HTTP/1.1 302 Found\r\nLocation: ftp://secret/\r\n\r\n",
    "redirect for ever": b"HTTP/1.1 302 Found\r\nLocation: /secret\r\nContent-Length: 0\r\n\r\n",
    "refused": b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_heartbeat_that_fails_raises_nothing_and_logs_no_url(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ODD[kind])

    caplog.set_level(logging.INFO)
    with RawServer(answer) as server:
        assert heartbeat.ping(server.url("/secret")) is (kind == "broken header")
    assert "secret" not in caplog.text


def test_a_heartbeat_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(heartbeat, "_TIMEOUT_SECONDS", 0.2)

    def hold(connection: Any) -> None:
        while connection.recv(65536):
            pass

    with RawServer(hold) as server:
        began = time.monotonic()
        assert not heartbeat.ping(server.url("/secret"))
        assert time.monotonic() - began < 3
    assert caplog.messages == ["the heartbeat was not taken: ReadTimeout"]


def test_no_proxy_of_the_environment_sees_the_heartbeat(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert heartbeat.ping(site.url("/"))


def test_the_key_of_troubles_has_no_end(monitor: Monitor, store: Store, redis: Redis) -> None:
    """It goes when the trouble does; until then a restart must not tell it again."""
    monitor.fire(EMAILS)
    monitor.go_on(40)
    assert redis.ttl(keys.TROUBLES) == -1
    monitor.hire(EMAILS)
    monitor.go_on(10)
    assert not redis.exists(keys.TROUBLES)
