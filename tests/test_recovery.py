"""What vanished with its worker is checked again: whatever moment the run, or who takes it up, is killed at."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job

from shared import queues
from shared.monitor import Verdict
from shared.queues import BATCH_SIZE, Queues
from shared.settings import Settings
from shared.store import Store, Watched, Work, keys
from shared.store.runs import SIGN_MS
from tests.fakes import Killed, Wire, everywhere, lose_the_connection, put, put_into, record, settings_for, settle
from tests.sites import Answer, Site
from worker import recovery
from worker.checks.batch import Batch
from worker.checks.ledger import Ledger
from worker.recovery import MOST_TIMES, SILENT_SECONDS, Recovery

CHECKS = "rq:queue:checks"
POPPED = "rq:queue:checks:intermediate"


class Clock:
    """The clocks of who recovers: its own, and Redis'. A look moves both by a second."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.redis_ms = int(time.time() * 1000) + 60_000

    def look(self, *watchers: Recovery, seconds: int = 1) -> int:
        """So many looks; how much was taken up in them."""
        found = 0
        for _ in range(seconds):
            self.monotonic += 1
            self.redis_ms += 1000
            found += sum(watcher.look(now=self.redis_ms) for watcher in watchers)
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recovery, "time", SimpleNamespace(monotonic=lambda: clock.monotonic))
    return clock


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url)


@pytest.fixture
def work(redis: Redis, settings: Settings) -> Queues:
    return Queues(redis, settings)


@pytest.fixture
def watcher(store: Store, work: Queues, settings: Settings) -> Recovery:
    return Recovery(store, work, settings)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/": Answer(200), "/down": Answer(503)}) as site:
        yield site


def ids_of(*targets: Watched) -> list[str]:
    return [each.target.id for each in targets]


def jobs(redis: Redis) -> list[tuple[str, tuple[Any, ...]]]:
    """What waits, first first."""
    return [(str(job.func_name), tuple(job.args)) for job in Queue("checks", connection=redis).jobs]


def hold(store: Store, run: str, function: str, *args: Any, began: int = 5000, number: int = 1) -> None:
    store.runs.hold(run, number, Work(began, function, args))


def work_off(redis: Redis, store: Store, settings: Settings) -> None:
    """Does all check jobs that wait, one run each."""
    work = Queues(redis, settings)
    for number in range(100):
        batch = Batch(store, work, settings, f"later-{number}")
        if (found := batch._ledger.take_job(work)) is None:
            return
        held, taken = found
        batch._add(held, taken.function, taken.args, taken.enqueued_at)
        batch.work()
    raise AssertionError("the jobs do not end")


# --- what is taken up ----------------------------------------------------------------------------------------------


def test_what_has_no_result_since_the_run_began_is_enqueued_before_all_others(
    redis: Redis, store: Store, settings: Settings, work: Queues, watcher: Recovery, clock: Clock
) -> None:
    done, older, never, paused, deleted = put(store, *(f"http://{name}.example/" for name in "abcde"))
    record(store, settings, [done], Verdict.UP, 5000)
    record(store, settings, [older], Verdict.UP, 4999)
    put(store, "http://d.example/", paused=True)
    store.targets.delete(deleted.target.id, now=2)
    work.enqueue_check(["another"])
    hold(store, "run", queues.CHECK_TARGETS, ids_of(done, older, never, paused, deleted), 4000, 0)
    assert clock.look(watcher, seconds=12) == 1
    assert jobs(redis) == [
        (queues.CHECK_TARGETS, (ids_of(older, never), 4000, 1)),
        (queues.CHECK_TARGETS, (["another"],)),
    ]
    assert clock.look(watcher, seconds=20) == 0
    assert not redis.exists(keys.RUNS)


def test_a_run_that_gives_signs_is_left_alone(store: Store, watcher: Recovery, redis: Redis, clock: Clock) -> None:
    hold(store, "run", queues.CHECK_TARGETS, ["a"], None, 0)
    clock.redis_ms = int(store.vitals.now() * 1000) - 13_000
    assert clock.look(watcher, seconds=SIGN_MS // 1000 + 12) == 0
    assert clock.look(watcher, seconds=3) == 1, "its sign is overdue now"
    assert not store.runs.sign("run"), "it has to hold its work anew"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((["a"],), (["a"], None, 1)),
        ((["a"], 4000), (["a"], 4000, 1)),
        ((["a"], 4000, 2), (["a"], 4000, 3)),
    ],
)
def test_a_job_that_was_only_just_taken_is_taken_up_as_it_was(
    redis: Redis,
    store: Store,
    watcher: Recovery,
    clock: Clock,
    args: tuple[Any, ...],
    expected: tuple[Any, ...],
) -> None:
    (target,) = put(store, "http://a.example/")
    hold(store, "run", queues.CHECK_TARGETS, ids_of(target), *args[1:])
    hold(store, "run", queues.CHECK_SLOT, 300, 17, True, 4000, number=2)
    hold(store, "run", queues.CHECK_AGAIN, ids_of(target), number=10)
    clock.look(watcher, seconds=12)
    assert jobs(redis) == [
        (queues.CHECK_TARGETS, (ids_of(target), *expected[1:])),
        (queues.CHECK_AGAIN, (ids_of(target), 1)),
        (queues.CHECK_SLOT, (300, 17, True, 4000)),
    ]


