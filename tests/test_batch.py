"""Check jobs as RQ workers run them: beside servers that hang, killed, doubled, cut off from Redis."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus

from shared import queues, signals
from shared.monitor import Verdict
from shared.queues import BATCH_SIZE, Queues, slot_name
from shared.settings import settings_of_this_process
from shared.state import Status
from shared.store import Defaults, Store, Watched, keys
from shared.store.vitals import LEASE_MS
from tests.fakes import (
    Killed,
    Wire,
    everywhere,
    lose_the_connection,
    put,
    put_into,
    result,
    settings_for,
    settle,
)
from tests.processes import Run, running, short_folder, valkey_running
from tests.sites import Answer, RawServer, Received, Site
from tests.waiting import eventually
from worker.checks.batch import Batch
from worker.scheduler import SlotScheduler

CHECKS = "rq:queue:checks"
SCHEDULE = SlotScheduler.scheduled_jobs_key


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


class Hanging(RawServer):
    """Takes every connection and never answers; ``most`` is how many it held at once."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.most = 0
        self._held = 0

    def _hold(self, connection: socket.socket) -> None:
        self._held += 1
        self.most = max(self.most, self._held)
        while connection.recv(65536):
            pass
        self._held -= 1


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    with Hanging() as server:
        yield server


def ms() -> int:
    return int(time.time() * 1000)


@contextmanager
def workers(folder: Path, url: str, count: int = 1, *, second_opinion: bool = False) -> Iterator[list[Run]]:
    """So many stock RQ workers, each a process of its own, that wait for check jobs; all may ask one host at once."""
    environment = {"REDIS_URL": url, "DATA_DIR": str(folder), "MAX_PER_HOST": "100"}
    environment["SECOND_OPINION"] = str(second_opinion)
    arguments = ("-m", "rq.cli", "worker", "--quiet", "-c", "worker.rqconfig", "checks")
    with Redis.from_url(url) as redis, running(folder, *arguments, environment=environment) as first:
        if count == 1:
            eventually(lambda: Queues(redis, settings_for(url)).workers("checks"))
            yield [first]
        else:
            with workers(folder, url, count - 1, second_opinion=second_opinion) as others:
                eventually(lambda: len(Queues(redis, settings_for(url)).workers("checks")) == count)
                yield [first, *others]


class Here(SimpleWorker):
    """An RQ worker in this process, which leaves pytest its signal handlers."""

    def _install_signal_handlers(self) -> None:
        pass


