"""The outbox: alerts that people are owed, from the flip that wrote them until an SMTP server took them.

An alert waits, is put into a mail (taken under a lease, with others), and leaves when the mail was sent. What is in a
mail whose fate nobody knows stays together in that mail, so that a repetition carries the same Message-ID; after a
failure that surely delivered nothing the alerts go back to wait and may be grouped anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert
from shared.store import keys

LEASE_MS = 120_000
"""How long a deliver job may hold a mail; its RQ timeout is shorter."""
MAIL_SIZE = 1000
"""Alerts in one mail at the most."""
GIVEN_UP_AFTER_MS = 3 * 86_400_000
LONGEST_WAIT_MS = 15 * 60_000
FIRST_WAIT_MS = 5_000

_CLAIM = """
-- ARGV: now, lease ends, new mail id, size. First a mail whose lease has ended, whole; else all that waits, oldest
-- first, once something of it is due and no failure asks for patience. Returns {mail id, who has not had it yet (JSON)
-- or '', then id and alert of each}.
local now, mail, members = tonumber(ARGV[1]), nil, {}
if tonumber(redis.call('HGET', 'monitor:outbox:hold', 'until') or 0) > now then return {} end
local expired = redis.call('ZRANGE', 'monitor:outbox:sending', '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
if expired then
  mail = redis.call('HGET', 'monitor:outbox:entry:' .. expired, 'mail')
  for _, id in ipairs(redis.call('ZRANGE', 'monitor:outbox:sending', 0, -1)) do
    if redis.call('HGET', 'monitor:outbox:entry:' .. id, 'mail') == mail then members[#members + 1] = id end
  end
else
  local first = redis.call('ZRANGE', 'monitor:outbox', '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not first then return {} end
  mail = ARGV[3]
  if string.sub(first, 1, 6) == 'report' then
    members = {first}
  else
    for _, id in ipairs(redis.call('ZRANGE', 'monitor:outbox', 0, ARGV[4] - 1)) do
      if string.sub(id, 1, 6) ~= 'report' then members[#members + 1] = id end
    end
  end
end
local claimed = {mail, redis.call('HGET', 'monitor:outbox:entry:' .. members[1], 'to') or ''}
for _, id in ipairs(members) do
  local key = 'monitor:outbox:entry:' .. id
  local alert = redis.call('HGET', key, 'alert')
  redis.call('ZREM', 'monitor:outbox', id)
  if alert then
    redis.call('ZADD', 'monitor:outbox:sending', ARGV[2], id)
    redis.call('HSET', key, 'mail', mail)
    redis.call('HINCRBY', key, 'tries', 1)
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = alert
  else
    -- Its text was deleted behind our back: there is nothing to tell, and it must not keep others from being sent.
    redis.call('ZREM', 'monitor:outbox:sending', id)
  end
end
return #claimed > 2 and claimed or {}
"""

_SETTLE = """
-- ARGV: mail id, fate ('sent', 'dead', 'wait', 'again'), now, hold until, error, given up before, fate as JSON,
-- the fate of those too old to wait (JSON), who has not had it yet (JSON) or '', then the entries. Only alerts still in
-- that mail count: another job may have taken it over.
local mail, fate, now, hold, problem = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
for i = 10, #ARGV do
  local id = ARGV[i]
  local key = 'monitor:outbox:entry:' .. id
  local found = redis.call('HMGET', key, 'mail', 'since', 'alert')
  if found[1] == mail and redis.call('ZSCORE', 'monitor:outbox:sending', id) then
    local is_given_up = (fate == 'wait' or fate == 'again') and tonumber(found[2]) < tonumber(ARGV[6])
    local alert = found[3] and found[3] ~= '' and cjson.decode(found[3]) or {}
    local incident = alert['incident'] and 'monitor:incident:' .. alert['incident']
    if incident and redis.call('EXISTS', incident) == 1 then
      redis.call('HSET', incident, 'told:' .. id, is_given_up and ARGV[8] or ARGV[7])
    end
    if fate == 'sent' then
      redis.call('ZREM', 'monitor:outbox:sending', id)
      redis.call('DEL', key)
    elseif fate == 'dead' or is_given_up then
      redis.call('ZREM', 'monitor:outbox:sending', id)
      redis.call('ZADD', 'monitor:outbox:dead', now, id)
      redis.call('HSET', key, 'error', problem)
    elseif fate == 'wait' and redis.call('HEXISTS', key, 'to') == 0 then
      redis.call('ZREM', 'monitor:outbox:sending', id)
      redis.call('HDEL', key, 'mail')
      redis.call('HSET', key, 'error', problem)
      redis.call('ZADD', 'monitor:outbox', found[2], id)
    else
      redis.call('ZADD', 'monitor:outbox:sending', hold, id)
      if ARGV[9] ~= '' then redis.call('HSET', key, 'to', ARGV[9]) end
      redis.call('HSET', key, 'error', problem)
    end
  end
end
if fate == 'wait' or fate == 'again' then
  redis.call('HSET', 'monitor:outbox:hold', 'until', hold)
  redis.call('HINCRBY', 'monitor:outbox:hold', 'failures', 1)
else
  redis.call('DEL', 'monitor:outbox:hold')
end
local surplus = redis.call('ZRANGE', 'monitor:outbox:dead', 0, -10001)
for _, id in ipairs(surplus) do
  redis.call('ZREM', 'monitor:outbox:dead', id)
  redis.call('DEL', 'monitor:outbox:entry:' .. id)
end
"""

_REQUEST_REPORT = """
-- ARGV: now. A report that waits already is the one asked for; one that is being sent is not.
local waiting = redis.call('GET', 'monitor:outbox:report')
if waiting and redis.call('ZSCORE', 'monitor:outbox', waiting) then return waiting end
local id = 'report-' .. ARGV[1]
redis.call('SET', 'monitor:outbox:report', id)
redis.call('ZADD', 'monitor:outbox', ARGV[1], id)
redis.call('HSET', 'monitor:outbox:entry:' .. id, 'alert', '', 'since', ARGV[1], 'tries', 0)
return id
"""

_REVIVE = """
-- ARGV: id, now. A dead letter waits again, as if it were new.
if redis.call('ZREM', 'monitor:outbox:dead', ARGV[1]) == 0 then return 0 end
local key = 'monitor:outbox:entry:' .. ARGV[1]
redis.call('HDEL', key, 'mail', 'error', 'to')
redis.call('HSET', key, 'since', ARGV[2], 'tries', 0)
redis.call('ZADD', 'monitor:outbox', ARGV[2], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """What one deliver job has taken, under a lease of two minutes: alerts in order, or one report (then none)."""

    id: str
    entries: tuple[str, ...]
    """The ids in the outbox."""
    alerts: tuple[Alert, ...]
    recipients: tuple[str, ...] | None = None
    """Those who have not had it yet, after a server took it for the others; None: all."""

    @property
    def is_report(self) -> bool:
        return not self.alerts


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How full the outbox is; ``oldest_at`` is when the longest waiting alert was due (ms), None when none waits."""

    waiting: int
    sending: int
    dead: int
    oldest_at: int | None
    failures: int


class Outbox:
    """Claims, settles and counts. Any number of deliver jobs may run at once: an alert is in one mail at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self._claim = redis.register_script(_CLAIM)
        self._settle = redis.register_script(_SETTLE)
        self._request_report = redis.register_script(_REQUEST_REPORT)
        self._revive = redis.register_script(_REVIVE)

    def request_report(self, *, now: int) -> None:
        """Owe people a mail with the present state of every target that is down. Idempotent while it waits."""
        self._request_report(args=[now])

    def is_due(self, *, now: int) -> bool:
        """Whether a deliver job would find work; asked by the scheduler at every pass, so it is one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrange(keys.OUTBOX, 0, 0, withscores=True)
            pipe.zrange(keys.SENDING, 0, 0, withscores=True)
            pipe.hget(keys.HOLD, "until")
            waiting, sending, hold = pipe.execute()
        if hold is not None and float(hold) > now:
            return False
        return any(rows and rows[0][1] <= now for rows in (waiting, sending))

    def claim(self, mail_id: str, *, now: int) -> Mail | None:
        """Take what is due, as the mail ``mail_id`` or as the earlier mail whose lease ended; None: nothing is due.

        A kill after this line costs the lease: the same mail is then claimed again under its own id.
        """
        claimed = self._claim(args=[now, now + LEASE_MS, mail_id, MAIL_SIZE])
        if not claimed:
            return None
        mail, to, *entries = claimed
        rows = list(zip(entries[::2], entries[1::2], strict=True))
        alerts = [Alert.parse(orjson.loads(alert)) for _, alert in rows if alert]
        alerts.sort(key=lambda alert: alert.at)
        recipients = tuple(orjson.loads(to)) if to else None
        return Mail(mail.decode(), tuple(entry.decode() for entry, _ in rows), tuple(alerts), recipients)

    def sent(self, mail: Mail, *, now: int, recipients: Sequence[str], refused: Mapping[str, str]) -> None:
        """An SMTP server took the mail: its alerts leave, and their incidents remember it."""
        fate = {"fate": "sent", "at": now, "mail": mail.id, "recipients": list(recipients), "refused": dict(refused)}
        self._put(mail, "sent", now=now, fate=fate)

    def refused(self, mail: Mail, *, now: int, error: str) -> None:
        """A server will never take the mail: its alerts become dead letters."""
        self._put(mail, "dead", now=now, error=error, fate={"fate": "refused", "at": now, "error": error})

    def delayed(self, mail: Mail, *, now: int, error: str, may_have_arrived: bool) -> int:
        """The mail did not get through; returns when the next attempt is due (ms).

        Every failure in a row doubles the wait, from 5 s up to 15 min; alerts older than three days become dead
        letters. With ``may_have_arrived`` the same mail is sent again as it is.
        """
        return self._hold(mail, "again" if may_have_arrived else "wait", now=now, error=error)

    def partly_sent(
        self, mail: Mail, *, now: int, recipients: Sequence[str], remaining: Sequence[str], error: str
    ) -> int:
        """The server took the mail for ``recipients`` and asks the others to wait: it is sent to them again, alone."""
        return self._hold(mail, "again", now=now, error=error, recipients=recipients, remaining=remaining)

    def _hold(
        self,
        mail: Mail,
        fate_name: str,
        *,
        now: int,
        error: str,
        recipients: Sequence[str] = (),
        remaining: Sequence[str] = (),
    ) -> int:
        failures = int(self._redis.hget(keys.HOLD, "failures") or 0)
        until: int = now + min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** min(failures, 20))
        fate = {"fate": "delayed", "at": now, "error": error, "next_at": until, "recipients": list(recipients)}
        self._put(mail, fate_name, now=now, hold=until, error=error, fate=fate, remaining=remaining)
        return until

    def _put(
        self,
        mail: Mail,
        fate_name: str,
        *,
        now: int,
        fate: dict[str, Any],
        hold: int = 0,
        error: str = "",
        remaining: Sequence[str] = (),
    ) -> None:
        given_up = {name: value for name, value in fate.items() if name != "next_at"} | {"fate": "given_up"}
        head: list[Any] = [mail.id, fate_name, now, hold, error, now - GIVEN_UP_AFTER_MS]
        to = orjson.dumps(list(remaining)) if remaining else ""
        self._settle(args=[*head, orjson.dumps(fate), orjson.dumps(given_up), to, *mail.entries])

    def revive(self, entry_id: str, *, now: int) -> bool:
        """Send a dead letter again; False when there is none of that id."""
        return bool(self._revive(args=[entry_id, now]))

    def counts(self) -> OutboxCounts:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(keys.OUTBOX)
            pipe.zcard(keys.SENDING)
            pipe.zcard(keys.DEAD)
            pipe.zrange(keys.OUTBOX, 0, 0, withscores=True)
            pipe.hget(keys.HOLD, "failures")
            waiting, sending, dead, oldest, failures = pipe.execute()
        return OutboxCounts(waiting, sending, dead, int(oldest[0][1]) if oldest else None, int(failures or 0))

    def entries(self) -> list[dict[str, Any]]:
        """What waits, is being sent or was given up, bounded: id, place, tries, error, alert (a document)."""
        places = {"waiting": keys.OUTBOX, "sending": keys.SENDING, "dead": keys.DEAD}
        ids = [
            (place, raw.decode()) for place, key in places.items() for raw in self._redis.zrange(key, 0, MAIL_SIZE - 1)
        ]
        with self._redis.pipeline(transaction=False) as pipe:
            for _, entry_id in ids:
                pipe.hmget(keys.outbox_entry(entry_id), "alert", "tries", "error")
            rows = pipe.execute()
        return [
            {
                "id": entry_id,
                "place": place,
                "tries": int(tries or 0),
                "error": error.decode() if error else None,
                "alert": orjson.loads(alert) if alert else None,
            }
            for (place, entry_id), (alert, tries, error) in zip(ids, rows, strict=True)
        ]
