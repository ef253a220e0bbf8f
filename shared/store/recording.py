"""Recording: what a batch of checks saw becomes state, history, sums, incidents, alerts and events, atomically each.

Python decides (:func:`shared.monitor.advance`), Lua compares and sets. One script call a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from redis import Redis

from shared.baseline import Baseline, differences, digest_of, learn, summary, unusual
from shared.check import Check
from shared.endpoint import redact
from shared.monitor import (
    PHASES,
    Alert,
    CheckResult,
    Flip,
    State,
    Target,
    Verdict,
    advance,
)
from shared.store import keys
from shared.store.targets import INCIDENT_KEPT_SECONDS, Targets, Watched

_RECORD = """
-- ARGV: seconds to keep a closed incident, then a row of 22 values for each result:
-- 1 id, 2 revision, 3 expected state, 4 new state, 5 status before, 6 status after, 7 started, 8 packed result,
-- 9 length of the history, 10 result as JSON, 11 hour, 12 day, 13 verdict, 14 elapsed ms, 15 flip as JSON or '',
-- 16 incident it opens or closes or '', 17 alert as JSON or '', 18 when the alert is due, 19 finished,
-- 20 baseline, 21 summary of a good answer or '' (as it is), 22 evidence of a failure or ''.
-- Returns for each: 'ok', 'gone' (deleted, or changed since the check began) or the state that was found instead.
local kept, width, outcome = ARGV[1], 22, {}
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
for i = 2, #ARGV, width do
  local id, after = ARGV[i], ARGV[i + 5]
  local key = 'monitor:target:' .. id
  local found = redis.call('HMGET', key, 'revision', 'state', 'order')
  if not found[1] or found[1] ~= ARGV[i + 1] then
    outcome[#outcome + 1] = 'gone'
  elseif found[2] ~= ARGV[i + 2] then
    outcome[#outcome + 1] = found[2]
  else
    local started, result, flip, incident = ARGV[i + 6], ARGV[i + 9], ARGV[i + 14], ARGV[i + 15]
    redis.call('HSET', key, 'state', ARGV[i + 3], 'latest', result, 'baseline', ARGV[i + 19])
    if ARGV[i + 20] ~= '' then redis.call('HSET', key, 'good', ARGV[i + 20]) end
    if ARGV[i + 21] ~= '' then
      redis.call('LPUSH', 'monitor:failures:' .. id, ARGV[i + 21])
      redis.call('LTRIM', 'monitor:failures:' .. id, 0, 49)
    end
    redis.call('XADD', 'monitor:results:' .. id, 'MAXLEN', '~', ARGV[i + 8], started .. '-0', 'r', ARGV[i + 7])
    redis.call('ZADD', 'monitor:checked', ARGV[i + 18], id)
    add('monitor:hours:' .. id, 48, ARGV[i + 10], ARGV[i + 12], ARGV[i + 13])
    add('monitor:days:' .. id, 90, ARGV[i + 11], ARGV[i + 12], ARGV[i + 13])
    redis.call('XADD', 'monitor:events', 'MAXLEN', '~', 10000, '*', 'type', 'check_finished', 'target', id,
               'data', result)
    if flip ~= '' then
      redis.call('ZREM', 'monitor:status:' .. ARGV[i + 4], id)
      redis.call('ZADD', 'monitor:status:' .. after, found[3], id)
      redis.call('XADD', 'monitor:events', 'MAXLEN', '~', 10000, '*', 'type', 'target_flipped', 'target', id,
                 'data', flip)
      redis.call('INCR', 'monitor:changes')
    end
    if incident ~= '' then
      local alert, entry = ARGV[i + 16], cjson.decode(flip)['id']
      if after == 'down' then
        redis.call('HSET', 'monitor:incident:' .. incident, 'target', id, 'opened_at', started, 'opened', alert)
        redis.call('ZADD', 'monitor:incidents', started, incident)
        redis.call('ZREMRANGEBYRANK', 'monitor:incidents', 0, -10001)
      else
        redis.call('HSET', 'monitor:incident:' .. incident, 'target', id, 'closed_at', started, 'closed', alert)
        redis.call('EXPIRE', 'monitor:incident:' .. incident, kept)
      end
      redis.call('HSET', 'monitor:outbox:entry:' .. entry, 'alert', alert, 'since', ARGV[i + 17], 'tries', 0)
      redis.call('ZADD', 'monitor:outbox', ARGV[i + 17], entry)
    end
    outcome[#outcome + 1] = 'ok'
  end
end
return outcome
"""

HISTORY_SECONDS = 86_400
HISTORY_BOUNDS = (100, 2_000)
"""The history holds one day of checks, and never fewer or more than this many."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One result that was recorded, and the flip that it caused, if any."""

    target: Target
    result: CheckResult
    flip: Flip | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What recording must know of the settings: what is expected of a check, its interval, the window."""

    expectation: Callable[[Check], str]
    interval: Callable[[Check], int]
    group_wait_seconds: float


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
        while pending:
            decided = [row for row in map(_decide, pending) if row is not None]
            if not decided:
                break
            arguments: list[Any] = [INCIDENT_KEPT_SECONDS]
            for row in decided:
                arguments += row.arguments(defaults, good.get(row.target.id))
            pending = []
            for row, outcome in zip(decided, self._record(args=arguments), strict=True):
                if outcome == b"ok":
                    recorded.append(Recorded(row.target, row.result, row.flip))
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

        Each is a dict of started_at, scheduled_at, finished_at (ms), verdict, status_code, elapsed_ms, phases,
        bottleneck, attempts (how many), reason and sentence; what is not known is None.
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

    def incident(self, incident_id: str) -> dict[str, str] | None:
        found = self._redis.hgetall(keys.incident(incident_id))
        return {name.decode(): value.decode() for name, value in found.items()} or None


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

    @property
    def target(self) -> Target:
        return self.watched.target

    def arguments(self, defaults: Defaults, good: Mapping[str, Any] | None) -> list[Any]:
        result, flip = self.result, self.flip
        told = flip is not None and flip.is_worth_telling
        baseline, summary = self._learnt()
        return [
            self.target.id,
            self.target.revision,
            self.raw_state,
            orjson.dumps(self.after.document()),
            self.before.status,
            self.after.status,
            result.started_at,
            pack(result),
            history_length(defaults.interval(self.target.check)),
            orjson.dumps(result.document()),
            result.started_at // 3_600_000,
            result.started_at // 86_400_000,
            result.verdict,
            round(result.elapsed_ms),
            orjson.dumps(_flip_document(flip)) if flip else "",
            (flip.opens or flip.closes) if flip and told else "",
            orjson.dumps(self._alert(flip, defaults).document()) if flip and told else "",
            result.finished_at + int(defaults.group_wait_seconds * 1000),
            result.finished_at,
            orjson.dumps(baseline.document()),
            orjson.dumps(summary) if summary else "",
            _evidence(result, good) if _is_failure(result) else "",
        ]

    def _learnt(self) -> tuple[Baseline, dict[str, Any] | None]:
        """The baseline after this result, and the summary of the answer if it is good and like none before."""
        if self.result.verdict not in (Verdict.UP, Verdict.DEGRADED):
            return self.watched.baseline, None
        baseline, good = learn(self.watched.baseline, self.result), summary(self.result)
        digest = digest_of(good)
        return replace(baseline, good=digest), good if digest != baseline.good else None

    def _alert(self, flip: Flip, defaults: Defaults) -> Alert:
        result, last = self.result, self.result.last
        return Alert(
            id=flip.id,
            kind="down" if flip.opens else "up",
            target_id=self.target.id,
            title=self.target.check.title,
            endpoint=redact(self.target.check.endpoint),
            at=flip.at,
            began_at=(self.after.down_at if flip.opens else self.before.down_at) or result.started_at,
            expected=defaults.expectation(self.target.check),
            got=result.status_code,
            reason=result.reason,
            sentence=result.sentence,
            incident=flip.opens or flip.closes,
            elapsed_ms=round(result.elapsed_ms, 3),
            bottleneck=result.bottleneck,
            phases={name: round(ms, 3) for name, ms in result.phases.items()},
            attempts=tuple(attempt.document() for attempt in result.attempts),
            address=last.address if last else None,
        )


def _decide(row: tuple[Watched, bytes, CheckResult]) -> _Row | None:
    watched, raw_state, result = row
    target, before = watched.target, State.parse(orjson.loads(raw_state))
    if target.check.paused or result.revision != target.revision or result.started_at <= before.checked_at:
        return None
    after, flip = advance(before, result)
    return _Row(watched, raw_state, before, after, flip, result)


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
    """A flip as the event ``target_flipped`` carries it: id, before, after, at (ms), opens, closes (incident ids)."""
    return {
        "id": flip.id,
        "before": flip.before,
        "after": flip.after,
        "at": flip.at,
        "opens": flip.opens,
        "closes": flip.closes,
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
    (not scheduled), from started to finished beyond the elapsed ones (0), the five phases in tenths of a
    millisecond (did not happen), what elapsed beyond their sum likewise (0), number of attempts (1); and for a bad one
    reason and sentence.
    """
    lag = result.started_at - result.scheduled_at if result.scheduled_at is not None else None
    elapsed = round(result.elapsed_ms * 10)
    phases = [_tenths(result.phases.get(name)) for name in PHASES]
    row: list[Any] = [
        _VERDICTS[result.verdict] or None,
        None if result.status_code == _ORDINARY_CODE else result.status_code or 0,
        lag,
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
    verdict, status_code, lag, beyond, *measured, unmeasured, attempts = numbers
    elapsed = sum(value or 0 for value in (*measured, unmeasured))
    phases = {name: value / 10 for name, value in zip(PHASES, measured, strict=True) if value is not None}
    return {
        "scheduled_at": started_at - lag if lag is not None else None,
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
    count = 6 + len(PHASES)
    # The sentence is the last, and may hold commas.
    parts = packed.split(",", count + 1)
    numbers = [int(part) if part else None for part in parts[:count]]
    reason, sentence = [*parts[count:], "", ""][:2]
    has_sentence = len(parts) > count + 1
    return numbers, reason or None, sentence if has_sentence else None
