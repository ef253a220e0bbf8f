"""The check workers: as many processes on the queue ``checks`` as a setting in Redis says, while it changes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from rq import Queue, Worker, worker_registration
from rq.exceptions import StopRequested
from rq.job import Job
from rq.utils import now
from rq.worker_pool import ForkProcess, WorkerData, WorkerPool

from shared.queues import CHECKS, Queues
from shared.settings import SettingsError, settings_of_this_process
from shared.store import Store
from worker.lifeline import die_with_parent
from worker.watch import Watch

TICK_SECONDS = 0.5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REDIS_IS_AWAY = (RedisConnectionError, RedisTimeoutError)


class SteadyWorker(Worker):
    """An RQ worker that loses no job when it is asked to leave.

    rq raises out of whatever the worker does when the signal comes; between the pop of a job and its start that
    leaves the job in no queue for some twenty minutes. This one looks at the request between two pops, which wait a
    second at the most. A second signal changes nothing: who wants to kill it has SIGKILL.

    Nor does it end when Redis goes away at a moment that rq is not prepared for: while it says that it is idle, looks
    whether it is suspended, cleans up, or says that it lives.
    """

    max_connection_wait_time = 5.0
    log_result_lifespan = False

    @property
    def dequeue_timeout(self) -> int:
        return 1

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- as signal.signal() calls it
        self._shutdown_requested_date = now()
        self._stop_requested = True

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        if timeout is None or max_idle_time is not None:
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        while not self._stop_requested:
            if (result := super().dequeue_job_and_maintain_ttl(timeout, max_idle_time=timeout)) is not None:
                return result
        raise StopRequested

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().heartbeat(*args, **kwargs)
            self._register_again_if_forgotten()
        except _REDIS_IS_AWAY:
            if self.horse_pid:
                raise
            # While Redis is away rq waits for it inside the dequeue, where nobody looks at the request.
            if self._stop_requested:
                raise StopRequested from None

    def set_state(self, state: str, pipeline: Any = None) -> None:
        with suppress(*_REDIS_IS_AWAY):
            super().set_state(state, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        with suppress(*_REDIS_IS_AWAY):
            super().check_for_suspension(burst)

    def run_maintenance_tasks(self) -> None:
        with suppress(*_REDIS_IS_AWAY):
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def _register_again_if_forgotten(self) -> None:
        """A Redis that was emptied, or away for longer than the key lives, has forgotten this worker.

        rq's heartbeat would bring back the key with nothing in it but the heartbeat, and the worker would work on for
        ever without being seen.
        """
        if self._is_horse or self.birth_date is None or self.connection.hexists(self.key, "pid"):
            return
        with self.connection.pipeline() as pipe:
            pipe.hset(self.key, mapping=self.serialize())
            pipe.hset(self.key, "state", self.get_state())
            worker_registration.register(self, pipe)
            pipe.expire(self.key, self.worker_ttl + 60)
            pipe.execute()

    def teardown(self) -> None:
        # Without Redis nobody can be told; the worker's key expires by itself.
        with suppress(*_REDIS_IS_AWAY):
            super().teardown()  # type: ignore[no-untyped-call]

    def setup_work_horse_signals(self) -> None:
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        # A work horse whose worker was killed has nobody to keep its lease: the job is given to another while it runs.
        die_with_parent(self.pid or os.getppid())


class ResizablePool(WorkerPool):
    """rq's pool, whose number of workers follows `wanted`, asked twice a second.

    It grows at once. It shrinks by asking the newest to finish what they work on and to leave, each of them once. A
    worker that was killed is replaced. While Redis is away it keeps its last number and starts nobody.
    """

    def __init__(
        self,
        queues: Iterable[str],
        connection: Redis,
        wanted: Callable[[], int],
        look: Callable[[], None] | None = None,
    ) -> None:
        """``look`` is called at every tick, for whoever wants to keep an eye on something."""
        super().__init__(queues, connection=connection, num_workers=0, worker_class=SteadyWorker)
        self.log = logging.getLogger(__name__)
        self._wanted = wanted
        self._look = look
        self._leaving: set[str] = set()
        self._is_redis_away = False

    def start(self, burst: bool = False, logging_level: str = "WARNING") -> None:  # noqa: ARG002 -- rq's signature
        """Run until SIGINT or SIGTERM, and then until the last worker has finished and left."""
        self._burst = False
        self.status = self.Status.STARTED
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        try:
            while self.status is not self.Status.STOPPED:
                self.check_workers()
                if self._look is not None and not self._is_redis_away:
                    # Nor is one that is full, or is becoming a replica, a reason to end with all workers.
                    with suppress(RedisError):
                        self._look()
                time.sleep(TICK_SECONDS)
            self.log.info("stopping: %d workers finish what they work on", len(self._staying()))
        finally:
            self._wait_until_all_have_left()

    def request_stop(self, signum: int | None = None, frame: FrameType | None = None) -> None:  # noqa: ARG002
        # Nothing else happens here: a handler interrupts any line of the loop, and signals are often sent twice.
        self.status = self.Status.STOPPED

    def check_workers(self, respawn: bool = True) -> None:  # noqa: ARG002 -- rq's signature
        self.reap_workers()
        if not self._learn_wanted():
            return
        staying = self._staying()
        for _ in range(self.num_workers - len(staying)):
            self.start_worker(burst=False, logging_level="WARNING")
        for data in staying[self.num_workers :]:
            self._ask_to_leave(data)

    def reap_workers(self) -> None:
        # rq's waits 0.1 s for each worker that lives.
        for data in list(self.worker_dict.values()):
            if not data.process.is_alive():
                self.handle_dead_worker(data)

    def handle_dead_worker(self, worker_data: WorkerData) -> None:
        del self.worker_dict[worker_data.name]
        was_asked = worker_data.name in self._leaving
        self._leaving.discard(worker_data.name)
        if not was_asked:
            code = worker_data.process.exitcode
            self.log.warning("worker %d ended by itself with code %s; it is replaced", worker_data.pid, code)

    def start_worker(self, *args: Any, **kwargs: Any) -> None:
        with _blocked_signals():
            super().start_worker(*args, **kwargs)

    def get_worker_process(
        self,
        name: str,
        burst: bool,  # noqa: ARG002 -- rq's signature, here and below
        _sleep: float = 0,
        logging_level: str = "WARNING",
    ) -> BaseProcess:
        return ForkProcess(
            target=_run_worker,
            args=(name, os.getpid(), tuple(self._queue_names), self._connect, logging_level),
            name=f"worker {name}",
        )

    def _connect(self) -> Redis:
        """A connection of its own for one worker, made like the pool's."""
        kwargs: dict[str, Any] = self._pool_kwargs
        return self._connection_class(connection_pool=ConnectionPool(connection_class=self._pool_class, **kwargs))

    def _learn_wanted(self) -> bool:
        """Ask how many workers there should be; False while Redis is away, without which no worker can start."""
        try:
            wanted = self._wanted()
        except (RedisConnectionError, RedisTimeoutError) as error:
            if not self._is_redis_away:
                self.log.warning("Redis is away (%s); the pool waits, with %d workers", error, len(self.worker_dict))
            self._is_redis_away = True
            return False
        if self._is_redis_away:
            self.log.info("Redis is back")
            self._is_redis_away = False
        if wanted != self.num_workers:
            self.log.info("workers: %d, were %d", wanted, self.num_workers)
            self.num_workers = wanted
        return True

    def _staying(self) -> list[WorkerData]:
        """The workers that were not asked to leave, oldest first."""
        return [data for name, data in self.worker_dict.items() if name not in self._leaving]

    def _ask_to_leave(self, data: WorkerData) -> None:
        self._leaving.add(data.name)
        with suppress(ProcessLookupError):
            os.kill(data.pid, signal.SIGTERM)

    def _wait_until_all_have_left(self) -> None:
        for data in self._staying():
            self._ask_to_leave(data)
        while not self.all_workers_have_stopped():
            time.sleep(TICK_SECONDS / 5)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Hold back requests to stop, so that a worker gets none while it still has the pool's handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _run_worker(
    name: str, pool_pid: int, queue_names: tuple[str, ...], connect: Callable[[], Redis], logging_level: str
) -> None:
    """The life of one worker process, from the fork on."""
    for signum in _STOP_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    # A group of its own, so that a Control-C in a terminal reaches the pool alone, which asks each worker once.
    os.setpgrp()
    die_with_parent(pool_pid)
    connection = connect()
    try:
        worker = SteadyWorker(
            [Queue(queue, connection=connection) for queue in queue_names],
            name,
            connection=connection,
            worker_ttl=30,
            log_job_description=False,
        )
        # rq does this only after it has registered the worker, whom a signal in between would leave registered.
        worker._install_signal_handlers()  # type: ignore[no-untyped-call]
        worker.work(logging_level=logging_level, with_scheduler=False)
    except (RedisConnectionError, RedisTimeoutError) as error:
        logging.getLogger(__name__).warning("worker %d leaves: Redis is away (%s)", os.getpid(), error)
        sys.exit(1)


def main() -> int:
    try:
        settings = settings_of_this_process()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    asking = Redis.from_url(settings.redis, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    store = Store(asking)
    watch = Watch(store, Queues(asking, settings), settings)
    pool = ResizablePool(
        [CHECKS],
        Redis.from_url(settings.redis),
        lambda: store.queue_settings().worker_thread,
        watch.stand_in_if_due,
    )
    # What jobs need is imported here: before the first fork, and not by whoever only wants a pool.
    from worker.preload import preload

    preload()
    pool.start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
