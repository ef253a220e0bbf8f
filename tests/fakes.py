"""Things that tests pass in where the product would have the real one."""

from __future__ import annotations

import select
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from typing import Any, Literal, NoReturn

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from shared.check import Check
from shared.monitor import Alert, Attempt, CheckResult, Reason, Report, Verdict
from shared.settings import Settings
from shared.snapshot import Saved
from shared.state import State, Status
from shared.store import Defaults, Store, Watched, keys
from shared.store.targets import bucket_of
from tests.waiting import eventually
from worker.alerts.mailer import Mailer, Sent

Place = Literal["before", "amid", "after"]
PLACES: tuple[Place, ...] = ("before", "amid", "after")
BEGAN_AT = 1_795_366_865_000  # 2026-11-22 17:01:05 UTC


@cache
def settings_for(url: str, **others: Any) -> Settings:
    """Settings that no environment and no ``.env`` has a part in; one failed check is enough unless others say so.

    They are frozen, so those with the same values are made once: each takes 4 ms.
    """
    return Settings(_env_file=None, redis_url=url, **{"second_opinion": False, **others})


# --- the wire ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """A process ends here, as by kill -9: nothing in the product catches this."""


@dataclass(frozen=True)
class Moment:
    """A point in what a client sends: before send ``number`` (from 0), amid its bytes, or after its whole answer."""

    number: int
    place: Place


class Wire:
    """A Redis client to which something happens at one moment of what it sends.

    Connecting counts: the first sends of each connection are its handshake. ``has_happened`` stays false when the
    client sends less than that.
    """

    def __init__(self, url: str, moment: Moment | None, happening: Callable[[Wire], None]) -> None:
        self.name = f"wire-{uuid.uuid4().hex}"
        self.moment = moment
        self.sends = 0
        self._happening = happening
        self._is_dead = False
        self.has_happened = False
        pool = ConnectionPool(
            connection_class=_Connection,
            path=url.removeprefix("unix://"),
            client_name=self.name,
            retry=Retry(NoBackoff(), 0),
            wire=self,
        )
        self.client = Redis(connection_pool=pool)

    @classmethod
    def untouched(cls, url: str) -> Wire:
        """One to which nothing happens, to count its sends."""
        return cls(url, None, Wire.kill)

    def next_number(self) -> int:
        self.sends += 1
        return self.sends - 1

    def passes(self, number: int, place: Place) -> None:
        if self._is_dead:
            raise RedisConnectionError("sent after death")
        if not self.has_happened and self.moment == Moment(number, place):
            self.has_happened = True
            self._happening(self)

    def kill(self) -> NoReturn:
        """Whatever the process still does, to tidy up say, does not reach Redis any more."""
        self._is_dead = True
        raise Killed

    def close(self) -> None:
        self.client.connection_pool.disconnect()


