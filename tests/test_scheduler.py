"""The scheduler under faults: killed at every send, raced, cut off from Redis, beside entries of others.

Where it says ``kind``, the same story is told of stock rq-scheduler: what is false of it is why ours exists.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq_scheduler import Scheduler

from shared import queues
from shared.monitor import Verdict
from shared.store import Store, keys
from shared.store.targets import bucket_of
from tests.fakes import Killed, Wire, everywhere, lose_the_connection, put, record, settings_for, settle
from tests.processes import running, short_folder, valkey_running
from tests.waiting import eventually
from worker.scheduler import SlotScheduler

SCHEDULE = Scheduler.scheduled_jobs_key
CHECKS = "rq:queue:checks"
EMAILS = "rq:queue:emails"
HOUSEKEEPING = "rq:queue:housekeeping"
SLOT = "check-300-017"
BOTH = pytest.mark.parametrize("kind", ["ours", "stock"])


# --- how a story is told -------------------------------------------------------------------------------------------


def ours(client: Redis, **settings: Any) -> SlotScheduler:
    path = client.get_connection_kwargs()["path"]
    return SlotScheduler(client, settings_for(f"unix://{path}", **settings))


def stock(client: Redis) -> Scheduler:
    return Scheduler("checks", connection=client, interval=1)


def use(redis: Redis, *buckets: str) -> None:
    """Pretend that these buckets ("300:17"; interval 0 is the default) hold targets."""
    redis.sadd(keys.BUCKETS, *buckets)
    redis.incr(keys.ORDERS)


def plan(redis: Redis, kind: str) -> None:
    """The schedule holds SLOT, due since its last turn, and nothing else that is due."""
    if kind == "ours":
        use(redis, "300:17")
        ours(redis).reconcile()
    else:
        stock(redis).schedule(
            datetime.now(UTC), queues.CHECK_SLOT, [300, 17, True], interval=300, id=SLOT, queue_name="checks"
        )
    make_due(redis, SLOT)


def make_due(redis: Redis, name: str, seconds_ago: float = 2.0) -> None:
    redis.zadd(SCHEDULE, {name: time.time() - seconds_ago}, xx=True)


def one_pass(client: Redis, kind: str) -> None:
    """What a scheduler that was just started does first."""
    if kind == "ours":
        ours(client).tick()
    else:
        stock(client).enqueue_jobs()


def waiting(redis: Any, queue: str = CHECKS) -> list[str]:
    return [raw.decode() for raw in redis.lrange(queue, 0, -1)]


def finish_all(redis: Any, queue: str = CHECKS) -> list[str]:
    """Take all that waits, as workers that have done it would; the ids."""
    taken = []
    while raw := redis.lpop(queue):
        taken.append(raw.decode())
        redis.delete(Job.key_for(taken[-1]))
    return taken


def scores(redis: Any) -> dict[str, float]:
    return {raw.decode(): score for raw, score in redis.zrange(SCHEDULE, 0, -1, withscores=True)}


def slots(redis: Redis) -> set[str]:
    return scores(redis).keys() - {"snapshot"}


class Clock:
    """Redis's clock as one scheduler sees it, in the test's hands."""

    def __init__(self, scheduler: SlotScheduler, now: float) -> None:
        self.now = now
        scheduler.store.vitals.now = lambda: self.now  # type: ignore[method-assign]


# --- fixed rate ----------------------------------------------------------------------------------------------------


@BOTH
def test_a_late_turn_does_not_shift_the_grid(redis: Redis, kind: str) -> None:
    plan(redis, kind)
    due = 85 + (time.time() - 85) // 300 * 300
    if time.time() - due < 2:
        due -= 300
    redis.zadd(SCHEDULE, {SLOT: due})
    one_pass(redis, kind)
    assert len(waiting(redis)) == 1
    is_on_grid = (scores(redis)[SLOT] - due) % 300 == 0
    # Stock: next = now + interval, so that every delay of every turn adds up.
    assert is_on_grid is (kind == "ours")


@pytest.mark.parametrize("interval", [5, 7, 61, 300])
def test_whatever_the_delays_each_turn_is_at_its_own_time_and_those_missed_are_skipped(
    redis: Redis, interval: int
) -> None:
    use(redis, *(f"{interval}:{number}" for number in range(60)))
    scheduler = ours(redis)
    scheduler.store.vitals.set_queue_settings(100, 100)
    clock = Clock(scheduler, 1_700_000_000.0)
    scheduler.reconcile()
    entries = {name: scheduler._wanted[name] for name in slots(redis)}
    chance = random.Random(interval)
    seen: dict[str, list[int]] = {name: [] for name in entries}
    for _ in range(15):
        clock.now += chance.choice([0.01, 0.3, interval / 2, interval, interval * 2.4])
        due = {name for name, score in scores(redis).items() if score <= clock.now} - {"snapshot"}
        scheduler.enqueue_due(clock.now)
        waiting_jobs = [Job.fetch(job_id, connection=redis) for job_id in waiting(redis)]
        assert {job.id.rpartition("-")[0] for job in waiting_jobs} == due
        for job in waiting_jobs:
            entry = entries[job.id.rpartition("-")[0]]
            *_, scheduled_at = job.args
            turn = entry.next_turn(clock.now) - interval
            assert scheduled_at == int(turn * 1000)
            assert turn <= clock.now < turn + interval
            assert scores(redis)[entry.name] == turn + interval
            seen[entry.name].append(scheduled_at)
        finish_all(redis)
    for turns in seen.values():
        assert turns == sorted(set(turns))


def test_a_clock_that_is_set_back_does_not_silence_the_schedule(redis: Redis) -> None:
    use(redis, "300:17", "5:0")
    scheduler = ours(redis)
    clock = Clock(scheduler, 1_700_000_000.0)
    scheduler.tick()
    clock.now -= 7200
    scheduler.tick()
    assert all(score <= clock.now + 300 for score in scores(redis).values())


# --- killed --------------------------------------------------------------------------------------------------------


@BOTH
def test_killed_at_any_send_of_a_pass_it_loses_no_schedule_and_doubles_no_turn(
    redis: Redis, valkey_url: str, kind: str
) -> None:
    lost = doubled = moments = 0
    for wire in everywhere(valkey_url, redis, Wire.kill):
        plan(redis, kind)
        due = scores(redis)[SLOT]
        with suppress(Killed):
            one_pass(wire.client, kind)
        settle(redis, wire)
        if kind == "ours":
            has_moved = scores(redis)[SLOT] > due
            assert len(waiting(redis)) == has_moved, wire.moment
        one_pass(redis, kind)
        moments += wire.has_happened
        lost += SLOT not in scores(redis) or not waiting(redis)
        doubled += len(waiting(redis)) > 1
    assert moments > 20
    if kind == "ours":
        assert (lost, doubled) == (0, 0)
    else:
        assert lost > 0


def test_killed_at_any_send_of_a_reconciliation_it_leaves_no_half_an_entry(redis: Redis, valkey_url: str) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        use(redis, "300:17", "300:18")
        ours(redis).reconcile()
        redis.srem(keys.BUCKETS, "300:18")
        use(redis, "300:19", "7:3")
        with suppress(Killed):
            ours(wire.client).reconcile()
        settle(redis, wire)
        assert all(redis.exists(Job.key_for(name)) for name in scores(redis)), wire.moment
        ours(redis).reconcile()
        assert slots(redis) == {SLOT, "check-300-019", "check-7-003"}
        assert set(redis.keys("rq:job:*")) == {Job.key_for(name).encode() for name in scores(redis)}


def test_killed_at_any_send_of_a_dispatch_it_enqueues_one_deliver_job_in_the_end(redis: Redis, valkey_url: str) -> None:
    for wire in everywhere(valkey_url, redis, Wire.kill):
        owe(redis, 3, wait_seconds=0)
        with suppress(Killed):
            ours(wire.client).dispatch(time.time() + 1)
        settle(redis, wire)
        assert len(waiting(redis, EMAILS)) <= 1
        ours(redis).dispatch(time.time() + 2)
        assert len(waiting(redis, EMAILS)) == 1, wire.moment


@BOTH
@pytest.mark.parametrize("interval", [None, 60])
def test_killed_at_any_send_it_enqueues_an_entry_of_others_exactly_once(
    redis: Redis, valkey_url: str, kind: str, interval: int | None
) -> None:
    wrong = 0
    for wire in everywhere(valkey_url, redis, Wire.kill):
        stock(redis).schedule(datetime.now(UTC), "os.getpid", interval=interval, id="theirs", queue_name="elsewhere")
        make_due(redis, "theirs")
        with suppress(Killed):
            one_pass(wire.client, kind)
        settle(redis, wire)
        one_pass(redis, kind)
        is_still_scheduled = "theirs" in scores(redis)
        wrong += waiting(redis, "rq:queue:elsewhere") != ["theirs"] or is_still_scheduled is not bool(interval)
    assert bool(wrong) is (kind == "stock")


def test_a_connection_lost_at_any_send_ends_no_process_and_no_turn_is_lost_or_doubled(
    redis: Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wire in everywhere(valkey_url, redis, lose_the_connection):
        plan(redis, "ours")
        scheduler = ours(wire.client)
        run_passes(scheduler, 3, monkeypatch)
        settle(redis, wire)
        assert [job_id.rpartition("-")[0] for job_id in waiting(redis)] == [SLOT], wire.moment


def run_passes(scheduler: SlotScheduler, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's loop, for ``count`` passes without the sleep between them."""
    passes = iter(range(count - 1))

    def sleep(_seconds: float) -> None:
        if next(passes, None) is None:
            scheduler._stop_requested = True

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        patch.setattr(scheduler, "_install_signal_handlers", lambda: None)
        scheduler.run()


