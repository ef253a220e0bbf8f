"""Recording: what a batch of checks saw becomes state, history, sums, incidents, alerts and events, atomically each.

Python decides (:func:`shared.monitor.advance`), Lua compares and sets. One script call a batch.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson
from redis import Redis

from shared.baseline import Baseline, differences, digest_of, learn, summary, unusual
from shared.check import Check
from shared.endpoint import redact
from shared.monitor import PHASES, Alert, CheckResult, Target, Verdict
from shared.settings import Settings
from shared.state import GOOD, Flip, Policy, State, Status, Tells, advance
from shared.store import keys
from shared.store.outbox import OWE, audiences_of, boxes
from shared.store.targets import INCIDENT_KEPT_SECONDS, Targets, Watched

_RECORD = (
    OWE
    + """
-- ARGV: seconds to keep a closed incident, the boxes that alerts go into, then a row of 28 values for each result:
-- 1 id, 2 revision, 3 expected state, 4 new state, 5 status before, 6 status after, 7 started, 8 packed result,
-- 9 length of the history, 10 result as JSON, 11 hour, 12 day, 13 verdict ('': not to be counted), 14 elapsed ms,
-- 15 flip as JSON or '', 16 what becomes of an incident: 'open', 'close', 'mark' or '', 17 the incident, 18 its new
-- fields (JSON, a list of names and values), 19 alert as JSON or '', 20 audiences, 21 parent (when an incident opens),
-- 22 when the alert is due, 23 finished, 24 baseline, 25 summary of a good answer or '' (as it is), 26 evidence of a
-- failure or '', 27 when the next result is overdue, 28 when to remind of an incident that opens ('': never).
-- Returns for each: 'ok', 'gone' (deleted, or changed since the check began) or the state that was found instead.
local kept, boxes, width, outcome = ARGV[1], ARGV[2], 28, {}
local function add(key, size, stamp, verdict, elapsed)
  local field = stamp % size
  local old = redis.call('HGET', key, field)
  local at, up, down, unknown, sum = nil, 0, 0, 0, 0
  if old then at, up, down, unknown, sum = string.match(old, '(%d+),(%d+),(%d+),(%d+),(%d+)') end
  if tonumber(at) ~= tonumber(stamp) then up, down, unknown, sum = 0, 0, 0, 0 end
  if verdict == 'up' or verdict == 'degraded' then
    up = up + 1
  elseif verdict == 'down' then
    down = down + 1
  else
    unknown = unknown + 1
  end
  redis.call('HSET', key, field,
             string.format('%d,%d,%d,%d,%d', stamp, up, down, unknown, sum + elapsed))