class _Connection(UnixDomainSocketConnection):
    _sock: Any

    def __init__(self, *args: Any, wire: Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._wire = wire

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:
            self.connect()  # type: ignore[no-untyped-call]  # which sends, and counts, the handshake
        packed = b"".join(command)
        number = self._wire.next_number()
        try:
            self._wire.passes(number, "before")
            self._sock.sendall(packed[: len(packed) // 2])
            self._wire.passes(number, "amid")
            self._sock.sendall(packed[len(packed) // 2 :])
            select.select([self._sock], [], [], 5)
            self._wire.passes(number, "after")
        except BaseException:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise


def lose_the_connection(_wire: Wire) -> None:
    raise RedisConnectionError("the connection was lost")


def everywhere(
    url: str, redis: Redis, happening: Callable[[Wire], None], places: Sequence[Place] = PLACES
) -> Iterator[Wire]:
    """A new wire on an emptied Redis for each moment in turn, until one lets everything pass untouched.

    ``redis`` is the test's own client. When the caller comes back for the next wire, the last one is closed; it calls
    :func:`settle` itself before it looks at what the wire has left behind.
    """
    number = 0
    while True:
        for place in places:
            redis.flushall()
            wire = Wire(url, Moment(number, place), happening)
            yield wire
            settle(redis, wire)
            if not wire.has_happened:
                assert number > 1, "nothing was sent"
                return
        number += 1


def settle(redis: Redis, wire: Wire) -> None:
    """Close the wire and wait until the server has worked off everything that came through it."""
    wire.close()
    eventually(lambda: not any(client["name"] == wire.name for client in redis.client_list()))


# --- mail ----------------------------------------------------------------------------------------------------------


class FakeMailer(Mailer):
    """A mailer whose server does what the test says.

    ``outcomes`` are used up one by one: an exception is raised before the server takes the mail, a Sent is what the
    server answers. Without one the mail is taken by all. ``taken`` holds the id and the alerts of each, in order,
    ``reports`` likewise; ``asked`` the recipients of each (None: all).
    """

    def __init__(self, *outcomes: Exception | Sent) -> None:
        self.outcomes = list(outcomes)
        self.taken: list[tuple[str, tuple[str, ...]]] = []
        self.reports: list[tuple[str, Report]] = []
        self.asked: list[tuple[str, ...] | None] = []
        self.before_taking: Callable[[], None] = lambda: None
        self.after_taking: Callable[[], None] = lambda: None

    def send_alerts(self, mail_id: str, alerts: Sequence[Alert], *, recipients: Sequence[str] | None = None) -> Sent:
        sent = self._meet_fate(recipients)
        self.taken.append((mail_id, tuple(alert.id for alert in alerts)))
        self.after_taking()
        return sent

    def send_report(self, mail_id: str, report: Report, *, recipients: Sequence[str] | None = None) -> Sent:
        sent = self._meet_fate(recipients)
        self.reports.append((mail_id, report))
        self.after_taking()
        return sent

    def _meet_fate(self, recipients: Sequence[str] | None) -> Sent:
        self.before_taking()
        self.asked.append(None if recipients is None else tuple(recipients))
        outcome = self.outcomes.pop(0) if self.outcomes else Sent(("ops@example.org",))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


# --- alerts --------------------------------------------------------------------------------------------------------


def alert(**changes: Any) -> Alert:
    """What people are told of a target that answers 503; ``changes`` are other fields, or other values."""
    fields: dict[str, Any] = {
        "id": "t1-1",
        "kind": "down",
        "target_id": "t1",
        "title": "Hit the Google!",
        "endpoint": "https://www.google.com/",
        "at": BEGAN_AT + 1000,
        "began_at": BEGAN_AT,
        "expected": 200,
        "got": 503,
        "reason": "status",
        "sentence": "The server answered 503, and 200 was expected.",
        "incident": "t1-1",
        "elapsed_ms": 412.4,
        "bottleneck": "wait",
        "phases": {"dns": 12.1, "connect": 20.4, "tls": 41.2, "wait": 337.5, "transfer": 1.2},
        "attempts": (
            {"started_at": BEGAN_AT, "elapsed_ms": 5000.0, "reason": "timeout", "phase": "tls"},
            {"started_at": BEGAN_AT + 5500, "elapsed_ms": 412.4, "status_code": 503, "reason": "status"},
        ),
        "address": "142.250.74.36:443",
    }
    return Alert(**{**fields, **changes})


# --- targets and results -------------------------------------------------------------------------------------------


def put(store: Store, *endpoints: str, now: int = 1, **fields: Any) -> list[Watched]:
    """Targets with these endpoints, as they stand in the store."""
    checks = [Check(endpoint=endpoint, expected_http_code=200, **fields) for endpoint in endpoints]
    return store.targets.load(written.target.id for written in store.targets.put(checks, now=now))


def result(watched: Watched, verdict: Verdict, at: int) -> CheckResult:
    """What a check that began at ``at`` (ms) and took 10 ms saw."""
    is_up = verdict is Verdict.UP
    attempt = Attempt(at, 10.0, {"connect": 2.0, "wait": 8.0}, 200 if is_up else 503, None if is_up else Reason.STATUS)
    return CheckResult(
        watched.target.id, watched.target.revision, verdict, (attempt,), at, at + 10, reason=attempt.reason
    )


def record(store: Store, settings: Settings, targets: Sequence[Watched], verdict: Verdict, at: int) -> None:
    """Record one result of each target as a run of a check job would."""
    store.recording.record([(watched, result(watched, verdict, at)) for watched in targets], Defaults.of(settings))


def incident_fields(store: Store, incident_id: str) -> dict[str, str] | None:
    """What Redis holds of an incident, as text and without its evidence; None for nothing."""
    found: Any = store.redis.hgetall(keys.incident(incident_id))
    return {name.decode(): value.decode() for name, value in found.items() if name != b"evidence"} or None


def put_into(store: Store, bucket: int, *endpoints: str, **fields: Any) -> list[Watched]:
    """As :func:`put`, with ids whose hash falls into this bucket, so that the test knows their slot."""
    ids = islice((name for name in map("{:016x}".format, count()) if bucket_of(name) == bucket), len(endpoints))
    saved = [
        Saved(name, Check(endpoint=endpoint, expected_http_code=200, **fields), State(Status.PENDING, since=1), None)
        for name, endpoint in zip(ids, endpoints, strict=True)
    ]
    now = int(time.time() * 1000)
    return store.targets.load(written.target.id for written in store.targets.restore(saved, now=now))