# --- two of them ---------------------------------------------------------------------------------------------------


@BOTH
def test_another_scheduler_that_passes_in_between_any_two_sends_doubles_no_turn(
    redis: Redis, valkey_url: str, kind: str
) -> None:
    doubled = 0
    for wire in everywhere(valkey_url, redis, lambda _wire: one_pass(redis, kind), places=["before"]):
        plan(redis, kind)
        one_pass(wire.client, kind)
        settle(redis, wire)
        assert waiting(redis)
        doubled += len(waiting(redis)) > 1
    # Stock: without its lock, which a pass that takes longer than interval + 10 s has lost.
    assert bool(doubled) is (kind == "stock")


def test_a_reconciliation_that_was_held_up_brings_no_turn_back_that_another_scheduler_has_given(
    redis: Redis, valkey_url: str
) -> None:
    given: dict[str, float] = {}

    def minutes_later(_wire: Wire) -> None:
        plan(redis, "ours")
        one_pass(redis, "ours")
        given.update(scores(redis))
        clock.now = time.time()

    for wire in everywhere(valkey_url, redis, minutes_later, places=["before"]):
        given.clear()
        use(redis, "300:17")
        held_up = ours(wire.client)
        clock = Clock(held_up, time.time() - 400)
        held_up.reconcile()
        assert scores(redis)[SLOT] == given.get(SLOT, scores(redis)[SLOT]), wire.moment


