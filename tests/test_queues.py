"""The queues: the verbs that fill them, the names of the jobs, who is alive, and jobs taken out by a run."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, SimpleWorker, Worker
from rq.job import Job, JobStatus
from rq.utils import import_attribute

from shared import queues
from shared.queues import BATCH_SIZE, CHECK_SLOT, CHECK_TARGETS, CHECKS, EMAILS, NOTIFICATIONS, QUEUES, Queues
from tests.fakes import Wire, everywhere, settings_for
from tests.processes import Run, running
from tests.waiting import eventually
from worker.schedule import wanted

BEHIND_A_SOCKET, ELSEWHERE = "unix:///tmp/valkey.sock", "redis://redis.example"
JOB_NAMES = {value for value in vars(queues).values() if isinstance(value, str) and value.startswith("worker.jobs.")}


@pytest.fixture
def work(redis: Redis, valkey_url: str) -> Queues:
    return Queues(redis, settings_for(valkey_url))


def waiting_jobs(redis: Redis, name: str = CHECKS) -> list[Job]:
    """The jobs that wait, the next one first."""
    return Queue(name, connection=redis).jobs


def taken(work: Queues) -> tuple[str, tuple[Any, ...]]:
    """The check that a run takes, which must know when it was enqueued."""
    found = work.take_waiting_check("run", 1)
    assert found is not None
    assert found.enqueued_at is not None
    assert abs(time.time() * 1000 - found.enqueued_at) < 10_000
    return found.function, found.args


def ids(count: int) -> list[str]:
    return [f"{number:016x}" for number in range(count)]


# --- names and arguments -------------------------------------------------------------------------------------------


def test_every_name_of_a_job_is_a_function_of_the_background_processes() -> None:
    assert {
        queues.CHECK_SLOT,
        queues.CHECK_TARGETS,
        queues.CHECK_AGAIN,
        queues.CHECK_TRIAL,
        queues.DELIVER,
        queues.NOTIFY,
        queues.PING_HEARTBEAT,
        queues.KEEP_SNAPSHOT,
    } == JOB_NAMES
    for name in JOB_NAMES:
        assert inspect.isfunction(import_attribute(name))


def test_every_function_of_the_background_processes_has_a_name() -> None:
    module = import_attribute(queues.DELIVER).__globals__
    public = {
        f"worker.jobs.{name}"
        for name, value in module.items()
        if inspect.isfunction(value) and value.__module__ == "worker.jobs" and not name.startswith("_")
    }
    assert public == JOB_NAMES


def test_every_job_takes_the_arguments_that_it_is_enqueued_with(redis: Redis, work: Queues) -> None:
    work.enqueue_check(ids(1))
    work.enqueue_rest_of_slot(300, ids(1), 1_700_000_000_000)
    for number, entry in enumerate(wanted({0: {1}, 5: {2}}, 300, 600).values()):
        scheduled_at = (1_700_000_000_000,) if entry.function == CHECK_SLOT else ()
        work.push(entry.queue, entry.function, (*entry.args, *scheduled_at), job_id=f"j{number}", timeout=entry.timeout)
    work.push(EMAILS, queues.DELIVER, (), job_id="deliver-1")
    work.push(NOTIFICATIONS, queues.NOTIFY, (), job_id="notify-1")
    work.push(NOTIFICATIONS, queues.PING_HEARTBEAT, (), job_id="heartbeat-1")
    work.enqueue_trial("0f" * 8)
    work.enqueue_opinions(ids(2))

    jobs = [job for name in QUEUES for job in waiting_jobs(redis, name)]

    assert {job.func_name for job in jobs} == JOB_NAMES
    for job in jobs:
        inspect.signature(import_attribute(str(job.func_name))).bind(*job.args, **job.kwargs)
        # Ids and numbers, never text that came from outside.
        assert all(isinstance(argument, int | list) or argument == "0f" * 8 for argument in job.args)


def test_stock_rq_reads_our_jobs_and_forgets_their_results(redis: Redis, work: Queues) -> None:
    work.enqueue_check(ids(2))
    (job,) = waiting_jobs(redis)
    assert job.get_status() is JobStatus.QUEUED
    assert job.args == (ids(2),)
    assert (job.result_ttl, job.failure_ttl) == (300, 86_400)
    assert job.timeout == 1_800
    assert job.description == job.id


def test_stock_rq_keeps_nothing_of_a_trial(redis: Redis, work: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("worker.jobs.check_trial", made.append)
    work.enqueue_trial("0f" * 8)
    SimpleWorker([work.queue(CHECKS)], connection=redis).work(burst=True)
    assert made == ["0f" * 8]
    assert [key for key in redis.keys("rq:*") if b"trial" in key or b"finished" in key] == []


# --- the verbs -----------------------------------------------------------------------------------------------------


def test_a_new_target_is_checked_before_the_rest_of_a_slot(redis: Redis, work: Queues) -> None:
    work.enqueue_rest_of_slot(300, ids(3), 5)
    work.enqueue_check(ids(1))
    assert [job.args for job in waiting_jobs(redis)] == [(ids(1),), (ids(3), 5)]


def test_many_targets_are_shared_out_in_batches_of_five_hundred(redis: Redis, work: Queues) -> None:
    everything = ids(2 * BATCH_SIZE + 1)
    work.enqueue_check(everything)
    work.enqueue_rest_of_slot(300, everything, 5)
    jobs = waiting_jobs(redis)
    assert sorted(len(job.args[0]) for job in jobs) == [1, 1, 500, 500, 500, 500]
    assert sorted(target for job in jobs if len(job.args) == 1 for target in job.args[0]) == everything
    assert sorted(target for job in jobs if len(job.args) == 2 for target in job.args[0]) == everything
    assert len({job.id for job in jobs}) == 6


def test_no_target_is_no_job(redis: Redis, work: Queues) -> None:
    work.enqueue_check([])
    work.enqueue_rest_of_slot(300, [], 5)
    assert work.waiting(CHECKS) == 0


def test_a_job_pushed_in_a_transaction_is_there_when_that_is_executed(redis: Redis, work: Queues) -> None:
    with redis.pipeline(transaction=True) as pipe:
        pipe.multi()
        work.push(CHECKS, CHECK_TARGETS, (ids(1),), job_id="j", pipeline=pipe)
        assert work.waiting(CHECKS) == 0
        pipe.execute()
    assert work.waiting(CHECKS) == 1
    assert work.is_waiting(CHECKS, "j")
    assert not work.is_waiting(EMAILS, "j")


def test_what_is_known_of_a_job(redis: Redis, work: Queues) -> None:
    assert work.status("nobody") == (None, None)
    work.push(CHECKS, CHECK_TARGETS, (ids(1),), job_id="j")
    assert work.status("j") == (JobStatus.QUEUED, None)
    redis.hset(Job.key_for("j"), mapping={"status": "started", "started_at": "2026-11-22T17:00:00.500000Z"})
    assert work.status("j") == (JobStatus.STARTED, 1_795_366_800.5)
    redis.hset(Job.key_for("j"), mapping={"status": "sideways", "started_at": "yesterday"})
    assert work.status("j") == (None, None)


@pytest.mark.parametrize(("timeout", "seconds"), [(5, 1_800), (300, 1_800), (400.5, 2_202)])
def test_a_check_job_may_take_longer_than_four_attempts(timeout: float, seconds: int) -> None:
    assert queues.check_timeout_seconds(settings_for(ELSEWHERE, default_http_timeout=timeout)) == seconds


def test_slots_have_names_that_sort() -> None:
    assert [queues.slot_name(300, slot) for slot in (0, 17)] == ["check-300-000", "check-300-017"]


# --- who is alive --------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(redis: Redis) -> Worker:
    """A worker of the queue ``checks`` that has registered itself, with this process's pid."""
    made = Worker([Queue(CHECKS, connection=redis)], connection=redis, name="w1")
    made.register_birth()  # type: ignore[no-untyped-call]
    return made


