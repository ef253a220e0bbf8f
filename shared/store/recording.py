"""Recording: what a batch of checks saw becomes state, history, sums, incidents, alerts and events, atomically each.

Python decides (:func:`shared.monitor.advance`), Lua compares and sets. One script call a batch.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgpack
import orjson
from msgspec import Struct
from msgspec.structs import replace
from redis import Redis

from shared.baseline import Baseline, differences, digest_of, learn, summary, unusual
from shared.check import Check
from shared.endpoint import redact
from shared.monitor import Alert, CheckResult, Target, Verdict
from shared.settings import Settings
from shared.state import GOOD, Flip, Policy, State, Status, Tells, advance
from shared.store import keys
from shared.store.events import PUBLISH
from shared.store.history import pack, unpack
from shared.store.outbox import OWE, audiences_of, boxes
from shared.store.scripts import read_script
from shared.store.targets import INCIDENT_KEPT_SECONDS, Targets, Watched

_RECORD = read_script("recording_record", OWE, PUBLISH, HOURS_KEPT=keys.HOURS_KEPT, DAYS_KEPT=keys.DAYS_KEPT)

_pack = msgpack.Packer(use_bin_type=False).pack  # Redis knows MessagePack as it was before it had a type for bytes.

HISTORY_SECONDS = 86_400
HISTORY_BOUNDS = (100, 2_000)
"""The history holds one day of checks, and never fewer or more than this many."""


class Recorded(Struct, frozen=True):
    """One result that was recorded, and the flip that it caused, if any."""

    target: Target
    result: CheckResult
    flip: Flip | None
    wants_opinion: bool = False
    """Whether one more check, at once, is to say if the target is down."""


def _is_never_quiet(_target: Target) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Defaults:
    """What recording must know of the settings, and of the maintenance that goes on."""

    expectation: Callable[[Check], str]
    interval: Callable[[Check], int]
    longest_check: Callable[[Check], int]
    policy: Callable[[Check], Policy]
    recipients: Callable[[Check], tuple[str, ...]]
    group_wait_seconds: float
    audiences: Callable[[Sequence[str]], str]
    """Whom an alert is owed to, given who is told beside the recipients of the settings."""
    boxes: tuple[str, ...] = (keys.OUTBOX,)
    """The outboxes that an alert goes into."""
    reminder_seconds: int = 0
    """How long after it opened people are reminded of an incident; 0: never."""
    is_quiet: Callable[[Target], bool] = _is_never_quiet
    """Whether a target is in a maintenance now."""

    @classmethod
    def of(cls, settings: Settings, is_quiet: Callable[[Target], bool] = _is_never_quiet) -> Self:
        return cls(
            expectation=settings.expectation,
            interval=settings.interval,
            longest_check=settings.longest_check,
            policy=settings.policy,
            recipients=settings.recipients,
            group_wait_seconds=settings.alert_group_wait,
            audiences=lambda recipients: audiences_of(recipients, settings),
            boxes=boxes(settings),
            reminder_seconds=settings.alert_reminder,
            is_quiet=is_quiet,
        )


class Recording:
    """Writes results, and reads the history back."""

    def __init__(self, redis: Redis, targets: Targets) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._targets = targets
        self._record = redis.register_script(_RECORD)

    def record(self, seen: Sequence[tuple[Watched, CheckResult]], defaults: Defaults) -> list[Recorded]:
        """Record a batch; returns what was recorded, in order.

        Left out are results of targets that are deleted, paused or changed since their check began, and results that
        are not newer than the last recorded one: so running a job twice, or late, records nothing twice. A result
        that lost the race against another writer is decided again on the newer state.
        """
        recorded: list[Recorded] = []
        pending = [(watched, watched.raw_state, _with_unusual(watched, result)) for watched, result in seen]
        good = self._good([watched.target.id for watched, _, result in pending if _is_failure(result)])
        down = self._down({watched.target.check.parent for watched, _, result in pending if _is_failure(result)})
        while pending:
            decided = [row for row in (_decide(each, defaults, down) for each in pending) if row is not None]
            if not decided:
                break
            # One argument, because to pass each value by itself takes both sides longer than to record it.
            rows = _pack([row.values(defaults, good.get(row.target.id)) for row in decided])
            outcomes = self._record(args=[INCIDENT_KEPT_SECONDS, ",".join(defaults.boxes), rows])
            pending = []
            for row, outcome in zip(decided, outcomes, strict=True):
                if outcome == b"ok":
                    recorded.append(Recorded(row.target, row.result, row.flip, row.wants_opinion))
                elif outcome != b"gone":
                    pending.append((row.watched, outcome, row.result))
        return recorded

    def _good(self, target_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The summaries of the last good answers, of those targets that ever had one."""
        with self._redis.pipeline(transaction=False) as pipe:
            for target_id in target_ids:
                pipe.hget(keys.target(target_id), "good")
            rows = pipe.execute() if target_ids else []
        return {each: orjson.loads(raw) for each, raw in zip(target_ids, rows, strict=True) if raw}

    def _down(self, parents: set[str | None]) -> frozenset[str]:
        """Which of these targets are down."""
        found = self._targets.load([parent for parent in parents if parent])
        return frozenset(watched.target.id for watched in found if watched.state.status is Status.DOWN)

    def last_good(self, target_id: str) -> dict[str, Any] | None:
        """What the last good answer was like, as :func:`shared.baseline.summary` tells it."""
        return self._good([target_id]).get(target_id)

    def failures(self, target_id: str) -> list[dict[str, Any]]:
        """The newest 50 failures, newest first, each a CheckResult.document with ``answer`` (AnswerSeen.document)
        and ``changed``, a list of sentences: what was otherwise when it last worked.
        """
        return [orjson.loads(zlib.decompress(raw)) for raw in self._redis.lrange(keys.failures(target_id), 0, -1)]

    def history(
        self, target_id: str, *, since: int = 0, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest results first: those that started at or after ``since`` and before ``before`` (ms).

        Each is a dict of scheduled_at, enqueued_at, started_at, finished_at (ms), verdict, status_code, elapsed_ms,
        phases, bottleneck, attempts (how many), reason and sentence; what is not known is None.
        """
        newest = "+" if before is None else f"({before}-0"
        rows = self._redis.xrevrange(keys.results(target_id), newest, since, count=limit)
        return [unpack(entry_id, fields[b"p"]) for entry_id, fields in rows if b"p" in fields]

    def sums(self, target_id: str) -> dict[str, list[tuple[int, int, int, int, int]]]:
        """Sums of the 48 hours and 90 days up to the newest result, oldest first.

        Each is (hour or day since the epoch, up, down, unknown, ms); those without a result are left out.
        """
        with self._redis.pipeline() as pipe:
            pipe.hvals(keys.hours(target_id))
            pipe.hvals(keys.days(target_id))
            pipe.hmget(keys.target(target_id), "hour", "day")
            hours, days, (hour, day) = pipe.execute()
        return {"hours": _sums([*hours, hour], keys.HOURS_KEPT), "days": _sums([*days, day], keys.DAYS_KEPT)}


def _sums(rows: Sequence[bytes | None], kept: int) -> list[tuple[int, int, int, int, int]]:
    found = []
    for row in filter(None, rows):
        stamp, up, down, unknown, elapsed = map(int, row.split(b","))
        found.append((stamp, up, down, unknown, elapsed))
    # After a pause the ring still holds places that are older than its length.
    oldest = max((row[0] for row in found), default=0) - kept
    return sorted(row for row in found if row[0] > oldest)


class _Row(Struct, frozen=True):
    """One decision, ready to be compared and set."""

    watched: Watched
    raw_state: bytes
    before: State
    after: State
    flip: Flip | None
    result: CheckResult
    policy: Policy
    is_quiet: bool

    @property
    def target(self) -> Target:
        return self.watched.target

    @property
    def wants_opinion(self) -> bool:
        return self.result.verdict is Verdict.DOWN and self.policy.wants_opinion(self.after)

    def values(self, defaults: Defaults, good: Mapping[str, Any] | None) -> list[Any]:
        result, check = self.result, self.target.check
        interval = defaults.interval(check)
        baseline, summary = self._learnt()
        extras = self._extras(defaults, summary) if self.flip or summary else None
        return [
            self.target.id,
            str(self.target.revision),
            self.raw_state,
            self.after.encode(),
            result.started_at,
            pack(result),
            history_length(interval),
            orjson.dumps(result.document()),
            None if self.is_quiet else result.verdict,
            round(result.elapsed_ms),
            result.finished_at,
            result.finished_at + 1000 * (2 * interval + defaults.longest_check(check)),
            orjson.dumps(baseline.document()),
            extras,
            _evidence(result, good) if _is_failure(result) else None,
        ]

    def _extras(self, defaults: Defaults, summary: Mapping[str, Any] | None) -> dict[str, str | list[str]]:
        """What becomes of the target beside its newest result; documents are JSON, times ms, all of them strings.

        ``good``: the summary of a good answer that is like none before. Of a flip ``flip``, ``before`` and ``after``
        (the status); of what people are owed ``alert``, ``audiences``, ``parent`` (where nobody is to be told while
        that is down) and ``due``; of an incident ``fate`` ('open', 'close' or 'mark'), ``incident``, ``fields`` (names
        and values in turn) and ``remind_at``.
        """
        result, flip = self.result, self.flip
        extras: dict[str, str | list[str]] = {}
        if summary:
            extras["good"] = orjson.dumps(summary).decode()
        if flip is None:
            return extras
        extras |= {
            "flip": orjson.dumps(_flip_document(flip)).decode(),
            "before": self.before.status,
            "after": self.after.status,
        }
        if flip.tells is None:
            return extras
        alert = self._alert(flip, flip.tells, defaults)
        extras |= {
            "alert": orjson.dumps(alert.document()).decode(),
            "audiences": defaults.audiences(alert.to),
            "parent": (self.target.check.parent or "") if flip.opens else "",
            "due": str(result.finished_at + int(defaults.group_wait_seconds * 1000)),
        }
        if flip.incident is not None:
            extras |= self._incident(flip, alert, flip.incident)
            if defaults.reminder_seconds:
                extras["remind_at"] = str(result.finished_at + 1000 * defaults.reminder_seconds)
        return extras

    def _incident(self, flip: Flip, alert: Alert, incident: str) -> dict[str, str | list[str]]:
        result = self.result
        told = orjson.dumps(alert.document()).decode()
        fields: dict[str, Any] = {}
        if flip.tells == "flapping":
            fields["flapping_at"] = result.finished_at
        if flip.tells == "calm":
            fields["calm_at"] = result.finished_at
        if flip.opens:
            fields |= {
                "title": alert.title or "",
                "endpoint": alert.endpoint,
                "opened_at": alert.began_at,
                "detected_at": alert.detected_at or result.finished_at,
                "confirmed_at": result.finished_at,
                "reason": result.reason or "",
                "sentence": result.sentence or "",
                "by": result.by or "",
                "opened": told,
            }
            if alert.opinion is not None:
                fields["opinion"] = orjson.dumps(alert.opinion).decode()
        if flip.closes:
            fields |= {"closed_at": result.finished_at, "closed": told}
        return {
            "fate": "open" if flip.opens else "close" if flip.closes else "mark",
            "incident": incident,
            "fields": [word for name, value in fields.items() for word in (name, str(value))],
        }

    def _learnt(self) -> tuple[Baseline, dict[str, Any] | None]:
        """The baseline after this result, and the summary of the answer if it is good and like none before."""
        if self.result.verdict not in (Verdict.UP, Verdict.DEGRADED):
            return self.watched.baseline, None
        before, good = self.watched.baseline, summary(self.result)
        digest = digest_of(good)
        return learn(before, self.result, digest), good if digest != before.good else None

    def _alert(self, flip: Flip, tells: Tells, defaults: Defaults) -> Alert:
        result, last, suspect = self.result, self.result.last, self.after.suspect
        is_first = suspect is None or suspect["at"] == result.started_at
        began_at = self.after.down_at or self.before.down_at or result.started_at
        detected_at = suspect["ended"] if suspect else self.before.recovering_at or result.finished_at
        return Alert(
            id=flip.id,
            kind=tells,
            target_id=self.target.id,
            title=self.target.check.title,
            endpoint=redact(self.target.check.endpoint),
            at=flip.at,
            began_at=began_at,
            detected_at=detected_at,
            written_at=int(time.time() * 1000),
            expected=defaults.expectation(self.target.check),
            got=result.status_code,
            reason=result.reason,
            sentence=result.sentence,
            incident=flip.incident,
            elapsed_ms=round(result.elapsed_ms, 3),
            bottleneck=result.bottleneck,
            phases={name: round(ms, 3) for name, ms in result.phases.items()},
            attempts=tuple(attempt.document() for attempt in result.attempts),
            address=last.address if last else None,
            is_up=flip.after in GOOD if tells in ("flapping", "calm") else None,
            flips=len(self.after.changes or self.before.changes) if tells in ("flapping", "calm") else None,
            opinion=None if is_first else suspect,
            by=result.by,
            to=defaults.recipients(self.target.check),
        )


def _decide(row: tuple[Watched, bytes, CheckResult], defaults: Defaults, down: frozenset[str]) -> _Row | None:
    """What becomes of a result; ``down`` are those parents that are."""
    watched, raw_state, result = row
    target = watched.target
    before = watched.state if raw_state is watched.raw_state else State.decode(raw_state)
    if target.check.paused or result.revision != target.revision or result.started_at <= before.checked_at:
        return None
    policy, is_quiet = defaults.policy(target.check), defaults.is_quiet(target)
    after, flip = advance(before, result, policy, is_held=is_quiet or target.check.parent in down)
    return _Row(watched, raw_state, before, after, flip, result, policy, is_quiet)


def _with_unusual(watched: Watched, result: CheckResult) -> CheckResult:
    told = unusual(watched.baseline, result)
    return replace(result, unusual=told) if told else result


def _is_failure(result: CheckResult) -> bool:
    return result.verdict in (Verdict.DOWN, Verdict.UNKNOWN)


def _evidence(result: CheckResult, good: Mapping[str, Any] | None) -> bytes:
    """One failure as it is kept, with what was otherwise when it last worked."""
    document = result.document()
    document["answer"] = result.answer.document() if result.answer else None
    document["changed"] = differences(good, result) if good else []
    return zlib.compress(orjson.dumps(document))


def _flip_document(flip: Flip) -> dict[str, Any]:
    """A flip as the event ``target_flipped`` carries it.

    Fields: id, before, after, at (ms), opens, closes (ids of incidents), tells (what people are told, or null).
    """
    return {
        "id": flip.id,
        "before": flip.before,
        "after": flip.after,
        "at": flip.at,
        "opens": flip.opens,
        "closes": flip.closes,
        "tells": flip.tells,
    }


def history_length(interval: int) -> int:
    """How many results a target keeps: one day of them, within bounds."""
    low, high = HISTORY_BOUNDS
    return max(low, min(high, -(-HISTORY_SECONDS // interval)))