def test_four_schedulers_at_once_enqueue_each_of_many_turns_once(redis: Redis, valkey_url: str) -> None:
    use(redis, *(f"300:{number}" for number in range(60)))
    Store(redis).vitals.set_queue_settings(100, 100)
    rounds, count = 5, 4
    barrier = threading.Barrier(count + 1, timeout=20)
    schedulers = [ours(Redis.from_url(valkey_url)) for _ in range(count)]
    enqueued: list[tuple[str, ...]] = []

    def schedule(scheduler: SlotScheduler) -> None:
        scheduler.reconcile()
        for _ in range(rounds):
            barrier.wait()
            enqueued.append(scheduler.enqueue_due(time.time()).enqueued)
            barrier.wait()
        scheduler.connection.close()

    threads = [threading.Thread(target=schedule, args=(each,), daemon=True) for each in schedulers]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        eventually(lambda: len(slots(redis)) == 60)
        for name in slots(redis):
            make_due(redis, name)
        enqueued.clear()
        barrier.wait()
        barrier.wait()
        told = [job_id for each in enqueued for job_id in each if job_id.startswith("check-")]
        assert len(told) == len(set(told)) == 60
        assert sorted(finish_all(redis)) == sorted(told)
    for thread in threads:
        thread.join(10)


def test_when_one_of_two_processes_is_killed_the_other_misses_no_turn(valkey_url: str, redis: Redis) -> None:
    use(redis, *(f"5:{number}" for number in range(60)))
    with short_folder() as folder:
        environment = {"REDIS_URL": valkey_url, "DATA_DIR": str(folder)}
        with (
            running(folder, "-m", "worker.scheduler", environment=environment) as first,
            running(folder, "-m", "worker.scheduler", environment=environment) as second,
        ):
            eventually(lambda: redis.zcard(keys.SCHEDULERS) == 2)
            turns = [next_turn(redis)]
            first.signal(signal.SIGKILL)
            turns += [next_turn(redis) for _ in range(3)]
            second.signal(signal.SIGTERM)
            assert second.exit_code() == 0
            assert redis.zcard(keys.SCHEDULERS) == 1
    # Five slots, one second apart: every second is the turn of one of them.
    assert turns == list(range(turns[0], turns[0] + 4))


def next_turn(redis: Any, seconds: float = 3) -> int:
    """Wait for the next check job, and take it as a worker would; the second of its turn."""
    popped = redis.blpop([CHECKS], timeout=seconds)
    assert popped, "no turn was enqueued"
    job_id = popped[1].decode()
    redis.delete(Job.key_for(job_id))
    return int(job_id.rpartition("-")[2])


def test_stock_is_silent_for_a_minute_after_one_that_was_killed(redis: Redis) -> None:
    minute = Scheduler("checks", connection=redis)
    assert minute.acquire_lock()
    assert not Scheduler("checks", connection=redis).acquire_lock()
    assert redis.ttl(Scheduler.scheduler_lock_key) > 60


# --- Redis away ----------------------------------------------------------------------------------------------------

