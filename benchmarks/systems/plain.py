"""The plain way: ``requests.get`` in a job of its own for each check, stock workers, a Valkey."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from redis import Redis
from rq import Queue
from rq import Worker as RQWorker

from benchmarks.accounts import children, family
from benchmarks.processes import Processes
from benchmarks.turns import System
from benchmarks.waiting import wait_until

WORKERS = 2
_JOB = "benchmarks.systems.plain_job.check"
_QUEUE = "plain"
_PATIENCE_SECONDS = 300.0


class Plain(System):
    """Each of ``urls`` once a turn; so many of them are ``good``."""

    def __init__(self, urls: Sequence[str], good: int, *, timeout_seconds: float, bundle_file: str) -> None:
        super().__init__()
        self._urls, self._good, self._timeout_seconds = urls, good, timeout_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        self._redis_url = f"unix://{folder}/valkey.sock"
        self._processes = Processes(folder, {"REQUESTS_CA_BUNDLE": bundle_file})
        self._redis: Redis

    def __enter__(self) -> Self:
        self._redis = self._processes.start_valkey(self._redis_url)
        for number in range(WORKERS):
            command = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--url", self._redis_url, _QUEUE]
            self._processes.start(f"worker-{number}", command)
        wait_until(
            lambda: RQWorker.count(connection=self._redis) == WORKERS, _PATIENCE_SECONDS, "as many workers as started"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self._redis.close()
        self._folder.cleanup()

    def _workers(self) -> list[int]:
        return [self._processes.pid(f"worker-{number}") for number in range(WORKERS)]

    def parts(self) -> Mapping[str, Sequence[int]]:
        return {
            "workers": [pid for worker in self._workers() for pid in family(worker)],
            "valkey": [self._processes.pid("valkey")],
        }

    def is_at_rest(self) -> bool:
        return not any(map(children, self._workers()))

    def work(self) -> tuple[int, int]:
        names = [f"plain:{number}" for number in range(len(self._urls))]
        self._redis.delete(*names)
        queue = Queue(_QUEUE, connection=self._redis)
        for name, url in zip(names, self._urls, strict=True):
            queue.enqueue(_JOB, name, url, self._timeout_seconds)
        wait_until(lambda: self._done(names) == len(names), _PATIENCE_SECONDS, "a result of each target")
        up = sum(self._redis.hget(name, "is_up") == b"1" for name in names)
        return len(names), abs(up - self._good)

    def _done(self, names: Sequence[str]) -> int:
        self._processes.check()
        return int(self._redis.exists(*names))
