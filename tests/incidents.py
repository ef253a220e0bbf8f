"""Incidents as recording and the outbox write them down, for tests of whatever reads them."""

from __future__ import annotations

import zlib
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert

TARGET = "0123456789abcdef"
BEGAN = 1_674_563_561_000
"""2023-01-24 12:32:41 UTC."""
EVIDENCE = {
    "started_at": BEGAN + 1_000,
    "finished_at": BEGAN + 1_250,
    "by": "w2",
    "verdict": "down",
    "status_code": 503,
    "elapsed_ms": 250.0,
    "phases": {"dns": 10.0, "connect": 20.0, "tls": 40.0, "wait": 175.0, "transfer": 5.0},
    "bottleneck": "wait",
    "reason": "status",
    "sentence": "The status code was 503 and not 200.",
    "address": "192.0.2.1:443",
    "attempts": [{"started_at": BEGAN + 1_000, "elapsed_ms": 250.0, "phases": {"wait": 175.0}, "status_code": 503}],
    "answer": {"headers": [["Server", "nginx"], ["Set-Cookie", "***"]], "body": "<h1>Sorry</h1>", "body_bytes": 14},
    "changed": ["The server was Apache before."],
}


def alert(incident_id: str, number: int, kind: Any, at: int, **fields: Any) -> dict[str, Any]:
    target_id = incident_id.rpartition("-")[0]
    given: dict[str, Any] = {"title": "Shop", "endpoint": "https://shop.example/", "got": 503, "reason": "status"}
    given |= {"sentence": "The status code was 503 and not 200.", "began_at": BEGAN, "expected": "200", **fields}
    return Alert(
        id=f"{target_id}-{number}", kind=kind, target_id=target_id, at=at, incident=incident_id, **given
    ).document()


def open_incident(redis: Redis, number: int = 1, *, target: str = TARGET, at: int = BEGAN, **fields: Any) -> str:
    """An incident that began at ``at``, was confirmed a second later and lasts still; returns its id.

    ``fields`` are more of its hash: documents become JSON, and those that are None are left out.
    """
    incident_id = f"{target}-{number}"
    known: dict[str, Any] = {
        "target": target,
        "title": "Shop",
        "endpoint": "https://shop.example/",
        "opened_at": at,
        "detected_at": at + 150,
        "confirmed_at": at + 1_250,
        "reason": "status",
        "sentence": "The status code was 503 and not 200.",
        "opinion": {"at": at, "ended": at + 150, "reason": "timeout", "sentence": "No answer in 5 s.", "by": "w1"},
        "by": "w2",
        "opened": alert(incident_id, number, "down", at + 1_250, began_at=at),
        "evidence": zlib.compress(orjson.dumps(EVIDENCE)),
        **fields,
    }
    mapping: Any = {
        name: orjson.dumps(value) if isinstance(value, dict) else value
        for name, value in known.items()
        if value is not None
    }
    redis.hset(f"monitor:incident:{incident_id}", mapping=mapping)
    redis.zadd("monitor:incidents", {incident_id: at})
    redis.zadd(f"monitor:incidents:of:{target}", {incident_id: at})
    redis.zadd("monitor:incidents:open", {incident_id: at})
    redis.zadd("monitor:reminders", {incident_id: at + 3_600_000})
    return incident_id


def close_incident(redis: Redis, incident_id: str, *, at: int, **fields: Any) -> str:
    """It is good again, or was deleted; the hash would expire."""
    number = incident_id.rpartition("-")[2]
    closed = alert(incident_id, int(number) + 1, "up", at, sentence=None, reason=None, got=200)
    mapping: Any = {"closed_at": at, "closed": orjson.dumps(closed), **fields}
    redis.hset(f"monitor:incident:{incident_id}", mapping=mapping)
    redis.expire(f"monitor:incident:{incident_id}", 90 * 86_400)
    redis.zrem("monitor:incidents:open", incident_id)
    redis.zrem("monitor:reminders", incident_id)
    return incident_id


def closed_incident(redis: Redis, number: int = 1, *, target: str = TARGET, at: int = BEGAN, **fields: Any) -> str:
    """One that lasted for a minute."""
    return close_incident(redis, open_incident(redis, number, target=target, at=at, **fields), at=at + 60_000)


def tell(redis: Redis, incident_id: str, name: str, fate: str = "sent", **told: Any) -> None:
    """What became of an alert: ``name`` is its id, behind the channel where that is not the mail."""
    known = {"kind": "down", "fate": fate, "at": BEGAN + 12_000, "recipients": ["ops@example.org"], **told}
    redis.hset(f"monitor:incident:{incident_id}", f"told:{name}", orjson.dumps(known))


def expire(redis: Redis, incident_id: str) -> None:
    """Ninety days have gone by."""
    redis.delete(f"monitor:incident:{incident_id}")