@pytest.fixture
def ended_pid() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def names(redis: Redis, url: str = ELSEWHERE, queue: str = CHECKS) -> list[str]:
    return [seen.name for seen in Queues(redis, settings_for(url)).workers(queue)]


def test_a_worker_that_has_registered_is_alive_on_its_queue_only(redis: Redis, worker: Worker) -> None:
    (seen,) = Queues(redis, settings_for(BEHIND_A_SOCKET)).workers(CHECKS)
    assert (seen.name, seen.host, seen.pid) == ("w1", socket.gethostname(), worker.pid)
    assert names(redis, queue=EMAILS) == []


def test_a_worker_that_has_said_goodbye_is_not_alive(redis: Redis, worker: Worker) -> None:
    worker.register_death()  # type: ignore[no-untyped-call]
    assert names(redis) == []


def test_a_worker_that_said_goodbye_and_is_still_listed_is_not_alive(redis: Redis, worker: Worker) -> None:
    redis.hset(worker.key, "death", "2026-11-22T17:00:00.000000Z")
    assert names(redis) == []


def test_a_worker_is_alive_until_it_misses_a_heartbeat(redis: Redis, worker: Worker) -> None:
    redis.expire(worker.key, 58)
    assert names(redis) == ["w1"]
    redis.expire(worker.key, 54)
    assert names(redis) == []
    worker.heartbeat()
    assert names(redis) == ["w1"]


def test_a_worker_whose_key_has_expired_is_not_alive(redis: Redis, worker: Worker) -> None:
    redis.delete(worker.key)
    assert redis.smembers("rq:workers:checks")
    assert names(redis) == []


def test_a_worker_killed_on_this_host_is_known_at_once_where_redis_is_behind_a_socket(
    redis: Redis, worker: Worker, ended_pid: int
) -> None:
    redis.hset(worker.key, "pid", ended_pid)
    assert names(redis, BEHIND_A_SOCKET) == []
    assert names(redis, ELSEWHERE) == ["w1"]


