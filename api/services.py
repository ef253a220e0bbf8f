"""What a request works with: the settings, Redis, the store and the queues of its app."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flask import Flask, current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from shared import health
from shared.queues import Queues
from shared.settings import Settings
from shared.store import Store

ANSWER_SECONDS = 1.0
"""How long Redis may take for one answer before the request is refused with 503."""

_NAME = "monitor"


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a view needs and that outlives a request; made once an app."""

    settings: Settings
    redis: Redis
    store: Store
    queues: Queues

    @classmethod
    def of(cls, settings: Settings, redis: Redis) -> Services:
        return cls(settings, redis, Store(redis), Queues(redis, settings))

    def health(self) -> health.Health:
        return health.look(self.store, self.queues, self.settings, now=now_ms())

    def needed_workers(self) -> int | None:
        """How many check workers the load needs; None while nothing was measured."""
        return health.needed_workers(self.store, self.settings, now=now_ms())


def connect(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> Redis:
    """A client that gives up soon; nothing is sent before its first command.

    redis-py retries at three levels (command, connect, health check), each with the same policy, so that their waits
    multiply. Here only a lost connection is tried again, once, which takes no time; a timeout never is, and there are
    no health checks. So a Redis that hangs costs a request one timeout, and a write that was slow is not sent twice.
    """
    return Redis.from_url(
        url,
        socket_timeout=answer_seconds,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        health_check_interval=0,
    )


def attach(app: Flask, services: Services) -> None:
    app.extensions[_NAME] = services


def services() -> Services:
    """The services of the app that answers the present request."""
    found: Services = current_app.extensions[_NAME]
    return found


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
