"""Trials: checks that somebody wants to see the result of without storing the target. Each expires by itself."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from redis import Redis

from shared.check import TRUSTED, Check
from shared.store import keys

KEPT_SECONDS = 120


class Trials:
    """Between whoever asks and the worker that checks; the secrets of a check never stand in a job."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes

    def put(self, check: Check) -> str:
        """Keep the check for two minutes; returns the trial's id."""
        trial_id = secrets.token_hex(8)
        self._redis.set(keys.trial(trial_id), orjson.dumps(check.document()), ex=KEPT_SECONDS)
        return trial_id

    def get(self, trial_id: str) -> Check | None:
        """The check to make; None when it has expired, or was answered already."""
        raw = self._redis.get(keys.trial(trial_id))
        return Check.model_validate_json(raw, context=TRUSTED) if raw else None

    def answer(self, trial_id: str, document: dict[str, Any]) -> None:
        """Leave the result: CheckResult.document with ``answer`` (AnswerSeen.document or None)."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.trial_result(trial_id), orjson.dumps(document), ex=KEPT_SECONDS)
            pipe.delete(keys.trial(trial_id))
            pipe.execute()

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """The result; None as long as there is none."""
        raw = self._redis.get(keys.trial_result(trial_id))
        return orjson.loads(raw) if raw else None

    def forget(self, trial_id: str) -> None:
        """Nobody waits for it any more: a worker that comes to it makes no check."""
        self._redis.delete(keys.trial(trial_id), keys.trial_result(trial_id))