STOCK_PROCESS = """
import sys
from redis import Redis
from rq_scheduler import Scheduler
Scheduler("checks", connection=Redis.from_url(sys.argv[1]), interval=1).run()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_while_redis_is_away_the_process_waits_and_then_goes_on(folder: Path) -> None:
    url = f"unix://{folder}/valkey.sock"
    environment = {"REDIS_URL": url, "DATA_DIR": str(folder)}
    with (
        Redis.from_url(url) as redis,
        running(folder, "-m", "worker.scheduler", environment=environment) as run,
        running(folder, "-c", STOCK_PROCESS, url, environment={}) as stock_run,
    ):
        run.says("Redis is away")
        with valkey_running(folder):
            use(redis, *(f"5:{number}" for number in range(60)))
            next_turn(redis, 10)
        assert stock_run.exit_code() != 0
        eventually(lambda: run.log.count("Redis is away") > 1)
        with valkey_running(folder) as server:
            finish_all(redis)
            next_turn(redis, 10)
            os.kill(server.pid, signal.SIGSTOP)
            before = run.log.count("Redis is away")
            eventually(lambda: run.log.count("Redis is away") > before, 15)
            os.kill(server.pid, signal.SIGCONT)
            finish_all(redis)
            next_turn(redis, 10)
            assert run.process.poll() is None
            assert set(slots(redis)) == {f"check-5-{number:03d}" for number in range(5)}
        run.says("Redis is away")
        run.signal(signal.SIGTERM)
        assert run.exit_code() == 0
        assert "Traceback" not in run.log


def test_an_emptied_redis_is_noticed_and_the_schedule_is_rebuilt(redis: Redis) -> None:
    scheduler = ours(redis)
    store = Store(redis)
    store.vitals.bear()
    (watched,) = put(store, "http://a.example/", interval=300)
    scheduler.tick()
    before = scores(redis)
    assert len(slots(redis)) == 1
    redis.flushall()
    # The snapshot is read at once, and not at its next turn.
    assert scheduler.tick() < 0.1
    scheduler.tick()
    assert [job_id.rpartition("-")[0] for job_id in waiting(redis, HOUSEKEEPING)] == ["snapshot"]
    assert not slots(redis)
    # What the snapshot job does: the same target comes back, and the store is born again.
    redis.sadd(keys.BUCKETS, f"300:{bucket_of(watched.target.id)}")
    redis.incr(keys.ORDERS)
    store.vitals.bear()
    scheduler.tick()
    assert scores(redis).keys() == before.keys()


def test_an_emptying_that_others_have_made_good_already_is_noticed_too(redis: Redis) -> None:
    scheduler = ours(redis)
    use(redis, "300:17")
    scheduler.store.vitals.bear()
    scheduler.tick()
    redis.flushall()
    use(redis, "300:17")
    scheduler.store.vitals.bear()
    scheduler.tick()
    assert slots(redis) == {SLOT}


# --- one job a slot ------------------------------------------------------------------------------------------------


@BOTH
def test_with_all_workers_stopped_for_an_hour_a_slot_has_one_job_in_the_queue(redis: Redis, kind: str) -> None:
    plan(redis, kind)
    for _turn in range(12):
        make_due(redis, SLOT)
        one_pass(redis, kind)
    assert len(waiting(redis)) == {"ours": 1, "stock": 12}[kind]


def test_an_hour_without_workers_leaves_one_job_a_slot_and_then_the_grid_goes_on(redis: Redis) -> None:
    use(redis, *(f"300:{number}" for number in range(60)))
    scheduler = ours(redis)
    scheduler.store.vitals.set_queue_settings(100, 100)
    clock = Clock(scheduler, 1_700_000_000.0)
    scheduler.reconcile()
    for _ in range(3600 // 30):
        clock.now += 30
        scheduler.enqueue_due(clock.now)
    assert len(waiting(redis)) == 60
    assert len({job_id.rpartition("-")[0] for job_id in waiting(redis)}) == 60
    finish_all(redis)
    clock.now += 300
    scheduler.enqueue_due(clock.now)
    assert len(waiting(redis)) == 60


def turn_begun(redis: Redis) -> str:
    """SLOT's turn is enqueued, and a worker has taken it out of the queue; the job's id."""
    plan(redis, "ours")
    one_pass(redis, "ours")
    (job_id,) = waiting(redis)
    redis.lpop(CHECKS)
    return job_id


def set_started(redis: Redis, job_id: str, seconds_ago: float) -> None:
    started_at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    redis.hset(Job.key_for(job_id), mapping={"status": "started", "started_at": started_at.isoformat()})


@pytest.mark.parametrize(
    ("state_of_the_job", "is_enqueued"),
    [
        ("just started", False),
        ("started, and its run is alive", False),
        ("started long ago, its run is dead", True),
        ("popped by a worker that was killed before the start", True),
        ("in rq's intermediate list", True),
        ("finished", True),
        ("failed", True),
        ("forgotten", True),
        ("of a status that nobody knows", True),
    ],
)
def test_a_slot_has_its_turn_unless_its_earlier_job_runs(
    redis: Redis, state_of_the_job: str, is_enqueued: bool
) -> None:
    job_id = turn_begun(redis)
    job = Job.fetch(job_id, connection=redis)
    match state_of_the_job:
        case "just started":
            set_started(redis, job_id, 1)
        case "started, and its run is alive":
            set_started(redis, job_id, 60)
            Store(redis).vitals.lease(SLOT, job_id)
        case "started long ago, its run is dead":
            set_started(redis, job_id, 60)
        case "in rq's intermediate list":
            redis.rpush(f"{CHECKS}:intermediate", job_id)
        case "finished" | "failed":
            job.set_status(JobStatus(state_of_the_job))
        case "forgotten":
            job.delete()
        case "of a status that nobody knows":
            redis.hset(job.key, "status", "levitating")
    make_due(redis, SLOT)
    one_pass(redis, "ours")
    assert len(waiting(redis)) == is_enqueued
    assert scores(redis)[SLOT] > time.time()


# --- entries that cannot be read, entries of others ----------------------------------------------------------------

DAMAGES: dict[str, Callable[[Redis, str], object]] = {
    "no job": lambda redis, key: redis.delete(key),
    "no hash": lambda redis, key: redis.delete(key) and redis.set(key, "junk"),
    "no data": lambda redis, key: redis.hdel(key, "data"),
    "data of no serializer": lambda redis, key: redis.hset(key, "data", b"\x80\x04junk"),
    "data of no job": lambda redis, key: redis.hset(key, "data", pickle.dumps(5)),
    "a time that is none": lambda redis, key: redis.hset(key, "created_at", "yesterday"),
    "a status that is none": lambda redis, key: redis.hset(key, "status", "levitating"),
    "a text that is none": lambda redis, key: redis.hset(key, "origin", b"\xff\xfe"),
    "a number that is none": lambda redis, key: redis.hset(key, "timeout", "soon"),
    "dependencies that are none": lambda redis, key: redis.hset(key, "dependency_ids", b"5"),
    "metadata that are none": lambda redis, key: redis.hset(key, "meta", pickle.dumps([1])),
    "a queue class that is none": lambda redis, key: redis.hset(
        key, "meta", pickle.dumps({"queue_class_name": "no.such.Queue"})
    ),
    "an interval that is none": lambda redis, key: redis.hset(key, "meta", pickle.dumps({"interval": "often"})),
    "a repeat that is none": lambda redis, key: redis.hset(key, "meta", pickle.dumps({"repeat": "often"})),
    "a cron string that is none": lambda redis, key: redis.hset(key, "meta", pickle.dumps({"cron_string": "* *"})),
    "a rate limit": lambda redis, key: redis.hset(key, mapping={"rate_limit_key": "k", "rate_limit_concurrency": 1}),
}


def plan_with_damage(redis: Redis, kind: str, damage: str) -> None:
    plan(redis, kind)
    stock(redis).enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), "os.getpid", job_id="theirs")
    DAMAGES[damage](redis, Job.key_for("theirs"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_of_others_that_cannot_be_enqueued_is_set_aside_and_stops_nothing(redis: Redis, damage: str) -> None:
    plan_with_damage(redis, "ours", damage)
    one_pass(redis, "ours")
    assert [job_id.rpartition("-")[0] for job_id in waiting(redis)] == [SLOT]
    assert slots(redis) == {SLOT}
    assert redis.hexists(keys.ASIDE, "theirs")


@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"no job", "no data", "a rate limit"}))
def test_stock_dies_of_such_an_entry(redis: Redis, damage: str) -> None:
    # It cancels one without a job silently, and can enqueue what RQ does not enqueue in a transaction.
    plan_with_damage(redis, "stock", damage)
    with pytest.raises(Exception):  # noqa: B017, PT011 - each damage has its own
        one_pass(redis, "stock")
    assert SLOT not in waiting(redis)


def test_a_name_that_is_no_text_stops_nothing(redis: Redis) -> None:
    plan(redis, "ours")
    redis.zadd(SCHEDULE, {b"\xff\xfe": 1})
    one_pass(redis, "ours")
    assert [job_id.rpartition("-")[0] for job_id in waiting(redis)] == [SLOT]


@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"a rate limit"}))
def test_an_entry_of_ours_that_cannot_be_read_has_its_turn_and_is_mended_by_the_next_reconciliation(
    redis: Redis, damage: str
) -> None:
    plan(redis, "ours")
    scheduler = ours(redis)
    scheduler.tick()
    finish_all(redis)
    DAMAGES[damage](redis, Job.key_for(SLOT))
    make_due(redis, SLOT)
    scheduler.tick()
    assert len(waiting(redis)) == 1
    scheduler.reconcile()
    (job,) = [job for job in stock(redis).get_jobs() if job.id == SLOT]
    assert (job.func_name, tuple(job.args), job.meta) == (queues.CHECK_SLOT, (300, 17, True), {"interval": 300})


def test_an_entry_of_ours_that_somebody_cancelled_comes_back(redis: Redis) -> None:
    plan(redis, "ours")
    stock(redis).cancel(SLOT)
    ours(redis).reconcile()
    assert slots(redis) == {SLOT}


def test_entries_made_with_the_stock_class_are_enqueued_as_it_would(redis: Redis) -> None:
    other, past = stock(redis), datetime(2020, 1, 1, tzinfo=UTC)
    other.enqueue_at(past, "os.getpid", job_id="once", queue_name="elsewhere")
    other.schedule(past + timedelta(1), "os.getpid", id="first", queue_name="elsewhere", at_front=True)
    other.schedule(past, "os.getpid", interval=10, repeat=3, id="thrice", queue_name="elsewhere")
    other.schedule(past, "os.getpid", interval=10, id="forever", queue_name="elsewhere")
    scheduler = ours(redis)
    for turn in range(4):
        for name in ("thrice", "forever"):
            make_due(redis, name, 3)
        due = scores(redis)
        scheduler.tick()
        jobs = waiting(redis, "rq:queue:elsewhere")
        assert set(jobs) == {"forever"} | ({"thrice"} if turn < 3 else set()) | (
            {"once", "first"} if turn == 0 else set()
        )
        assert jobs[0] == "first" or turn > 0
        assert all(Job.fetch(name, connection=redis).get_status() == JobStatus.QUEUED for name in jobs)
        assert scores(redis)["forever"] == due["forever"] + 10
        redis.delete("rq:queue:elsewhere")
    assert scores(redis).keys() == {"forever", "snapshot"}


@pytest.mark.filterwarnings("ignore:Version 0.22.0:FutureWarning")  # of crontab's, in stock's own use of it
def test_a_cron_entry_of_others_is_enqueued_and_due_again_at_its_next_time(redis: Redis) -> None:
    stock(redis).cron("30 * * * *", "os.getpid", id="hourly", queue_name="elsewhere")
    planned = scores(redis)["hourly"]
    make_due(redis, "hourly", 5)
    one_pass(redis, "ours")
    assert waiting(redis, "rq:queue:elsewhere") == ["hourly"]
    assert scores(redis)["hourly"] in (planned, planned + 3600)


@pytest.mark.parametrize(("status", "waits"), [(JobStatus.FINISHED, ["theirs"]), (JobStatus.QUEUED, [])])
def test_an_entry_of_others_that_depends_on_a_job_waits_for_it(
    redis: Redis, status: JobStatus, waits: list[str]
) -> None:
    earlier = Queue("elsewhere", connection=redis).enqueue("os.getpid", job_id="earlier")
    earlier.set_status(status)
    redis.delete("rq:queue:elsewhere")
    stock(redis).enqueue_at(
        datetime(2020, 1, 1, tzinfo=UTC), "os.getpid", job_id="theirs", queue_name="elsewhere", depends_on=earlier
    )
    one_pass(redis, "ours")
    assert waiting(redis, "rq:queue:elsewhere") == waits
    assert "theirs" not in scores(redis)
    assert redis.smembers(earlier.dependents_key) == (set() if waits else {b"theirs"})


def test_the_tools_of_rq_scheduler_show_our_slots_and_destroy_nothing(redis: Redis) -> None:
    use(redis, "300:17", "5:0")
    ours(redis).reconcile()
    before = scores(redis)
    shown = {job.id: job for job in stock(redis).get_jobs()}
    assert shown.keys() == {"snapshot", SLOT, "check-5-000"}
    assert shown[SLOT].get_call_string() == f"{queues.CHECK_SLOT}(300, 17, True)"
    assert shown[SLOT].meta == {"interval": 300}
    assert stock(redis).count() == 3
    assert SLOT in stock(redis)
    assert scores(redis) == before
    assert all(redis.ttl(Job.key_for(name)) == -1 for name in before)


# --- reconciling ---------------------------------------------------------------------------------------------------


def test_a_reconciliation_adds_what_is_missing_removes_what_nobody_needs_and_leaves_the_rest_alone(
    redis: Redis,
) -> None:
    stock(redis).enqueue_at(datetime(2100, 1, 1, tzinfo=UTC), "os.getpid", job_id="theirs")
    stock(redis).enqueue_at(datetime(2100, 1, 1, tzinfo=UTC), "os.getpid", job_id="check-theirs")
    use(redis, "300:17", "300:18")
    scheduler = ours(redis)
    scheduler.reconcile()
    redis.zadd(SCHEDULE, {SLOT: 5.5})
    redis.srem(keys.BUCKETS, "300:18")
    use(redis, "7:4")
    before = scores(redis)
    scheduler.reconcile()
    after = scores(redis)
    assert after.keys() == {"snapshot", SLOT, "check-7-004", "theirs", "check-theirs"}
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert not redis.exists(Job.key_for("check-300-018"))
    scheduler.reconcile()
    assert scores(redis) == after


def test_another_default_interval_moves_the_targets_that_follow_it(redis: Redis) -> None:
    use(redis, "0:17", "300:17")
    ours(redis, default_http_interval=300).reconcile()
    assert slots(redis) == {SLOT}
    assert Job.fetch(SLOT, connection=redis).args == (300, 17, True)
    ours(redis, default_http_interval=60).reconcile()
    assert slots(redis) == {SLOT, "check-60-017"}
    assert Job.fetch(SLOT, connection=redis).args == (300, 17, False)
    assert Job.fetch("check-60-017", connection=redis).args == (60, 17, True)


def test_the_slot_of_a_paused_or_deleted_target_vanishes_within_a_pass(redis: Redis) -> None:
    store = Store(redis)
    scheduler = ours(redis)
    paused, deleted = put(store, "http://a.example/", "http://b.example/", interval=86_400)
    scheduler.tick()
    slot_of = {each.target.id: f"check-86400-{bucket_of(each.target.id):03d}" for each in (paused, deleted)}
    assert slots(redis) == set(slot_of.values())
    put(store, "http://a.example/", paused=True)
    scheduler.tick()
    assert slots(redis) == {slot_of[deleted.target.id]}
    store.targets.delete(deleted.target.id, now=2)
    scheduler.tick()
    assert slots(redis) == set()
    put(store, "http://a.example/", paused=False)
    scheduler.tick()
    assert slots(redis) == {slot_of[paused.target.id]}


def test_a_hundred_thousand_targets_cost_the_scheduler_what_a_hundred_do(redis: Redis, valkey_url: str) -> None:
    sends = {}
    for count in (1_000, 100_000):
        redis.flushall()
        members: dict[int, list[str]] = {}
        for number in range(count):
            members.setdefault(bucket_of(f"{number:016x}"), []).append(f"{number:016x}")
        for bucket, ids in members.items():
            redis.sadd(keys.bucket(0, bucket), *ids)
            redis.sadd(keys.BUCKETS, f"0:{bucket}")
        wire = Wire.untouched(valkey_url)
        ours(wire.client).tick()
        wire.close()
        sends[count] = wire.sends
        assert len(slots(redis)) == 60
    assert sends[1_000] == sends[100_000]


# --- backpressure --------------------------------------------------------------------------------------------------


def test_a_full_queue_holds_slots_back_still_due_until_there_is_room(redis: Redis) -> None:
    use(redis, *(f"300:{number}" for number in range(0, 60, 10)))
    scheduler = ours(redis)
    scheduler.store.vitals.set_queue_settings(2, 2)
    scheduler.reconcile()
    for number, name in enumerate(sorted(slots(redis))):
        make_due(redis, name, 100 - number)
    before = scores(redis)
    order = sorted(slots(redis))
    now = time.time()
    done = scheduler.enqueue_due(now)
    assert [job_id.rpartition("-")[0] for job_id in waiting(redis)] == order[:4]
    assert {name: scores(redis)[name] for name in order[4:]} == {name: before[name] for name in order[4:]}
    assert done.wake_at <= now + 0.5
    redis.delete(Job.key_for(waiting(redis)[0]))
    redis.lpop(CHECKS)
    assert [job_id.rpartition("-")[0] for job_id in scheduler.enqueue_due(time.time()).enqueued] == [order[4]]
    finish_all(redis)
    done = scheduler.enqueue_due(time.time())
    assert [job_id.rpartition("-")[0] for job_id in done.enqueued] == [order[5]]
    for name in order:
        phase = int(name.rpartition("-")[2]) * 5
        assert scores(redis)[name] % 300 == phase


def test_the_bound_of_the_queue_follows_the_workers_that_are_alive(redis: Redis) -> None:
    use(redis, *(f"300:{number}" for number in range(60)))
    scheduler = ours(redis)
    scheduler.store.vitals.set_queue_settings(1, 3)
    workers = [Worker([Queue("checks", connection=redis)], connection=redis) for _ in range(5)]
    for worker in workers:
        worker.hostname, worker.pid = os.uname().nodename, os.getpid()
        worker.register_birth()  # type: ignore[no-untyped-call]
    redis.hset(workers[0].key, "pid", 2**22)  # no such process
    workers[1].register_death()  # type: ignore[no-untyped-call]
    scheduler.reconcile()
    for name in slots(redis):
        make_due(redis, name)
    scheduler.enqueue_due(time.time())
    assert len(waiting(redis)) == 3 * 3


def test_the_snapshot_and_mails_are_not_held_back_by_a_full_queue_of_checks(redis: Redis) -> None:
    owe(redis, 1, wait_seconds=0)
    use(redis, "300:17")
    scheduler = ours(redis)
    scheduler.reconcile()
    redis.rpush(CHECKS, *(f"job-{number}" for number in range(100)))
    make_due(redis, "snapshot")
    make_due(redis, SLOT)
    eventually(lambda: scheduler.store.outbox.is_due(now=int(time.time() * 1000)))
    scheduler.tick()
    assert len(waiting(redis)) == 100
    assert len(waiting(redis, HOUSEKEEPING)) == 1
    assert len(waiting(redis, EMAILS)) == 1


# --- mails on their way --------------------------------------------------------------------------------------------


def owe(redis: Redis, count: int, wait_seconds: float) -> float:
    """So many targets go down at once; when it was (seconds since the epoch)."""
    now = int(time.time() * 1000)
    store = Store(redis)
    targets = put(store, *(f"http://{number}.example/" for number in range(count)))
    settings = settings_for("unix:///nowhere", alert_group_wait=wait_seconds)
    record(store, settings, targets, Verdict.DOWN, now)
    return now / 1000


def test_many_alerts_are_one_deliver_job_and_none_before_the_grouping_window_is_over(redis: Redis) -> None:
    began = owe(redis, 20, wait_seconds=10)
    scheduler = ours(redis)
    assert scheduler.dispatch(began) == []
    assert scheduler.dispatch(began + 9.9) == []
    assert scheduler.dispatch(began + 10.1) != []
    assert scheduler.dispatch(began + 10.2) == []
    assert scheduler.dispatch(began + 500) == []
    assert len(waiting(redis, EMAILS)) == 1


def test_what_a_deliver_job_left_because_more_came_is_dispatched_again_when_that_is_due(redis: Redis) -> None:
    began = owe(redis, 1, wait_seconds=10)
    scheduler = ours(redis)
    store, settings = scheduler.store, settings_for("unix:///nowhere", alert_group_wait=10)
    record(store, settings, put(store, "http://later.example/"), Verdict.DOWN, int(began * 1000) + 6_000)
    assert scheduler.dispatch(began + 10.1) != []
    assert store.outbox.claim("early", now=int(began * 1000) + 10_100, wait_ms=10_000) is None
    finish_all(redis, EMAILS)
    assert scheduler.dispatch(began + 15.9) == []
    assert scheduler.dispatch(began + 16.1) != []
    mail = store.outbox.claim("mail", now=int(began * 1000) + 16_100, wait_ms=10_000)
    assert mail is not None
    assert len(mail.alerts) == 2


def test_while_a_deliver_job_runs_no_other_is_enqueued_and_after_its_death_one_is(redis: Redis) -> None:
    began = owe(redis, 1, wait_seconds=0)
    scheduler = ours(redis)
    (job_id,) = scheduler.dispatch(began + 1)
    assert job_id is not None
    redis.lpop(EMAILS)
    set_started(redis, job_id, 30)
    assert scheduler.dispatch(began + 31) == []
    set_started(redis, job_id, 101)
    assert scheduler.dispatch(began + 102) != []


def test_a_deliver_job_is_waited_for_while_its_worker_lives_and_no_longer(redis: Redis) -> None:
    began = owe(redis, 1, wait_seconds=0)
    scheduler = ours(redis)
    (job_id,) = scheduler.dispatch(began + 1)
    redis.lpop(EMAILS)
    set_started(redis, job_id, 1)
    redis.hset(Job.key_for(job_id), "worker_name", "its-worker")
    key = "rq:worker:its-worker"
    redis.sadd(f"rq:workers:{queues.EMAILS}", key)
    redis.hset(key, mapping={"hostname": "another-machine", "pid": 1})
    redis.expire(key, 90)
    assert scheduler.dispatch(began + 2) == []
    redis.delete(key)
    assert scheduler.dispatch(began + 3) != []


def test_a_mail_whose_job_was_killed_is_dispatched_again_under_its_own_id_when_its_lease_ends(redis: Redis) -> None:
    began = owe(redis, 3, wait_seconds=0)
    scheduler = ours(redis)
    outbox = scheduler.store.outbox
    claimed = outbox.claim("the-mail", now=int(began * 1000) + 1000)
    assert claimed is not None
    assert scheduler.dispatch(began + 100) == []
    assert scheduler.dispatch(began + 122) != []
    again = outbox.claim("another", now=int(began * 1000) + 122_000)
    assert again == claimed


def test_after_a_failure_mails_wait_longer_each_time_and_at_most_a_quarter_of_an_hour(redis: Redis) -> None:
    now = int(owe(redis, 3, wait_seconds=0) * 1000) + 1000
    scheduler = ours(redis)
    outbox = scheduler.store.outbox
    waits = []
    for _ in range(10):
        mail = outbox.claim("mail", now=now)
        assert mail is not None
        until = outbox.delayed(mail, now=now, error="no", may_have_arrived=False)
        finish_all(redis, EMAILS)
        assert scheduler.dispatch(until / 1000 - 0.1) == []
        assert scheduler.dispatch(until / 1000 + 0.1) != []
        waits.append((until - now) // 1000)
        now = until + 100
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


def test_a_sent_mail_ends_the_waiting_of_the_next(redis: Redis) -> None:
    now = int(owe(redis, 1, wait_seconds=0) * 1000) + 1000
    outbox = Store(redis).outbox
    mail = outbox.claim("mail", now=now)
    assert mail is not None
    until = outbox.delayed(mail, now=now, error="no", may_have_arrived=True)
    again = outbox.claim("other", now=until)
    assert again is not None
    outbox.sent(again, now=until, recipients=["ops@example.org"], refused={})
    assert outbox.counts().failures == 0
    assert ours(redis).dispatch(until / 1000 + 1000) == []
