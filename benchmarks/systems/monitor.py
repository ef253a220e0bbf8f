"""The monitor: the processes of its Procfile that a check needs, and its Valkey."""

from __future__ import annotations

import shlex
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from honcho.environ import parse_procfile
from redis import Redis

from api import create_app
from benchmarks.accounts import children, family
from benchmarks.processes import PROJECT, Processes
from benchmarks.turns import System
from benchmarks.waiting import wait_until
from shared.queues import CHECK_TARGETS, CHECKS, Queues
from shared.settings import Settings
from shared.state import Status
from shared.store import Store, keys

BATCH = 400
WORKERS = 1
SETTINGS = {
    "DEFAULT_HTTP_RETRIES": "0",
    "SECOND_OPINION": "false",
    "MAX_PER_HOST": "1000",
}
# Every twelfth check of a target looks at its certificate at this interval, as in most installations. The few checks
# that the schedule adds meanwhile by itself are not counted.
_INTERVAL = "300"
_INTERVAL_OF_MANY = "86400"
"""With 100,000 targets a turn of the work takes as long as a good part of the schedule, which would not be few."""
MANY = 100_000
_PROCESSES = ("scheduler", "checks")
_PAGE = 1000
_PATIENCE_SECONDS = 600.0


class Monitor(System):
    """Targets posted to its API, and checked once before anything is measured, so that no status changes any more."""

    def __init__(
        self, urls: Sequence[str], good: int, *, timeout_seconds: float, bundle_file: str, cycles: int
    ) -> None:
        """Of ``urls`` so many are ``good``; a turn of the work checks all of them ``cycles`` times."""
        super().__init__()
        self._urls, self._good, self._cycles = urls, good, cycles
        # The path of a Unix socket holds 108 bytes at most.
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._folder.name)
        self._redis_url = f"unix://{folder}/valkey.sock"
        environment = {
            **SETTINGS,
            "DEFAULT_HTTP_INTERVAL": _INTERVAL_OF_MANY if len(urls) >= MANY else _INTERVAL,
            "DEFAULT_HTTP_TIMEOUT": f"{timeout_seconds:g}",
            "REDIS_URL": self._redis_url,
            "DATA_DIR": str(folder),
            "SSL_CERT_FILE": bundle_file,
        }
        self._processes = Processes(folder, environment)
        self._settings = Settings(_env_file=None, redis_url=self._redis_url, data_dir=folder)
        self._redis: Redis
        self._ids: list[str] = []

    def __enter__(self) -> Self:
        self._redis = self._processes.start_valkey(self._redis_url)
        client = create_app(self._settings, self._redis).test_client()
        answer = client.post("/status/queue", json={"worker_thread": WORKERS, "queue_size": 0})
        assert answer.status_code == 200, answer.text
        commands = parse_procfile((PROJECT / "Procfile").read_text()).processes
        for name in _PROCESSES:
            self._processes.start(name, shlex.split(commands[name]))
        for at in range(0, len(self._urls), _PAGE):
            targets = [{"endpoint": url} for url in self._urls[at : at + _PAGE]]
            answer = client.post("/status", json={"targets": targets})
            assert answer.status_code == 201, answer.text
            self._ids += [target["id"] for target in answer.get_json()["data"]["targets"]]
        # The first check of a target comes at once.
        self._wait_for_results(0)
        wait_until(lambda: len(self._workers()) == WORKERS, _PATIENCE_SECONDS, "as many workers as asked for")
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self._redis.close()
        self._folder.cleanup()

    def _workers(self) -> list[int]:
        return children(self._processes.pid("checks"))

    def parts(self) -> Mapping[str, Sequence[int]]:
        return {
            "scheduler": family(self._processes.pid("scheduler")),
            "pool": [self._processes.pid("checks")],
            "workers": [pid for worker in self._workers() for pid in family(worker)],
            "valkey": [self._processes.pid("valkey")],
        }

    def is_at_rest(self) -> bool:
        return not any(children(worker) for worker in self._workers())

    def work(self) -> tuple[int, int]:
        wrong = 0
        queues = Queues(self._redis, self._settings)
        for _ in range(self._cycles):
            began_ms = int(time.time() * 1000)
            for at in range(0, len(self._ids), BATCH):
                batch = self._ids[at : at + BATCH]
                # As the rest of a slot, which is what a large slot is checked by.
                queues.push(CHECKS, CHECK_TARGETS, (batch, began_ms), job_id=f"check-rest-bench-{uuid.uuid4().hex}")
            self._wait_for_results(began_ms)
            wrong += self._wrong()
        return self._cycles * len(self._ids), wrong

    def _wrong(self) -> int:
        counts = Store(self._redis).targets.count_by_status()
        bad = len(self._ids) - self._good
        return max(0, self._good - counts[Status.UP]) + max(0, bad - counts[Status.DOWN])

    def _wait_for_results(self, began_ms: int) -> None:
        """Until each target has a recorded result of a check that ended after this moment."""

        def is_done() -> bool:
            self._processes.check()
            found = self._redis.zcount(keys.CHECKED, began_ms, "+inf")
            return found == len(self._urls)

        wait_until(is_done, _PATIENCE_SECONDS, "a recorded result of each target")