@pytest.fixture
def work(redis: Redis, valkey_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Has a worker in this process run all check jobs that wait; none of them may fail."""
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("DATA_DIR", str(folder))
    monkeypatch.setenv("SECOND_OPINION", "false")
    monkeypatch.chdir(folder)
    settings_of_this_process.cache_clear()

    def work() -> None:
        queue = Queue("checks", connection=redis)
        Here([queue], connection=redis).work(burst=True, logging_level="ERROR")
        assert queue.failed_job_registry.get_job_count(cleanup=False) == 0

    yield work
    settings_of_this_process.cache_clear()


def enqueue(redis: Redis, function: str, *args: Any, job_id: str | None = None) -> str:
    return Queue("checks", connection=redis).enqueue_call(function, args=args, job_id=job_id, timeout=60).id


def check_now(redis: Redis, *targets: Watched) -> str:
    return enqueue(redis, queues.CHECK_TARGETS, [each.target.id for each in targets])


def history(store: Store, target: Watched) -> list[dict[str, Any]]:
    return store.recording.history(target.target.id, limit=1000)


def verdicts(store: Store, *targets: Watched) -> list[list[str]]:
    return [[row["verdict"] for row in history(store, each)] for each in targets]


def is_recorded(store: Store, *targets: Watched) -> bool:
    return all(history(store, each) for each in targets)


# --- while others hang ---------------------------------------------------------------------------------------------


def test_quick_ones_are_recorded_at_once_and_the_run_ends_with_the_one_that_hangs(
    redis: Redis, store: Store, valkey_url: str, folder: Path, site: Site, hanging: Hanging
) -> None:
    quick = put_into(store, 17, *(site.url(f"/?{number}") for number in range(50)))
    (hung,) = put(store, hanging.url(), timeout=4, retries=0)
    slot = slot_name(300, 17)
    with workers(folder, valkey_url):
        job_id = enqueue(redis, queues.CHECK_TARGETS, [each.target.id for each in (hung, *quick[:25])])
        began = eventually(lambda: store.vitals.batch()[0]) or 0
        eventually(lambda: is_recorded(store, *quick[:25]), 3)
        assert ms() - began < 2_000
        # The slot joins the same run, and is its own until the run is done with it.
        enqueue(redis, queues.CHECK_SLOT, 300, 17, True, ms())
        eventually(lambda: store.vitals.is_leased(slot) or is_recorded(store, *quick), 3)
        eventually(lambda: is_recorded(store, *quick), 2)
        eventually(lambda: not store.vitals.is_leased(slot), 1)  # It is released although others hang.
        assert not history(store, hung)
        assert store.vitals.batch() == (began, None)
        eventually(lambda: Job.fetch(job_id, connection=redis).get_status() == JobStatus.FINISHED, 6)
    (row,) = history(store, hung)
    assert (row["verdict"], row["reason"]) == (Verdict.DOWN, "timeout")
    _, ended = store.vitals.batch()
    assert ended is not None
    assert 3_900 < ended - began < 5_500
    assert verdicts(store, *quick) == [["up", "up"]] * 25 + [["up"]] * 25


def test_runs_that_wait_take_the_jobs_of_the_queue_each_exactly_once(
    redis: Redis, store: Store, valkey_url: str, folder: Path, site: Site, hanging: Hanging
) -> None:
    hung = put(store, hanging.url("/1"), hanging.url("/2"), timeout=4, retries=0)
    site.routes.update({f"/{number}": Answer() for number in range(16)})
    quick = put(store, *(site.url(f"/{number}") for number in range(16)))
    with workers(folder, valkey_url, 2):
        for number, each in enumerate(hung):
            check_now(redis, each)
            eventually(lambda number=number: hanging.most == number + 1)  # type: ignore[misc]
        foreign = enqueue(redis, "os.getpid")
        for each in quick:
            check_now(redis, each)
        eventually(lambda: is_recorded(store, *quick), 4)
        assert not is_recorded(store, hung[1])
        # A job of another kind is left to a worker.
        assert Job.fetch(foreign, connection=redis).get_status() == JobStatus.QUEUED
        eventually(lambda: is_recorded(store, *hung))
        eventually(lambda: Job.fetch(foreign, connection=redis).get_status() == JobStatus.FINISHED)
    assert Counter(request.path for request in site.requests) == {f"/{number}": 1 for number in range(16)}


def test_the_second_opinion_is_that_of_another_worker_where_one_is_free(
    redis: Redis, store: Store, valkey_url: str, folder: Path, site: Site, hanging: Hanging
) -> None:
    site.routes["/"] = Answer(503)
    (hung,) = put(store, hanging.url(), timeout=4, retries=0)
    (failing,) = put(store, site.url("/"), retries=0)
    with workers(folder, valkey_url, 2, second_opinion=True):
        began = time.monotonic()
        check_now(redis, hung, failing)
        (entry,) = eventually(store.outbox.entries, 4)
        assert time.monotonic() - began < 3
    alert = entry["alert"]
    assert alert["target_id"] == failing.target.id
    assert alert["by"] != alert["opinion"]["by"]
    assert len({name.partition("/")[0] for name in (alert["by"], alert["opinion"]["by"])}) == 1
    assert site.count("/") == 2


def test_two_runs_never_take_the_same_job_and_leave_what_is_not_theirs(redis: Redis, valkey_url: str) -> None:
    settings = settings_for(valkey_url)
    enqueue(redis, "os.getpid", job_id="foreign")
    redis.rpush(CHECKS, "without-a-job")
    enqueue(redis, "os.getpid", job_id="broken")
    redis.hset(Job.key_for("broken"), "data", pickle.dumps(5))
    for number in range(100):
        enqueue(redis, queues.CHECK_TARGETS, [str(number)])
    taken: list[str] = []

    def take() -> None:
        with Redis.from_url(valkey_url) as client:
            own = Queues(client, settings)
            while own.waiting("checks") > 3:
                if job := own.take_waiting_check("run", 1):
                    taken.append(job.args[0][0])

    threads = [threading.Thread(target=take, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(taken, key=int) == [str(number) for number in range(100)]
    assert redis.lrange(CHECKS, 0, -1) == [b"foreign", b"without-a-job", b"broken"]
    assert len(redis.keys("rq:job:*")) == 2


def test_a_hung_target_delays_no_turn_of_its_slot_and_is_not_checked_twice_at_once(
    redis: Redis, store: Store, valkey_url: str, folder: Path, site: Site, hanging: Hanging
) -> None:
    scheduler = SlotScheduler(redis, settings_for(valkey_url))
    scheduler.store.vitals.bear()
    with workers(folder, valkey_url, 2):
        slot = (int(store.vitals.now()) + 2) % 5
        endpoints = [site.url(f"/?{number}") for number in range(20)]
        hung, *quick = put_into(store, slot, hanging.url(), *endpoints, interval=5, timeout=7, retries=0)
        stop = threading.Event()

        def schedule() -> None:
            while not stop.is_set():
                stop.wait(scheduler.tick())

        thread = threading.Thread(target=schedule)
        thread.start()
        try:
            eventually(lambda: all(len(history(store, each)) == 2 for each in quick), 12)
        finally:
            stop.set()
            thread.join()
    assert hanging.connections == 1
    assert not history(store, hung)
    for each in quick:
        later, earlier = history(store, each)
        assert later["scheduled_at"] - earlier["scheduled_at"] == 5_000
        assert earlier["scheduled_at"] % 5_000 == slot * 1_000
        assert all(0 <= row["started_at"] - row["scheduled_at"] < 1_500 for row in (later, earlier))


# --- what a run works on -------------------------------------------------------------------------------------------


def test_a_slot_of_more_than_a_batch_is_split_and_each_target_checked_once(
    redis: Redis, store: Store, valkey_url: str, work: Callable[[], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    endpoints = (f"http://127.0.0.1:{port}/{number}" for number in range(2 * BATCH_SIZE + 100))
    targets = put_into(store, 17, *endpoints, retries=0)
    settings, scheduled_at = settings_for(valkey_url), ms()
    first = Batch(store, Queues(redis, settings), settings, "first")
    first.add_slot(300, 17, True, scheduled_at)
    rest = [job.args for job in Queue("checks", connection=redis).jobs]
    assert [(len(ids), at) for ids, at in rest] == [(BATCH_SIZE, scheduled_at), (100, scheduled_at)]
    first.work()
    work()
    assert verdicts(store, *targets) == [["down"]] * len(targets)
    assert {history(store, each)[0]["scheduled_at"] for each in targets[::50]} == {scheduled_at}


DEEDS: dict[str, Callable[[Store, str], object]] = {
    "deleted": lambda store, name: store.targets.delete(name, now=ms()),
    "paused": lambda store, name: store.targets.patch(
        name, lambda check: check.model_copy(update={"paused": True}), now=2
    ),
    "changed": lambda store, name: store.targets.patch(
        name, lambda check: check.model_copy(update={"expected_http_code": 418}), now=2
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_what_is_seen_of_a_target_that_changes_meanwhile_is_not_recorded(
    redis: Redis, store: Store, site: Site, work: Callable[[], None], deed: str
) -> None:
    meanwhile, other = put(store, site.url("/meanwhile"), site.url("/other"), retries=0)

    def answer(_request: Received) -> Answer:
        with Redis(connection_pool=redis.connection_pool) as client:
            DEEDS[deed](Store(client), meanwhile.target.id)
        return Answer(503)

    site.routes.update({"/meanwhile": answer, "/other": Answer(503)})
    check_now(redis, meanwhile, other)
    work()
    assert site.count("/meanwhile") == 1
    assert not history(store, meanwhile)
    assert verdicts(store, other) == [["down"]]
    assert store.outbox.counts().waiting == 1
    left = store.targets.get(meanwhile.target.id)
    status = {"deleted": None, "paused": Status.PAUSED, "changed": Status.PENDING}[deed]
    assert (left.state.status if left else None) == status


def test_a_run_that_is_done_takes_the_jobs_that_wait_and_no_worker_has_to_fork_for_them(
    site: Site, store: Store, redis: Redis, work: Callable[[], None]
) -> None:
    targets = put(store, *[site.url(f"/{number}") for number in range(12)])
    first, *others = [check_now(redis, *targets[at : at + 3]) for at in range(0, 12, 3)]
    work()
    assert is_recorded(store, *targets)
    ended = Queue("checks", connection=redis).finished_job_registry.get_job_ids(cleanup=False)
    assert (ended, len(others)) == ([first], 3)


def test_paused_deleted_and_doubled_targets_of_a_job_are_left_out(
    redis: Redis, store: Store, site: Site, work: Callable[[], None]
) -> None:
    paused, deleted, kept = put(store, *(site.url(f"/{name}") for name in ("paused", "deleted", "kept")))
    put(store, site.url("/paused"), paused=True)
    store.targets.delete(deleted.target.id, now=2)
    check_now(redis, kept, paused, deleted, kept)
    work()
    assert [request.path for request in site.requests] == ["/kept"]


def test_a_slot_that_another_run_works_on_is_left_to_it_until_its_lease_ends(
    redis: Redis, store: Store, site: Site, work: Callable[[], None]
) -> None:
    (target,) = put_into(store, 17, site.url())
    assert store.vitals.lease(slot_name(300, 17), "another run")
    enqueue(redis, queues.CHECK_SLOT, 300, 17, True, ms())
    work()
    assert not site.requests
    assert 0 < redis.pttl(keys.lease(slot_name(300, 17))) <= LEASE_MS
    redis.pexpire(keys.lease(slot_name(300, 17)), 1)
    eventually(lambda: not store.vitals.is_leased(slot_name(300, 17)))
    enqueue(redis, queues.CHECK_SLOT, 300, 17, True, ms())
    work()
    assert is_recorded(store, target)
    assert not store.vitals.is_leased(slot_name(300, 17))


def test_the_job_of_a_slot_that_comes_twice_is_worked_on_once(
    redis: Redis, store: Store, valkey_url: str, site: Site
) -> None:
    put_into(store, 17, site.url())
    settings = settings_for(valkey_url)
    first, second = (Batch(store, Queues(redis, settings), settings, "the-same-job") for _ in range(2))
    first.add_slot(300, 17, True, ms())
    second.add_slot(300, 17, True, ms())
    second.work()
    first.work()
    assert len(site.requests) == 1


def test_a_result_that_is_recorded_twice_counts_once(store: Store, valkey_url: str) -> None:
    defaults = Defaults.of(settings_for(valkey_url))
    (target,) = put(store, "http://a.example/")
    seen = [(target, result(target, Verdict.DOWN, at)) for at in (1000, 2000, 3000)]
    for _ in range(2):
        store.recording.record(seen, defaults)
    store.recording.record(seen[:1], defaults)
    assert verdicts(store, target) == [["down"] * 3]
    assert store.outbox.counts().waiting == 1
    assert [sums[0][1:4] for sums in store.recording.sums(target.target.id).values()] == [(0, 3, 0)] * 2


def test_what_happens_is_told_in_the_stream_in_its_order(
    redis: Redis, store: Store, site: Site, work: Callable[[], None]
) -> None:
    site.routes["/"] = [Answer(503), Answer(200)]
    (target,) = put(store, site.url(), retries=1, backoff_factor=0.01, error_codes=(503,))
    heard: list[str] = []
    kinds = {
        "check_started": signals.check_started,
        "check_retried": signals.check_retried,
        "check_finished": signals.check_finished,
        "target_flipped": signals.target_flipped,
    }
    receivers: list[Any] = []
    for kind, each in kinds.items():
        receivers.append(lambda _sender, kind=kind, **_about: heard.append(kind))
        each.connect(receivers[-1])
    check_now(redis, target)
    work()
    events = store.events.read("0-0", block_ms=0)
    assert [event.type for event in events] == heard == list(kinds)
    assert {event.target for event in events} == {target.target.id}
    started, retried, finished, flipped = (event.data for event in events)
    assert retried["attempt"]["status_code"] == 503
    assert [attempt["status_code"] for attempt in finished["attempts"]] == [503, 200]
    assert started["at"] == finished["started_at"]
    assert (flipped["before"], flipped["after"], flipped["at"]) == ("pending", "up", finished["finished_at"])


# --- killed, cut off -----------------------------------------------------------------------------------------------


def test_a_worker_killed_in_the_middle_of_a_slot_loses_no_target(
    redis: Redis, store: Store, valkey_url: str, folder: Path
) -> None:
    gate = threading.Event()

    def answer(_request: Received) -> Answer:
        gate.wait(20)
        return Answer(200)

    scheduler = SlotScheduler(redis, settings_for(valkey_url))
    scheduler.store.vitals.bear()
    slot = slot_name(300, 17)
    with Site({f"/{number}": answer for number in range(10)}) as site:
        targets = put_into(store, 17, *(site.url(f"/{number}") for number in range(10)), timeout=15, interval=300)
        scheduler.reconcile()
        with workers(folder, valkey_url) as (victim,):
            turns = turns_of(scheduler, slot)
            assert next(turns)
            eventually(lambda: len(site.requests) == 10)
            eventually(lambda: redis.pttl(keys.lease(slot)) < LEASE_MS - 500)
            eventually(lambda: redis.pttl(keys.lease(slot)) > LEASE_MS - 300)  # It is renewed.
            assert not next(turns), "the slot's run is alive"
            victim.kill_all()
        assert not next(turns), "its lease has not ended yet"
        killed_at = time.monotonic()
        gate.set()
        with workers(folder, valkey_url):
            eventually(lambda: next(turns))
            assert time.monotonic() - killed_at < LEASE_MS / 1000 + 2
            eventually(lambda: is_recorded(store, *targets))
    assert verdicts(store, *targets) == [["up"]] * 10


def turns_of(scheduler: SlotScheduler, name: str) -> Iterator[bool]:
    """Whether the slot is enqueued, at one turn after the other."""
    while True:
        scheduler.connection.zadd(SCHEDULE, {name: time.time() - 1})
        enqueued = scheduler.enqueue_due(time.time()).enqueued
        yield any(job_id.startswith(name) for job_id in enqueued)


@pytest.mark.parametrize("happening", [Wire.kill, lose_the_connection], ids=["killed", "cut off"])
def test_at_any_send_of_a_run_no_target_is_lost_and_nothing_is_recorded_or_told_twice(
    redis: Redis,
    valkey_url: str,
    site: Site,
    happening: Callable[[Wire], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    site.routes = {"/": Answer(200), "/down": Answer(503)}
    settings = settings_for(valkey_url)
    store = Store(redis)
    for wire in everywhere(valkey_url, redis, happening):
        up, down = put_into(store, 17, site.url("/"), site.url("/down"), retries=0)
        site.requests.clear()
        with suppress(Killed, RedisError):
            run = Batch(Store(wire.client), Queues(wire.client, settings), settings, "first")
            run.add_slot(300, 17, True, ms())
            run.work()
        settle(redis, wire)
        seen = verdicts(store, up, down)
        assert seen in ([[], []], [["up"], ["down"]]), wire.moment
        if happening is lose_the_connection and site.requests:
            assert seen == [["up"], ["down"]], wire.moment
        # The next turn, when the lease of the first has ended.
        redis.delete(keys.lease(slot_name(300, 17)))
        after = Batch(store, Queues(redis, settings), settings, "second")
        after.add_slot(300, 17, True, ms())
        after.work()
        assert verdicts(store, up, down) == [["up", *seen[0]], ["down", *seen[1]]], wire.moment
        assert store.outbox.counts().waiting == 1
        flips = [event.target for event in store.events.read("0-0", block_ms=0) if event.type == "target_flipped"]
        assert Counter(flips) == {up.target.id: 1, down.target.id: 1}, wire.moment


def test_a_redis_that_hangs_or_restarts_while_a_run_records_loses_no_result(folder: Path) -> None:
    url = f"unix://{folder}/valkey.sock"
    asked, is_away = threading.Event(), threading.Event()

    def answer(_request: Received) -> Answer:
        asked.set()
        is_away.wait(10)
        return Answer(200)

    with Redis.from_url(url) as redis, ExitStack() as processes:
        store = Store(redis)
        with Site({"/": answer}) as site, valkey_running(folder) as server:
            processes.enter_context(workers(folder, url))
            targets = put(store, *(site.url(f"/?{number}") for number in range(20)))
            check_now(redis, *targets)
            assert asked.wait(10)
            os.kill(server.pid, signal.SIGSTOP)
            is_away.set()
            threading.Timer(3, os.kill, (server.pid, signal.SIGCONT)).start()
            eventually(lambda: is_recorded(store, *targets), 15)
            assert len(site.requests) == 20
            asked.clear()
            is_away.clear()
            check_now(redis, *targets)
            assert asked.wait(10)
            eventually(lambda: len(site.requests) == 40)
            server.terminate()
            server.wait()
            is_away.set()
            is_over = threading.Event()
            threading.Timer(1.5, is_over.set).start()
            assert is_over.wait(5)
            with valkey_running(folder):
                eventually(lambda: all(len(history(store, each)) == 2 for each in targets), 15)
                assert verdicts(store, *targets) == [["up", "up"]] * 20
                assert len(site.requests) == 40
                processes.close()
