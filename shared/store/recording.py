"""Recording: what a batch of checks saw becomes state, history, sums, incidents, alerts and events, atomically each.

Python decides (:func:`shared.monitor.advance`), Lua compares and sets. One script call a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis

from shared.endpoint import redact
from shared.monitor import (
    PHASES,
    Alert,
    Check,
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
-- ARGV: seconds to keep a closed incident, then a row of 19 values for each result:
-- 1 id, 2 revision, 3 expected state, 4 new state, 5 status before, 6 status after, 7 started, 8 packed result,
-- 9 length of the history, 10 result as JSON, 11 hour, 12 day, 13 verdict, 14 elapsed ms, 15 flip as JSON or '',
-- 16 incident it opens or closes or '', 17 alert as JSON or '', 18 when the alert is due, 19 finished.
-- Returns for each: 'ok', 'gone' (deleted, or changed since the check began) or the state that was found instead.
local kept, width, outcome = ARGV[1], 19, {}
local function add(key, size, stamp, verdict, elapsed)
  local field = stamp % size
  local old = redis.call('HGET', key, field)
  local at, up, down, unknown, sum = nil, 0, 0, 0, 0
  if old then at, up, down, unknown, sum = string.match(old, '(%d+),(%d+),(%d+),(%d+),(%d+)') end
  if tonumber(at) ~= tonumber(stamp) then up, down, unknown, sum = 0, 0, 0, 0 end
  if verdict == 'up' then up = up + 1 elseif verdict == 'down' then down = down + 1 else unknown = unknown + 1 end
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
    redis.call('HSET', key, 'state', ARGV[i + 3], 'latest', result)
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
    """What recording must know of the settings: the code expected of a check, its interval, the grouping window."""

    expected_code: Callable[[Check], int]
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
        pending = [(watched.target, watched.raw_state, result) for watched, result in seen]
        while pending:
            decided = [row for row in map(_decide, pending) if row is not None]
            if not decided:
                break
            arguments: list[Any] = [INCIDENT_KEPT_SECONDS]
            for row in decided:
                arguments += row.arguments(defaults)
            pending = []
            for row, outcome in zip(decided, self._record(args=arguments), strict=True):
                if outcome == b"ok":
                    recorded.append(Recorded(row.target, row.result, row.flip))
                elif outcome != b"gone":
                    pending.append((row.target, outcome, row.result))
        return recorded

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

    target: Target
    raw_state: bytes
    before: State
    after: State
    flip: Flip | None
    result: CheckResult

    def arguments(self, defaults: Defaults) -> list[Any]:
        result, flip = self.result, self.flip
        told = flip is not None and flip.is_worth_telling
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
        ]

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
            expected=defaults.expected_code(self.target.check),
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


def _decide(row: tuple[Target, bytes, CheckResult]) -> _Row | None:
    target, raw_state, result = row
    before = State.parse(orjson.loads(raw_state))
    if target.check.paused or result.revision != target.revision or result.started_at <= before.checked_at:
        return None
    after, flip = advance(before, result)
    return _Row(target, raw_state, before, after, flip, result)


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


_VERDICTS = {Verdict.UP: 0, Verdict.DOWN: 1, Verdict.UNKNOWN: 2}
_BY_NUMBER = {number: verdict for verdict, number in _VERDICTS.items()}


def pack(result: CheckResult) -> bytes:
    """One result of the history in few bytes, a JSON list: verdict (0 up, 1 down, 2 unknown), status code or null,
    milliseconds from scheduled to started or null, from started to finished beyond the elapsed ones, elapsed in
    hundredths of a millisecond, the five phases likewise (null: did not happen), number of attempts, and for a bad
    one reason and sentence.
    """
    lag = result.started_at - result.scheduled_at if result.scheduled_at is not None else None
    elapsed = round(result.elapsed_ms * 100)
    phases = [_hundredths(result.phases.get(name)) for name in PHASES]
    row: list[Any] = [
        _VERDICTS[result.verdict],
        result.status_code,
        lag,
        result.finished_at - result.started_at - elapsed // 100,
        elapsed,
        *phases,
        len(result.attempts),
    ]
    if result.reason is not None:
        row += [result.reason, result.sentence]
    return orjson.dumps(row)


def _hundredths(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 100)


def unpack(entry_id: bytes, packed: bytes) -> dict[str, Any]:
    """The inverse of :func:`pack`, as :meth:`Recording.history` returns it."""
    started_at = int(entry_id.split(b"-")[0])
    verdict, status_code, lag, beyond, elapsed, *rest = orjson.loads(packed)
    measured, attempts, why = rest[: len(PHASES)], rest[len(PHASES)], rest[len(PHASES) + 1 :]
    phases: Mapping[str, float] = {
        name: value / 100 for name, value in zip(PHASES, measured, strict=True) if value is not None
    }
    return {
        "scheduled_at": started_at - lag if lag is not None else None,
        "started_at": started_at,
        "finished_at": started_at + elapsed // 100 + beyond,
        "verdict": _BY_NUMBER[verdict],
        "status_code": status_code,
        "elapsed_ms": elapsed / 100,
        "phases": phases,
        "bottleneck": max(phases, key=lambda name: phases[name]) if phases else None,
        "attempts": attempts,
        "reason": why[0] if why else None,
        "sentence": why[1] if why else None,
    }