def test_an_opinion_that_was_not_asked_for_yet_is_asked_for(
    redis: Redis, store: Store, valkey_url: str, clock: Clock
) -> None:
    settings = settings_for(valkey_url, second_opinion=True)
    failed, well = put(store, "http://a.example/", "http://b.example/")
    record(store, settings, [failed], Verdict.DOWN, 5000)
    record(store, settings, [well], Verdict.UP, 5000)
    hold(store, "run", queues.CHECK_TARGETS, ids_of(failed, well), None, 0)
    clock.look(Recovery(store, Queues(redis, settings), settings), seconds=12)
    assert jobs(redis) == [(queues.CHECK_AGAIN, (ids_of(failed), 1))]


def test_work_that_ends_every_worker_waits_for_its_next_turn(
    redis: Redis, store: Store, watcher: Recovery, clock: Clock
) -> None:
    (target,) = put(store, "http://a.example/")
    for function, args in ((queues.CHECK_TARGETS, (None, MOST_TIMES)), (queues.CHECK_AGAIN, (MOST_TIMES,))):
        hold(store, "run", function, ids_of(target), *args)
        assert clock.look(watcher, seconds=12) == 1
    assert not jobs(redis)
    assert not redis.exists(keys.RUNS)


def test_many_targets_are_split_into_batches(redis: Redis, store: Store, watcher: Recovery, clock: Clock) -> None:
    targets = put(store, *(f"http://a.example/{number}" for number in range(BATCH_SIZE + 1)))
    hold(store, "run", queues.CHECK_TARGETS, ids_of(*targets), None, 0)
    clock.look(watcher, seconds=12)
    assert [len(args[0]) for _, args in jobs(redis)] == [BATCH_SIZE, 1]


