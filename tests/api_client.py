"""What the tests of the web process share: an app on a real Valkey, results in it, and a real server before it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job
from werkzeug.serving import make_server

from api import create_app
from shared.monitor import AnswerSeen, Attempt, CertificateSeen, CheckResult, Reason, Target, Verdict
from shared.queues import CHECK_TRIAL
from shared.settings import Settings
from shared.store import Defaults, Store
from tests.fakes import settings_for

GOOGLE = {"title": "Hit the Google!", "endpoint": "https://www.google.com/", "expected_http_code": 200}
# Well-formed, and nothing more.
CERTIFICATE = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\naHVudGVyMjIy\n-----END PRIVATE KEY-----\n"
DEFAULTS = Defaults.of(settings_for("redis://unused", alert_group_wait=0))
PHASES = {"dns": 10.0, "connect": 20.0, "tls": 30.0, "wait": 80.0, "transfer": 10.0}


def app_on(url: str, **settings: Any) -> Flask:
    """An app that the environment of whoever runs the tests has no part in."""
    return create_app(Settings(_env_file=None, redis_url=url, **settings))


_shared_app_on = cache(app_on)


def client_on(url: str, **settings: Any) -> FlaskClient:
    """A client of its own, of an app that all tests with these settings share: to make one takes 30 ms of CPU."""
    return _shared_app_on(url, **settings).test_client()


def create(client: FlaskClient, **fields: Any) -> Any:
    """Watch https://example.org/, or what the fields say; gives the answer."""
    answer = client.post("/api/v1/targets", json={"endpoint": "https://example.org/", **fields})
    assert answer.status_code == 201, answer.text
    return answer.get_json()


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
    answer: AnswerSeen | None = None,
    elapsed_ms: float = 150.0,
) -> CheckResult:
    """One attempt, which began at ``at`` (ms; now); most of its time it waited."""
    at = at if at is not None else int(time.time() * 1000)
    phases = PHASES | {"wait": elapsed_ms - 70.0}
    attempt = Attempt(at, elapsed_ms, phases, status_code=status_code, reason=reason, address="192.0.2.1:443")
    return CheckResult(
        target_id=target.id,
        revision=target.revision,
        verdict=verdict,
        attempts=(attempt,),
        started_at=at,
        finished_at=at + round(elapsed_ms),
        reason=reason,
        sentence=sentence,
        answer=answer,
    )


def record(redis: Redis, target_id: str, verdict: Verdict = Verdict.UP, **result: Any) -> None:
    """Record one result of a target, as a check job would."""
    store = Store(redis)
    watched = store.targets.get(target_id)
    assert watched is not None
    assert store.recording.record([(watched, result_of(watched.target, verdict, **result))], DEFAULTS)


ANSWER = AnswerSeen(
    redirects=("https://example.org/login",),
    certificate=CertificateSeen("CN=example.org", "CN=Some CA", 1_600_000_000_000, 1_700_000_000_000, "ab" * 32),
    headers=(("Content-Type", "text/html"), ("Set-Cookie", "***")),
    body="<h1>Hello</h1>",
    body_bytes=14,
)


@contextmanager
def checked_by(redis: Redis, verdict: Verdict = Verdict.UP) -> Iterator[None]:
    """While this lasts, every check job that is enqueued is done at once: each of its targets gets this result."""
    over = threading.Event()

    def check() -> None:
        while not over.is_set():
            for job_id in job_ids(redis):
                if redis.lrem("rq:queue:checks", 1, job_id):
                    _check(redis, Job.fetch(job_id, connection=redis), verdict)
            over.wait(0.01)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _check(redis: Redis, job: Job, verdict: Verdict) -> None:
    store = Store(redis)
    if job.func_name == CHECK_TRIAL:
        (trial_id,) = job.args
        check = store.trials.get(trial_id)
        if check is not None:
            result = result_of(Target(trial_id, check, 0, 0), verdict)
            store.trials.answer(trial_id, {**result.document(), "answer": ANSWER.document()})
        return
    for watched in store.targets.load(job.args[0]):
        result = result_of(watched.target, verdict, answer=ANSWER)
        store.recording.record([(watched, result)], DEFAULTS)


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
