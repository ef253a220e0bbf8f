"""What the tests of the web process share: an app on a real Valkey, results in it, and a real server before it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.serving import make_server

from api import create_app
from shared.monitor import Attempt, CheckResult, Reason, Target, Verdict
from shared.settings import Settings
from shared.store import Defaults, Store

GOOGLE = {"title": "Hit the Google!", "endpoint": "https://www.google.com/", "expected_http_code": 200}
PHASES = {"dns": 10.0, "connect": 20.0, "tls": 30.0, "wait": 80.0, "transfer": 10.0}


def app_on(url: str, **settings: Any) -> Flask:
    """An app that the environment of whoever runs the tests has no part in."""
    return create_app(Settings(_env_file=None, redis_url=url, **settings))


def client_on(url: str, **settings: Any) -> FlaskClient:
    return app_on(url, **settings).test_client()


def digest_of(redis: Redis) -> str:
    """A digest of everything that Redis holds: every key and its value."""
    found = hashlib.sha256()
    keys: list[bytes] = sorted(redis.scan_iter(count=1000))
    for key in keys:
        found.update(key + b"\0" + bytes(redis.dump(key) or b"") + b"\0")
    return found.hexdigest()


def result_of(
    target: Target,
    verdict: Verdict = Verdict.UP,
    *,
    at: int | None = None,
    status_code: int | None = 200,
    reason: Reason | None = None,
    sentence: str | None = None,
) -> CheckResult:
    """One attempt of 150 ms, which began at ``at`` (ms; now)."""
    at = at if at is not None else int(time.time() * 1000)
    attempt = Attempt(at, 150.0, PHASES, status_code=status_code, reason=reason, address="192.0.2.1:443")
    return CheckResult(
        target_id=target.id,
        revision=target.revision,
        verdict=verdict,
        attempts=(attempt,),
        started_at=at,
        finished_at=at + 150,
        reason=reason,
        sentence=sentence,
    )


def record(redis: Redis, target_id: str, verdict: Verdict = Verdict.UP, **result: Any) -> None:
    """Record one result of a target, as a check job would."""
    store = Store(redis)
    watched = store.targets.get(target_id)
    assert watched is not None
    defaults = Defaults(expected_code=lambda check: 200, interval=lambda check: 300, group_wait_seconds=0)
    assert store.recording.record([(watched, result_of(watched.target, verdict, **result))], defaults)


@contextmanager
def checked_by(redis: Redis, verdict: Verdict = Verdict.UP) -> Iterator[None]:
    """While this lasts, every target gets a result as soon as a job asks for its check."""
    over = threading.Event()

    def check() -> None:
        while not over.is_set():
            if redis.llen("rq:queue:checks"):
                redis.delete("rq:queue:checks")
                for watched in Store(redis).targets.page(limit=1000):
                    if not watched.target.check.paused:
                        record(redis, watched.target.id, verdict)
            over.wait(0.01)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The app behind a real server on loopback, a thread a request; gives its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        app.extensions["streams"].is_closing = True
        server.shutdown()
        thread.join()
        server.server_close()


def job_ids(redis: Redis, queue: str = "checks") -> list[str]:
    rows: Any = redis.lrange(f"rq:queue:{queue}", 0, -1)
    return [raw.decode() for raw in rows]