end
for i = 3, #ARGV, width do
  local id, after = ARGV[i], ARGV[i + 5]
  local key = 'monitor:target:' .. id
  local found = redis.call('HMGET', key, 'revision', 'state', 'order')
  if not found[1] or found[1] ~= ARGV[i + 1] then
    outcome[#outcome + 1] = 'gone'
  elseif found[2] ~= ARGV[i + 2] then
    outcome[#outcome + 1] = found[2]
  else
    local started, result, flip, fate = ARGV[i + 6], ARGV[i + 9], ARGV[i + 14], ARGV[i + 15]
    redis.call('HSET', key, 'state', ARGV[i + 3], 'latest', result, 'baseline', ARGV[i + 23])
    if ARGV[i + 24] ~= '' then redis.call('HSET', key, 'good', ARGV[i + 24]) end
    if ARGV[i + 25] ~= '' then
      redis.call('LPUSH', 'monitor:failures:' .. id, ARGV[i + 25])
      redis.call('LTRIM', 'monitor:failures:' .. id, 0, 49)
    end
    redis.call('XADD', 'monitor:results:' .. id, 'MAXLEN', '~', ARGV[i + 8], started .. '-0', 'r', ARGV[i + 7])
    redis.call('ZADD', 'monitor:checked', ARGV[i + 22], id)
    redis.call('ZADD', 'monitor:due', ARGV[i + 26], id)
    if ARGV[i + 12] ~= '' then
      add('monitor:hours:' .. id, 48, ARGV[i + 10], ARGV[i + 12], ARGV[i + 13])
      add('monitor:days:' .. id, 90, ARGV[i + 11], ARGV[i + 12], ARGV[i + 13])
    end
    redis.call('XADD', 'monitor:events', 'MAXLEN', '~', 10000, '*', 'type', 'check_finished', 'target', id,
               'data', result)
    if flip ~= '' then
      redis.call('ZREM', 'monitor:status:' .. ARGV[i + 4], id)
      redis.call('ZADD', 'monitor:status:' .. after, found[3], id)
      redis.call('XADD', 'monitor:events', 'MAXLEN', '~', 10000, '*', 'type', 'target_flipped', 'target', id,
                 'data', flip)
      redis.call('INCR', 'monitor:changes')
    end
    if fate ~= '' then
      local incident = ARGV[i + 16]
      local name = 'monitor:incident:' .. incident
      redis.call('HSET', name, 'target', id, unpack(cjson.decode(ARGV[i + 17])))
      if fate == 'open' then
        local opened = redis.call('HGET', name, 'opened_at')
        redis.call('HSET', name, 'evidence', ARGV[i + 25])
        redis.call('ZADD', 'monitor:incidents', opened, incident)
        redis.call('ZADD', 'monitor:incidents:open', opened, incident)
        redis.call('ZADD', 'monitor:incidents:of:' .. id, opened, incident)
        redis.call('ZREMRANGEBYRANK', 'monitor:incidents', 0, -10001)
        redis.call('ZREMRANGEBYRANK', 'monitor:incidents:of:' .. id, 0, -1001)
        if ARGV[i + 27] ~= '' then redis.call('ZADD', 'monitor:reminders', ARGV[i + 27], incident) end
      elseif fate == 'close' then
        redis.call('EXPIRE', name, kept)
        redis.call('ZREM', 'monitor:incidents:open', incident)
        redis.call('ZREM', 'monitor:reminders', incident)
      end
    end
    if ARGV[i + 18] ~= '' then
      owe(boxes, cjson.decode(flip)['id'], ARGV[i + 18], id, ARGV[i + 20], ARGV[i + 19], ARGV[i + 21])
    end
    outcome[#outcome + 1] = 'ok'
  end
end
return outcome
"""
)

HISTORY_SECONDS = 86_400
HISTORY_BOUNDS = (100, 2_000)
"""The history holds one day of checks, and never fewer or more than this many."""


@dataclass(frozen=True, slots=True)
class Recorded:
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
            arguments: list[Any] = [INCIDENT_KEPT_SECONDS, ",".join(defaults.boxes)]
            for row in decided:
                arguments += row.arguments(defaults, good.get(row.target.id))
            pending = []
            for row, outcome in zip(decided, self._record(args=arguments), strict=True):
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
        return [unpack(entry_id, fields[b"r"]) for entry_id, fields in rows]

    def sums(self, target_id: str) -> dict[str, list[tuple[int, int, int, int, int]]]:
        """Sums of the 48 hours and 90 days up to the newest result, oldest first.

        Each is (hour or day since the epoch, up, down, unknown, ms); those without a result are left out.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hvals(keys.hours(target_id))
            pipe.hvals(keys.days(target_id))
            hours, days = pipe.execute()
        return {"hours": _sums(hours, keys.HOURS_KEPT), "days": _sums(days, keys.DAYS_KEPT)}


def _sums(rows: Sequence[bytes], kept: int) -> list[tuple[int, int, int, int, int]]:
    found = []
    for row in rows:
        stamp, up, down, unknown, elapsed = map(int, row.split(b","))
        found.append((stamp, up, down, unknown, elapsed))
    # After a pause the ring still holds places that are older than its length.
    oldest = max((row[0] for row in found), default=0) - kept
    return sorted(row for row in found if row[0] > oldest)


@dataclass(frozen=True, slots=True)
class _Row:
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

    def arguments(self, defaults: Defaults, good: Mapping[str, Any] | None) -> list[Any]:
        result, flip, check = self.result, self.flip, self.target.check
        alert = self._alert(flip, flip.tells, defaults) if flip and flip.tells else None
        baseline, summary = self._learnt()
        fate, incident, fields = self._incident(alert)
        interval_ms = 1000 * defaults.interval(check)
        reminder = result.finished_at + 1000 * defaults.reminder_seconds if defaults.reminder_seconds else ""
        return [
            self.target.id,
            self.target.revision,
            self.raw_state,
            orjson.dumps(self.after.document()),
            self.before.status,
            self.after.status,
            result.started_at,
            pack(result),
            history_length(defaults.interval(check)),
            orjson.dumps(result.document()),
            result.started_at // 3_600_000,
            result.started_at // 86_400_000,
            "" if self.is_quiet else result.verdict,
            round(result.elapsed_ms),
            orjson.dumps(_flip_document(flip)) if flip else "",
            fate,
            incident,
            orjson.dumps(fields) if fate else "",
            orjson.dumps(alert.document()) if alert else "",
            defaults.audiences(alert.to) if alert else "",
            (check.parent or "") if flip and flip.opens else "",
            result.finished_at + int(defaults.group_wait_seconds * 1000),
            result.finished_at,
            orjson.dumps(baseline.document()),
            orjson.dumps(summary) if summary else "",
            _evidence(result, good) if _is_failure(result) else "",
            result.finished_at + 2 * interval_ms + 1000 * defaults.longest_check(check),
            reminder,
        ]

    def _incident(self, alert: Alert | None) -> tuple[str, str, list[str]]:
        """What becomes of an incident: 'open', 'close', 'mark' or '' for nothing; which; its new fields in pairs."""
        flip, result = self.flip, self.result
        if flip is None or flip.incident is None or alert is None:
            return "", "", []
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
        pairs = [word for name, value in fields.items() for word in (name, str(value))]
        return "open" if flip.opens else "close" if flip.closes else "mark", flip.incident, pairs

    def _learnt(self) -> tuple[Baseline, dict[str, Any] | None]:
        """The baseline after this result, and the summary of the answer if it is good and like none before."""
        if self.result.verdict not in (Verdict.UP, Verdict.DEGRADED):
            return self.watched.baseline, None
        baseline, good = learn(self.watched.baseline, self.result), summary(self.result)
        digest = digest_of(good)
        return replace(baseline, good=digest), good if digest != baseline.good else None

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
    target, before = watched.target, State.parse(orjson.loads(raw_state))
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


_VERDICTS = {Verdict.UP: 0, Verdict.DOWN: 1, Verdict.UNKNOWN: 2, Verdict.DEGRADED: 3}
_BY_NUMBER = {number: verdict for verdict, number in _VERDICTS.items()}


_ORDINARY_CODE = 200


def pack(result: CheckResult) -> bytes:
    """One result of the history in few bytes, separated by commas, nothing where it is the ordinary.

    Verdict (up; 1 down, 2 unknown, 3 degraded), status code (200; 0 for none), milliseconds from scheduled to started
    (not scheduled), from enqueued to started (not known), from started to finished beyond the elapsed ones (0), the
    five phases in tenths of a millisecond (did not happen), what elapsed beyond their sum likewise (0), number of
    attempts (1); and for a bad one reason and sentence.
    """
    lag = result.started_at - result.scheduled_at if result.scheduled_at is not None else None
    elapsed = round(result.elapsed_ms * 10)
    phases = [_tenths(result.phases.get(name)) for name in PHASES]
    row: list[Any] = [
        _VERDICTS[result.verdict] or None,
        None if result.status_code == _ORDINARY_CODE else result.status_code or 0,
        lag,
        result.started_at - result.enqueued_at if result.enqueued_at is not None else None,
        result.finished_at - result.started_at - elapsed // 10 or None,
        *phases,
        elapsed - sum(value or 0 for value in phases) or None,
        None if len(result.attempts) == 1 else len(result.attempts),
    ]
    if result.reason is not None:
        row += [result.reason] if result.sentence is None else [result.reason, result.sentence]
    return ",".join("" if value is None else str(value) for value in row).encode()


def _tenths(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 10)


def unpack(entry_id: bytes, packed: bytes) -> dict[str, Any]:
    """The inverse of :func:`pack`, as :meth:`Recording.history` returns it."""
    started_at = int(entry_id.split(b"-")[0])
    numbers, reason, sentence = _split(packed.decode())
    verdict, status_code, lag, waited, beyond, *measured, unmeasured, attempts = numbers
    elapsed = sum(value or 0 for value in (*measured, unmeasured))
    phases = {name: value / 10 for name, value in zip(PHASES, measured, strict=True) if value is not None}
    return {
        "scheduled_at": started_at - lag if lag is not None else None,
        "enqueued_at": started_at - waited if waited is not None else None,
        "started_at": started_at,
        "finished_at": started_at + elapsed // 10 + (beyond or 0),
        "verdict": _BY_NUMBER[verdict or 0],
        "status_code": _ORDINARY_CODE if status_code is None else status_code or None,
        "elapsed_ms": elapsed / 10,
        "phases": phases,
        "bottleneck": max(phases, key=lambda name: phases[name]) if phases else None,
        "attempts": 1 if attempts is None else attempts,
        "reason": reason,
        "sentence": sentence,
    }


def _split(packed: str) -> tuple[list[int | None], str | None, str | None]:
    count = 7 + len(PHASES)
    # The sentence is the last, and may hold commas.
    parts = packed.split(",", count + 1)
    numbers = [int(part) if part else None for part in parts[:count]]
    reason, sentence = [*parts[count:], "", ""][:2]
    has_sentence = len(parts) > count + 1
    return numbers, reason or None, sentence if has_sentence else None
