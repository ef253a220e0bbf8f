"""``rq worker -c worker.rqconfig``, as people start it by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.job import JobStatus

from tests.processes import PROJECT


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def rq_worker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(Path(sys.executable).parent / "rq", "worker", *arguments, **environment)


def test_a_stock_worker_finds_redis_by_the_environment_alone(redis: Redis, valkey_url: str) -> None:
    job = Queue("checks", connection=redis).enqueue("os.getpid")
    rq_worker("-c", "worker.rqconfig", "--burst", "checks", REDIS_URL=valkey_url)
    assert job.get_status(refresh=True) == JobStatus.FINISHED


def test_a_bad_setting_is_one_line_and_a_failure() -> None:
    outcome = rq_worker("-c", "worker.rqconfig", "--burst", "checks", DEFAULT_HTTP_INTERVAL="1")
    assert outcome.returncode != 0
    assert outcome.stderr.startswith("DEFAULT_HTTP_INTERVAL: ")
    assert outcome.stderr.count("\n") == 1


_AFTER_THE_FORK = """
import importlib.metadata, os, sys
import worker.rqconfig
from redis import Redis
from shared.settings import Settings, settings_of_this_process

def fail(*_, **__):
    raise AssertionError("a horse reads what its worker has read")

importlib.metadata.version = Settings.__init__ = fail
if not os.fork():
    settings = settings_of_this_process()
    os._exit(0 if Redis.from_url(settings.redis).ping() else 1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_horse_reads_neither_the_settings_nor_the_version_of_a_library_again(valkey_url: str) -> None:
    outcome = run(sys.executable, "-c", _AFTER_THE_FORK, REDIS_URL=valkey_url)
    assert outcome.returncode == 0, outcome.stderr
