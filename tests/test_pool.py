"""The worker pool for real: a process of its own on an embedded Valkey, its size read from a key there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, Worker
from rq.job import Job, JobStatus

from tests.processes import Run, running, short_folder
from tests.waiting import eventually
from worker import valkey

POOL = """
import logging, sys
from redis import Redis
import tests.test_pool
from worker.pool import ResizablePool

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
asking = Redis.from_url(sys.argv[1], socket_timeout=2)
ResizablePool(["checks"], Redis.from_url(sys.argv[1]), lambda: int(asking.get("wanted") or 1)).start()
print("left in good order")
"""

ONE_WORKER = """
import os, signal, sys
from redis import Redis
from rq import Queue, Worker
import tests.test_pool
import worker.pool

class Interrupted(Queue):
    @classmethod
    def dequeue_any(cls, *args, **kwargs):
        popped = super().dequeue_any(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)
        return popped

redis = Redis.from_url(sys.argv[1])
kind = {"ours": worker.pool.SteadyWorker, "stock": Worker}[sys.argv[2]]
kind([Interrupted("checks", connection=redis)], connection=redis, queue_class=Interrupted).work()
"""


def work_until_released(url: str, name: str) -> str:
    """The job of these tests: says that it runs, and ends when it is told to."""
    with Redis.from_url(url) as redis:
        redis.rpush(f"running:{name}", os.getpid())
        redis.blpop([f"release:{name}"], timeout=30)
    return "done"


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def start_pool(folder: Path, url: str) -> AbstractContextManager[Run]:
    return running(folder, "-c", POOL, url, environment={})


def workers(redis: Redis) -> set[int]:
    """The pids of the workers that are registered and have not said that they leave."""
    return {worker.pid or 0 for worker in Worker.all(queue=Queue("checks", connection=redis))}


def enqueue(redis: Redis, url: str, name: str) -> Job:
    return Queue("checks", connection=redis).enqueue(work_until_released, url, name, job_id=name, job_timeout=60)


def begin(redis: Redis, url: str, name: str) -> Job:
    """Enqueue a job and wait until it runs."""
    job = enqueue(redis, url, name)
    eventually(lambda: redis.llen(f"running:{name}"))
    return job


def release(redis: Redis, name: str) -> None:
    redis.rpush(f"release:{name}", 1)


def is_finished(job: Job) -> bool:
    return job.get_status(refresh=True) == JobStatus.FINISHED


def test_its_workers_are_seen_again_after_redis_was_emptied(folder: Path, redis: Redis, valkey_url: str) -> None:
    redis.set("wanted", 2)
    with start_pool(folder, valkey_url):
        eventually(lambda: len(workers(redis)) == 2)
        before = workers(redis)
        redis.flushall()
        redis.set("wanted", 2)
        eventually(lambda: workers(redis) == before)


def test_it_grows_and_shrinks_while_it_runs(folder: Path, redis: Redis, valkey_url: str) -> None:
    redis.set("wanted", 2)
    with start_pool(folder, valkey_url):
        eventually(lambda: len(workers(redis)) == 2)
        first = workers(redis)
        redis.set("wanted", 5)
        eventually(lambda: len(workers(redis)) == 5, 3)
        assert first < workers(redis)
        redis.set("wanted", 1)
        eventually(lambda: len(workers(redis)) == 1, 5)
        assert workers(redis) < first


def test_it_shrinks_by_letting_workers_finish_and_never_starts_them_again(
    folder: Path, redis: Redis, valkey_url: str
) -> None:
    redis.set("wanted", 2)
    with start_pool(folder, valkey_url) as run:
        jobs = [begin(redis, valkey_url, name) for name in ("a", "b")]
        redis.set("wanted", 1)
        run.says("workers: 1, were 2")
        waiting = enqueue(redis, valkey_url, "c")
        release(redis, "a")
        release(redis, "b")
        release(redis, "c")
        for job in (*jobs, waiting):
            eventually(lambda job=job: is_finished(job))  # type: ignore[misc]
        eventually(lambda: len(workers(redis)) == 1)
        assert "ended by itself" not in run.log


def test_a_killed_worker_is_replaced(folder: Path, redis: Redis, valkey_url: str) -> None:
    with start_pool(folder, valkey_url) as run:
        (pid,) = eventually(lambda: workers(redis))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: workers(redis) - {pid}, 3)
        run.says(f"worker {pid} ended by itself with code -9")


def test_repeated_signals_do_not_interrupt_a_job(folder: Path, redis: Redis, valkey_url: str) -> None:
    with start_pool(folder, valkey_url) as run:
        job = begin(redis, valkey_url, "a")
        # Like a Control-C in a terminal, which goes to the whole group; rq kills the job at one after the first second.
        os.killpg(run.pid, signal.SIGINT)
        run.says("stopping: 1 workers finish")
        stopped = redis.time()
        eventually(lambda: _interrupt(run) and redis.time() > (stopped[0] + 2, stopped[1]))
        release(redis, "a")
        assert run.exit_code() == 0
        assert is_finished(job)
        assert "left in good order" in run.log
        assert not workers(redis)
        assert not run.living()


def _interrupt(run: Run) -> bool:
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.killpg(run.pid, signum)
    return True


def test_an_idle_pool_stops_within_seconds(folder: Path, redis: Redis, valkey_url: str) -> None:
    redis.set("wanted", 3)
    with start_pool(folder, valkey_url) as run:
        eventually(lambda: len(workers(redis)) == 3)
        run.signal(signal.SIGTERM)
        assert run.exit_code(4) == 0
        assert not workers(redis)


def test_a_request_to_leave_between_the_pop_of_a_job_and_its_start_does_not_lose_the_job(
    folder: Path, redis: Redis, valkey_url: str
) -> None:
    statuses = {}
    for kind in ("ours", "stock"):
        job = enqueue(redis, valkey_url, kind)
        release(redis, kind)
        with running(folder, "-c", ONE_WORKER, valkey_url, kind, environment={}) as run:
            assert run.exit_code() == 0
        statuses[kind] = job.get_status(refresh=True)
    # The second half says why SteadyWorker is needed: rq leaves the job, popped and queued, to nobody.
    assert statuses == {"ours": JobStatus.FINISHED, "stock": JobStatus.QUEUED}
    assert not Queue("checks", connection=redis).job_ids


def test_killing_the_pool_lets_its_workers_finish_and_leave(folder: Path, redis: Redis, valkey_url: str) -> None:
    redis.set("wanted", 3)
    with start_pool(folder, valkey_url) as run:
        job = begin(redis, valkey_url, "a")
        eventually(lambda: len(workers(redis)) == 3)
        run.signal(signal.SIGKILL)
        eventually(lambda: len(workers(redis)) == 1)
        release(redis, "a")
        run.leaves_nothing()
        assert is_finished(job)


def test_killing_a_worker_takes_its_work_horse_along(folder: Path, redis: Redis, valkey_url: str) -> None:
    with start_pool(folder, valkey_url) as run:
        begin(redis, valkey_url, "a")
        horse = int(redis.lindex("running:a", 0) or 0)
        (pid,) = workers(redis)
        assert {horse, pid} < set(run.living())
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: horse not in run.living())


def test_it_waits_while_redis_is_away_and_goes_on_with_the_same_number(folder: Path) -> None:
    url = f"unix://{folder}/own.sock"
    with Redis.from_url(url) as redis, start_pool(folder, url) as run:
        run.says("Redis is away")
        with _server(folder, redis):
            redis.set("wanted", 2)
            run.says("Redis is back")
            eventually(lambda: len(workers(redis)) == 2)
            before = workers(redis)
        eventually(lambda: run.log.count("Redis is away") == 2)
        with _server(folder, redis):
            job = enqueue(redis, url, "a")
            release(redis, "a")
            eventually(lambda: is_finished(job), 20)
            assert workers(redis) == before


def test_it_can_be_stopped_while_redis_is_away(folder: Path) -> None:
    url = f"unix://{folder}/own.sock"
    with Redis.from_url(url) as redis, start_pool(folder, url) as run:
        with _server(folder, redis):
            eventually(lambda: len(workers(redis)) == 1)
        run.says("Redis is away")
        run.signal(signal.SIGTERM)
        assert run.exit_code(25) == 0
        assert "Traceback" not in run.log


@contextmanager
def _server(folder: Path, redis: Redis) -> Iterator[None]:
    """A Valkey of the test's own, which keeps its data from one start to the next."""
    argv = valkey.command(folder / "own.sock", folder)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as server:
        eventually(lambda: _answers(redis))
        try:
            yield
        finally:
            server.terminate()


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False