@pytest.mark.parametrize("gap", ["a start", "Redis was away", "the clock was set forward", "a long pause"])
def test_after_a_gap_all_runs_have_time_to_show_that_they_live(
    store: Store, watcher: Recovery, clock: Clock, gap: str
) -> None:
    if gap != "a start":
        clock.look(watcher, seconds=12)
    hold(store, "run", queues.CHECK_TARGETS, ["a"], None, 0)
    if gap == "Redis was away":
        watcher.note_absence()
    elif gap == "the clock was set forward":
        clock.redis_ms += 20_000
    elif gap == "a long pause":
        clock.monotonic += 20
    assert clock.look(watcher, seconds=SIGN_MS // 1000) == 0
    assert clock.look(watcher, seconds=2) == 1


def test_of_two_schedulers_one_takes_a_run_up(
    redis: Redis, store: Store, work: Queues, settings: Settings, clock: Clock
) -> None:
    (target,) = put(store, "http://a.example/")
    watchers = [Recovery(store, work, settings) for _ in range(2)]
    hold(store, "run", queues.CHECK_TARGETS, ids_of(target), None, 0)
    assert clock.look(*watchers, seconds=14) == 1
    assert len(jobs(redis)) == 1


def test_a_run_that_speaks_while_it_is_taken_up_keeps_its_work(redis: Redis, store: Store) -> None:
    hold(store, "run", queues.CHECK_TARGETS, ["a"], None, 0)

    def plan(_held: list[Work]) -> Any:
        assert store.runs.sign("run")
        return lambda pipe: pipe.rpush(CHECKS, "never")

    assert not store.runs.take_up("run", plan, now=int(time.time() * 1000) + 60_000)
    assert not redis.exists(CHECKS)
    assert store.runs.held("run", 1) == Work(5000, queues.CHECK_TARGETS, (["a"], None, 0))


# --- killed at every send ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("happening", [Wire.kill, lose_the_connection], ids=["killed", "cut off"])
def test_wherever_a_run_ends_its_targets_are_checked_once(
    redis: Redis,
    valkey_url: str,
    settings: Settings,
    site: Site,
    clock: Clock,
    happening: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    store = Store(redis)
    for wire in everywhere(valkey_url, redis, happening):
        up, down, other = put_into(store, 17, site.url("/"), site.url("/down"), site.url("/?other"), retries=0)
        work = Queues(redis, settings)
        work.enqueue_check(ids_of(other))
        run = Batch(Store(wire.client), Queues(wire.client, settings), settings, "first")
        run._looked_at = -100.0  # so that it looks for more at once, and takes the other
        with suppress(Killed, RedisError):
            run.add_targets(ids_of(up, down), 4000)
            run.work()
        settle(redis, wire)
        # What was popped, but not begun, is the matter of in_hand(): here the run's job was none.
        is_begun = store.runs.have_begun(["first"])
        clock.look(Recovery(store, work, settings), seconds=12)
        work_off(redis, store, settings)
        seen = [len(store.recording.history(each.target.id)) for each in (up, down, other)]
        assert seen == ([1, 1, 1] if is_begun else [0, 0, 1]), wire.moment
        assert not redis.zcard(keys.RUNS)


@pytest.mark.parametrize("happening", [Wire.kill, lose_the_connection], ids=["killed", "cut off"])
def test_wherever_a_scheduler_ends_that_takes_up_the_work_is_enqueued_once(
    redis: Redis, valkey_url: str, settings: Settings, clock: Clock, happening: Any
) -> None:
    store = Store(redis)
    for wire in everywhere(valkey_url, redis, happening):
        one, other = put(store, "http://a.example/", "http://b.example/")
        hold(store, "run", queues.CHECK_TARGETS, ids_of(one), None, 0)
        job = Queue("checks", connection=redis).enqueue(queues.CHECK_TARGETS, ids_of(other))
        redis.lmove(CHECKS, POPPED)
        victim = Recovery(Store(wire.client), Queues(wire.client, settings), settings)
        with suppress(Killed, RedisError):
            clock.look(victim, seconds=13)
        settle(redis, wire)
        clock.look(Recovery(store, Queues(redis, settings), settings), seconds=13)
        assert Counter(args[0][0] for _, args in jobs(redis)) == Counter(ids_of(one, other)), wire.moment
        assert not redis.exists(POPPED)
        assert job.id not in work_ids(redis)


def work_ids(redis: Redis) -> list[str]:
    return Queue("checks", connection=redis).job_ids


# --- jobs of which nothing was heard -------------------------------------------------------------------------------


def pop(redis: Redis, function: str, *args: Any) -> Job:
    """A job as it stands when its worker has popped it and no more."""
    job = Queue("checks", connection=redis).enqueue(function, *args)
    redis.lmove(CHECKS, POPPED)
    return job


def start(redis: Redis, function: str, *args: Any) -> Job:
    """A job as it stands when its worker has started it, and its run has not begun."""
    job = Queue("checks", connection=redis).enqueue(function, *args)
    redis.lpop(CHECKS)
    redis.zadd("rq:wip:checks", {f"{job.id}:{'0' * 32}": time.time() + 90})
    return job


@pytest.mark.parametrize("taken", [pop, start])
def test_a_job_of_which_no_run_was_heard_is_enqueued_again(
    redis: Redis, work: Queues, watcher: Recovery, clock: Clock, taken: Any
) -> None:
    taken(redis, queues.CHECK_SLOT, 300, 17, True, 4000)
    assert clock.look(watcher, seconds=int(SILENT_SECONDS)) == 0
    assert clock.look(watcher, seconds=5) == 1
    assert jobs(redis) == [(queues.CHECK_SLOT, (300, 17, True, 4000))]
    assert not work.in_hand()
    assert len(redis.keys("rq:job:*")) == 1


def test_a_job_that_has_a_run_or_is_no_check_is_left_alone(
    redis: Redis, store: Store, watcher: Recovery, clock: Clock
) -> None:
    long, over = (start(redis, queues.CHECK_TARGETS, ["a"]) for _ in range(2))
    pop(redis, queues.CHECK_TRIAL, "trial")
    pop(redis, "os.getpid")
    redis.rpush(POPPED, "without-a-job")
    clock.redis_ms -= 120_000
    hold(store, long.id, queues.CHECK_TARGETS, ["a"])
    hold(store, over.id, queues.CHECK_TARGETS, ["a"])
    store.runs.end(over.id)
    assert clock.look(watcher, seconds=30) == 0
    assert not jobs(redis)


# --- the ledger ----------------------------------------------------------------------------------------------------


def test_a_run_that_was_forgotten_holds_anew_what_is_not_recorded(redis: Redis, store: Store) -> None:
    ledger = Ledger(store.runs, "run")
    ledger.hold_targets(["a", "b"], 4000, 0, None)
    ledger.hold_opinions(["c"], 0, None)
    redis.flushall()
    ledger.sign({"b"})
    assert [(held.function, held.args) for number in (1, 2) if (held := store.runs.held("run", number))] == [
        (queues.CHECK_TARGETS, (["a", "b"], 4000, 0))
    ]
    assert redis.zscore(keys.RUNS, "run") == pytest.approx(time.time() * 1000 + SIGN_MS, abs=5000)
    ledger.end()
    assert not redis.exists(keys.RUNS)


def test_a_sign_and_a_piece_cost_the_same_for_one_target_and_for_many(store: Store, valkey_url: str) -> None:
    sends = []
    for count in (1, BATCH_SIZE):
        wire = Wire.untouched(valkey_url)
        ledger = Ledger(Store(wire.client).runs, f"run-{count}")
        ids = [str(number) for number in range(count)]
        ledger.hold_targets(ids, None, 0, None)
        ledger.sign(set(ids))
        ledger.end()
        sends.append(wire.sends)
        wire.close()
    assert sends[0] == sends[1]
