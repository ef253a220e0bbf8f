"""The health check of the background containers."""

from __future__ import annotations

import socket

import pytest
from redis import Redis
from rq import Queue, Worker

from shared.queues import Queues
from shared.settings import Settings
from shared.store import Store
from worker import alive

NOW = 1_700_000_000.0


def problem(redis: Redis, name: str, host: str | None = None) -> str | None:
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1")
    return alive.problem(name, Store(redis), Queues(redis, settings), host=host or socket.gethostname(), now=NOW)


def test_a_queue_without_a_worker_is_not_alive(redis: Redis) -> None:
    assert "no worker of the queue emails" in (problem(redis, "emails") or "")


def test_a_worker_of_another_queue_or_host_does_not_count(redis: Redis) -> None:
    worker = Worker([Queue("emails", connection=redis)], connection=redis)
    worker.register_birth()  # type: ignore[no-untyped-call]
    assert problem(redis, "emails") is None
    assert problem(redis, "checks")
    assert problem(redis, "emails", host="elsewhere")
    worker.register_death()  # type: ignore[no-untyped-call]
    assert problem(redis, "emails")


def test_the_scheduler_is_alive_while_some_scheduler_ticks(redis: Redis) -> None:
    assert problem(redis, "scheduler") == "no scheduler has given a sign of life"
    Store(redis).vitals.beat("one", now=int(NOW * 1000) - 14_000)
    assert problem(redis, "scheduler") is None
    Store(redis).vitals.leave("one")
    Store(redis).vitals.beat("one", now=int(NOW * 1000) - 40_000)
    assert problem(redis, "scheduler") == "the last tick of a scheduler was 40 s ago"


def test_redis_away_is_a_failure_that_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert alive.main(["checks"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
