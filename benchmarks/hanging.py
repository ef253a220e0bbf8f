"""Whether hanging targets keep the others waiting: 1,000 posted at once, 50 of which take a request and say nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis

from api import create_app
from benchmarks.machine import redis_running
from benchmarks.processes import Processes
from benchmarks.sites import Sites
from benchmarks.waiting import wait_until
from shared.settings import Settings
from shared.state import Status
from shared.store import Store

TIMEOUT_SECONDS = 5
_LONGEST_SECONDS = 60
_POLL_SECONDS = 0.02


def hanging(sites: Sites, folder: Path, *, count: int = 1000, hung: int = 50) -> dict[str, float]:
    """With one worker and no retries. Seconds from the answer to the POST until the good ones are recorded, and until
    the hung ones are.
    """
    with redis_running(folder) as (url, _), Redis.from_url(url) as connection:
        settings = Settings(_env_file=None, redis_url=url, data_dir=folder)
        client = create_app(settings, connection).test_client()
        counts = Store(connection).targets.count_by_status
        environment = {
            "REDIS_URL": url,
            "DATA_DIR": str(folder),
            "MAX_PER_HOST": "1000",
            "DEFAULT_HTTP_RETRIES": "0",
            "DEFAULT_HTTP_TIMEOUT": str(TIMEOUT_SECONDS),
        }
        command = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "-c", "worker.rqconfig", "checks"]
        processes = Processes(folder, environment)
        processes.start("worker", command)
        try:
            _wait(lambda: connection.scard("rq:workers") == 1, "a worker")
            every = count // hung
            targets = [
                {"endpoint": f"{sites.hanging if number % every == 0 else sites.http}/{number}"}
                for number in range(count)
            ]
            answer = client.post("/status", json={"targets": targets})
            assert answer.status_code == 201, answer.text
            began = time.monotonic()
            _wait(lambda: counts()[Status.UP] == count - hung, "a result of each good target")
            good = time.monotonic() - began
            _wait(lambda: counts()[Status.DOWN] == hung, "a result of each hung target")
            return {"good_seconds": good, "all_seconds": time.monotonic() - began}
        finally:
            processes.stop()


def _wait(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, _LONGEST_SECONDS, what, step_seconds=_POLL_SECONDS)