def test_the_pid_of_another_host_says_nothing(redis: Redis, worker: Worker, ended_pid: int) -> None:
    redis.hset(worker.key, mapping={"pid": ended_pid, "hostname": "elsewhere"})
    assert names(redis, BEHIND_A_SOCKET) == ["w1"]


def test_a_queue_is_seen_with_its_jobs_and_workers(redis: Redis, work: Queues, worker: Worker) -> None:
    for number in range(3):
        work.push(CHECKS, CHECK_TARGETS, (ids(1),), job_id=f"j{number}")
    redis.zadd("rq:wip:checks", {"runs:1": time.time() + 60, "worker-gone:1": time.time() - 60})
    redis.zadd("rq:failed:checks", {"failed": time.time() + 60})
    seen = work.seen(CHECKS)[CHECKS]
    assert (seen.waiting, seen.running, seen.failed) == (3, 1, 1)
    assert [each.name for each in seen.workers] == ["w1"]


# --- jobs that a run takes -----------------------------------------------------------------------------------------


def test_a_run_takes_the_first_check_that_waits_and_its_job_with_it(redis: Redis, work: Queues) -> None:
    work.push(CHECKS, CHECK_SLOT, (300, 17, True, 5), job_id="slot")
    work.enqueue_check(ids(2))

    assert taken(work) == (CHECK_TARGETS, (ids(2),))
    assert taken(work) == (CHECK_SLOT, (300, 17, True, 5))
    assert work.take_waiting_check("run", 1) is None
    assert not Job.exists("slot", connection=redis)
    assert list(redis.scan_iter("rq:job:*")) == []


def test_a_run_leaves_alone_what_is_not_ours_or_cannot_be_read(redis: Redis, work: Queues) -> None:
    Queue(CHECKS, connection=redis).enqueue("os.getpid", job_id="theirs")
    redis.rpush("rq:queue:checks", "nobody")
    work.push(CHECKS, CHECK_TARGETS, (ids(1),), job_id="torn")
    redis.hset(Job.key_for("torn"), "data", b"\x80nonsense")
    work.push(CHECKS, CHECK_TARGETS, (ids(1),), job_id="ours")

    assert taken(work) == (CHECK_TARGETS, (ids(1),))
    assert work.take_waiting_check("run", 1) is None
    assert redis.lrange("rq:queue:checks", 0, -1) == [b"theirs", b"nobody", b"torn"]


def test_at_whatever_moment_a_worker_pops_a_check_it_is_had_by_exactly_one(redis: Any, valkey_url: str) -> None:
    settings = settings_for(valkey_url)
    popped: list[bytes | None] = []

    def pop(_wire: Wire) -> None:
        popped.append(redis.lmove("rq:queue:checks", "rq:queue:checks:intermediate"))

    winners = set()
    for wire in everywhere(valkey_url, redis, pop):
        popped.clear()
        Queues(redis, settings).enqueue_check(ids(1))
        (job,) = waiting_jobs(redis)
        is_taken = Queues(wire.client, settings).take_waiting_check("run", 1) is not None
        is_popped = popped not in ([], [None])
        assert is_taken is not is_popped
        assert Job.exists(job.id, connection=redis) is is_popped
        winners.add("run" if is_taken else "worker")
    assert winners == {"run", "worker"}


@pytest.fixture
def rq_worker(redis: Redis, valkey_url: str, tmp_path: Path) -> Iterator[Run]:
    """A real worker of the queue ``checks``, as people start it."""
    command = (str(Path(sys.executable).with_name("rq")), "worker", "-c", "worker.rqconfig", "checks")
    with running(tmp_path, *command, environment={"REDIS_URL": valkey_url}) as run:
        eventually(lambda: names(redis), 20)
        yield run


def test_a_check_that_a_run_and_a_worker_want_at_once_is_had_by_exactly_one(
    redis: Any, work: Queues, rq_worker: Run
) -> None:
    taken: list[str] = []
    number = 0

    def finished() -> set[str]:
        jobs = [key.decode().removeprefix("rq:job:") for key in redis.scan_iter("rq:job:*")]
        return {job_id for job_id in jobs if redis.hget(f"rq:job:{job_id}", "status") == b"finished"}

    deadline = time.monotonic() + 20
    while (len(taken) < 20 or len(finished()) < 20) and time.monotonic() < deadline:
        for _ in range(3):
            work.push(CHECKS, CHECK_TARGETS, ([f"{number:016x}"],), job_id=f"{number:016x}")
            number += 1
        while (job := work.take_waiting_check("run", 1)) is not None:
            taken += job.args[0]
        if not taken or len(finished()) < len(taken):
            work.push(CHECKS, CHECK_TARGETS, ([f"{number:016x}"],), job_id=f"{number:016x}")
            number += 1
            eventually(lambda: work.waiting(CHECKS) == 0)

    eventually(lambda: len(finished()) + len(taken) == number)
    assert sorted([*finished(), *taken]) == ids(number)
    assert len(taken) >= 20
    assert len(finished()) >= 20
