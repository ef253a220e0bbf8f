"""The outbox: alerts that people are owed, from the flip that wrote them until an SMTP server took them.

An alert waits until no further ones come for the same people, is put into a mail (taken under a lease, with them), and
leaves when the mail was sent. What is in a mail whose fate nobody knows stays together in that mail, so that a
repetition carries the same Message-ID; after a failure that surely delivered nothing the alerts go back to wait and
may be grouped anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson
from redis import Redis

from shared.monitor import Alert
from shared.settings import Settings
from shared.store import keys

LEASE_MS = 120_000
"""How long a deliver job may hold a mail; its RQ timeout is shorter."""
MAIL_SIZE = 20_000
"""Alerts in one mail at the most, which lists some and counts the others: an outage of everything is one mail."""
GROUP_WAITS = 12
"""An alert waits for others to share its mail for so many times ALERT_GROUP_WAIT at the most, ..."""
MANY = 10
"""So many alerts are a storm, which often pauses: they wait for others for twice ALERT_GROUP_WAIT."""
LONGEST_MORE_MS = 120_000
"""... and for so much longer than it would alone, however long that is."""
LISTED = 1000
"""Entries of each kind that :meth:`Outbox.entries` returns at the most."""
GIVEN_UP_AFTER_MS = 3 * 86_400_000
LONGEST_WAIT_MS = 15 * 60_000
FIRST_WAIT_MS = 5_000

_TOLD = """
-- The field in which an incident remembers what became of an alert of this box.
local function told_field(box, entry)
  return 'told:' .. (box == 'monitor:outbox' and '' or 'notifications:') .. entry
end
"""

OWE = (
    _TOLD
    + """
-- Puts an alert into each of the boxes (comma-separated); the parent is given where nobody is to be told while that is
-- down. Only mails have audiences, separated by the character 30; the entry of a second one has a + behind its id.
-- Where the last mail to the same audience was a short while ago, the alert is due when the pace of that audience
-- allows the next; a minute in which it was owed nothing ends the pace.
local function owe_to(box, entry, alert, target, parent, whose, due)
  local at = tonumber(due)
  local paced, pause, owed = string.match(redis.call('HGET', box .. ':pace', whose) or '', '^(%d+),(%d+),(%d+)$')
  if paced and at - tonumber(owed) >= 60000 then
    redis.call('HDEL', box .. ':pace', whose)
  elseif paced then
    redis.call('HSET', box .. ':pace', whose, string.format('%s,%s,%.0f', paced, pause, math.max(at, tonumber(owed))))
    at = math.max(at, tonumber(paced))
  end
  redis.call('HSET', box .. ':entry:' .. entry, 'alert', alert, 'since', due, 'tries', 0, 'target', target,
             'parent', parent, 'audience', whose, 'number', redis.call('INCR', box .. ':owed'))
  redis.call('ZADD', box, at, entry)
  local incident = 'monitor:incident:' .. (string.match(alert, '"incident":"([^"]+)"') or '')
  if redis.call('EXISTS', incident) == 1 then
    local kind = string.match(alert, '"kind":"(%a+)"')
    redis.call('HSET', incident, told_field(box, entry),
               string.format('{"kind":"%s","fate":"waiting","next_at":%.0f}', kind, at))
  end
end
local function owe(boxes, entry, alert, target, parent, audiences, due)
  for box in string.gmatch(boxes, '[^,]+') do
    if box == 'monitor:outbox' then
      local id = entry
      for whose in string.gmatch(audiences .. '\\30', '([^\\30]*)\\30') do
        owe_to(box, id, alert, target, parent, whose, due)
        id = id .. '+'
      end
    else
      owe_to(box, entry, alert, target, parent, '', due)
    end
  end
end
"""
)
"""A Lua function for whoever owes people an alert in the same atomic step as what happened."""

DELAY_BOUNDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600, 86_400)
"""Seconds; the buckets of how long alerts take."""

_CLAIM = """
-- KEYS[1] the box. ARGV: now, lease ends, new mail id, size, how long what is due may wait for more (ms), how much
-- longer (ms) so many alerts wait. First a mail whose lease has ended, whole; else, once something is due and no
-- failure asks for patience, all that waits for the same audience, oldest first. Left for later is what is new of a
-- target whose parent is down, what would overtake an earlier alert of its target, and an audience that was owed
-- something further just now.
-- Returns {mail id, who has not had it yet (JSON) or '', audience, tries so far, number of the newest alert in the box,
-- who has to have an earlier mail first (JSON) or '', then id and alert of each}.
local box, now, mail, members = KEYS[1], tonumber(ARGV[1]), nil, {}
if tonumber(redis.call('HGET', box .. ':hold', 'until') or 0) > now then return {} end
local under_way = {}
for _, id in ipairs(redis.call('ZRANGE', box .. ':sending', 0, -1)) do
  local found = redis.call('HMGET', box .. ':entry:' .. id, 'target', 'audience', 'to', 'mail', 'number')
  under_way[#under_way + 1] = {
    id = id, to = found[3] and cjson.decode(found[3]) or nil, mail = found[4], number = tonumber(found[5] or 0),
    line = (found[1] or '') ~= '' and found[1] .. '\\30' .. (found[2] or '') or nil,
  }
end
table.sort(under_way, function(a, b) return a.number < b.number end)
-- Who has not had yet, of these lines, what others had before the entry of that number.
local function waiting_for(lines, number)
  local who = {}
  for _, entry in ipairs(under_way) do
    if entry.to and entry.line and lines[entry.line] and entry.number < number then
      for _, name in ipairs(entry.to) do who[name] = true end
    end
  end
  return who
end
-- A mail that some have had must not overtake an earlier one to the same.
local function is_early(mail)
  for _, entry in ipairs(under_way) do
    if entry.mail == mail and entry.to and entry.line then
      local who = waiting_for({[entry.line] = true}, entry.number)
      for _, name in ipairs(entry.to) do
        if who[name] then return true end
      end
    end
  end
  return false
end
local lines, is_expired = {}, false
for _, id in ipairs(redis.call('ZRANGE', box .. ':sending', '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  local found = redis.call('HGET', box .. ':entry:' .. id, 'mail')
  if is_early(found) then
    redis.call('ZADD', box .. ':sending', now + 5000, id)
  else
    mail, is_expired = found, true
    break
  end
end
if is_expired then
  for _, entry in ipairs(under_way) do
    if entry.mail == mail then
      members[#members + 1] = entry.id
      if entry.line then lines[entry.line] = true end
    end
  end
else
  if not redis.call('ZRANGE', box, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1] then return {} end
  local busy, held, down = {}, {}, {}
  for _, entry in ipairs(under_way) do
    -- What only some have not had yet keeps nothing from the others.
    if entry.line and not entry.to then busy[entry.line] = true end
  end
  local function is_down(parent)
    if down[parent] == nil then
      local state = redis.call('HGET', 'monitor:target:' .. parent, 'state')
      down[parent] = state and cjson.decode(state)['status'] == 'down' or false
    end
    return down[parent]
  end
  local waiting, rows, last = redis.call('ZRANGE', box, 0, 20000, 'WITHSCORES'), {}, {}
  for n = 1, #waiting, 2 do
    local id = waiting[n]
    local found = redis.call('HMGET', box .. ':entry:' .. id, 'target', 'parent', 'audience', 'alert', 'since',
                             'number')
    if found[4] then
      rows[#rows + 1] = {
        id = id, due = tonumber(waiting[n + 1]), parent = found[2] or '', whose = found[3] or '',
        since = tonumber(found[5] or 0), number = tonumber(found[6] or 0),
        -- What happened to one target is told in its order, to each audience.
        line = (found[1] or '') ~= '' and found[1] .. '\\30' .. (found[3] or '') or nil,
      }
    else
      -- Its text was deleted behind our back: there is nothing to tell, and it must not keep others from being sent.
      redis.call('ZREM', box, id)
    end
  end
  local function happened_before(a, b)
    if a.since ~= b.since then return a.since < b.since end
    if a.number ~= b.number then return a.number < b.number end
    return a.id < b.id
  end
  table.sort(rows, happened_before)
  for _, row in ipairs(rows) do
    if row.line then
      local before = last[row.line] or 0
      if row.due <= now and before > now then redis.call('ZADD', box, before, row.id) end
      row.due = math.max(row.due, before)
      last[row.line] = row.due
    end
  end
  table.sort(rows, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return happened_before(a, b)
  end)
  local size, audiences = tonumber(ARGV[4]), {}
  for _, row in ipairs(rows) do
    if string.sub(row.id, 1, 6) == 'report' then
      row.is_report = true
    elseif row.line and (busy[row.line] or held[row.line] or (row.parent ~= '' and is_down(row.parent))) then
      -- The recovery from what was not told yet is told with it.
      held[row.line], row.is_held = true, true
      if row.due <= now then redis.call('ZADD', box, now + 5000, row.id) end
    else
      local owed = audiences[row.whose] or {due = row.due, oldest = row.since, newest = row.since, count = 0}
      owed.oldest, owed.newest = math.min(owed.oldest, row.since), math.max(owed.newest, row.since)
      owed.count = owed.count + 1
      audiences[row.whose] = owed
    end
  end
  for _, owed in pairs(audiences) do
    -- When the newest is due, nothing further came for as long as a lone alert waits; where many fell, twice as long.
    local more = owed.count < tonumber(ARGV[7]) and 0 or tonumber(ARGV[6])
    local settled_at = math.min(owed.newest + more, owed.oldest + tonumber(ARGV[5]))
    if owed.due <= now and now < settled_at and owed.count < size then owed.waits_until = settled_at end
  end
  local audience
  mail = ARGV[3]
  for _, row in ipairs(rows) do
    local waits_until = not row.is_report and not row.is_held and audiences[row.whose].waits_until
    if row.is_report then
      if row.due <= now and not audience then
        members = {row.id}
        break
      end
    elseif waits_until then
      -- All of them are looked at again at that moment, and not each at its own.
      if row.due < waits_until then redis.call('ZADD', box, waits_until, row.id) end
    elseif not row.is_held and (audience == row.whose or (audience == nil and row.due <= now)) then
      audience, members[#members + 1] = row.whose, row.id
      if row.line then lines[row.line] = true end
    end
    if #members >= size then break end
  end
  if #members == 0 then return {} end
end
if not is_expired and redis.call('ZCARD', box .. ':dead') > 0 then
  -- Whoever was never told that it went down is told so with the recovery.
  for n = 1, #members do
    local alert = redis.call('HGET', box .. ':entry:' .. members[n], 'alert') or ''
    if string.find(alert, '"kind":"up"', 1, true) then
      local fall = cjson.decode(alert)['incident'] .. (string.match(members[n], '%+$') or '')
      if redis.call('ZREM', box .. ':dead', fall) == 1 then members[#members + 1] = fall end
    end
  end
end
local head = redis.call('HMGET', box .. ':entry:' .. members[1], 'to', 'audience', 'tries')
local newest = redis.call('GET', box .. ':owed') or '0'
local apart = {}
if not head[1] then
  local first = math.huge
  for _, entry in ipairs(under_way) do
    if entry.mail == mail then first = math.min(first, entry.number) end
  end
  for name in pairs(waiting_for(lines, is_expired and first or math.huge)) do apart[#apart + 1] = name end
end
local claimed = {
  mail, head[1] or '', head[2] or '', head[3] or '0', newest, #apart > 0 and cjson.encode(apart) or '',
}
for _, id in ipairs(members) do
  local key = box .. ':entry:' .. id
  local alert = redis.call('HGET', key, 'alert')
  redis.call('ZREM', box, id)
  if alert then
    redis.call('ZADD', box .. ':sending', ARGV[2], id)
    redis.call('HSET', key, 'mail', mail)
    redis.call('HINCRBY', key, 'tries', 1)
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = alert
  else
    redis.call('ZREM', box .. ':sending', id)
  end
end
return #claimed > 6 and claimed or {}
"""

_SETTLE = (
    _TOLD
    + """
-- KEYS[1] the box. ARGV: mail id, fate ('sent', 'dead', 'wait', 'again'), now, hold until, error, given up before, fate
-- as JSON, the fate of those too old to wait (JSON), who has not had it yet (JSON) or '', first pause of an audience
-- (ms), whether others may be sent meanwhile (0 or 1), number of the newest alert when the mail was claimed, who will
-- never get it though others did (JSON) or '', and why; then id and delay of each entry (ms from the check to now; '':
-- not to be counted). Only alerts still in that mail count: another job may have taken it over. What some will never
-- get is a dead letter for them, whose id ends with a !.
local box, mail, fate, now, hold, problem = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local bounds, audience, oldest, newest, is_stuck = {BOUNDS}, nil, math.huge, 0, false
local function measure(ms)
  local bucket = 'inf'
  for _, bound in ipairs(bounds) do
    if ms <= bound * 1000 then bucket = bound; break end
  end
  redis.call('HINCRBY', 'monitor:alert-delay', bucket, 1)
  redis.call('HINCRBY', 'monitor:alert-delay', 'sum_ms', ms)
end
for i = 15, #ARGV, 2 do
  local id = ARGV[i]
  local key = box .. ':entry:' .. id
  local found = redis.call('HMGET', key, 'mail', 'since', 'alert', 'audience')
  if found[1] == mail and redis.call('ZSCORE', box .. ':sending', id) then
    local is_given_up = (fate == 'wait' or fate == 'again') and tonumber(found[2]) < tonumber(ARGV[6])
    local alert = found[3] and found[3] ~= '' and cjson.decode(found[3]) or {}
    local incident = alert['incident'] and 'monitor:incident:' .. alert['incident']
    if incident and redis.call('EXISTS', incident) == 1 then
      local became = '{"kind":"' .. alert['kind'] .. '",' .. string.sub(is_given_up and ARGV[8] or ARGV[7], 2)
      redis.call('HSET', incident, told_field(box, id), became)
    end
    is_stuck = is_stuck or redis.call('HEXISTS', key, 'to') == 0
    if ARGV[13] ~= '' then
      local dead = box .. ':entry:' .. id .. '!'
      redis.call('HSET', dead, 'alert', found[3] or '', 'since', found[2], 'tries', 1, 'audience', found[4] or '',
                 'to', ARGV[13], 'error', ARGV[14])
      redis.call('ZADD', box .. ':dead', now, id .. '!')
    end
    if fate == 'sent' then
      local since = tonumber(found[2])
      audience, oldest, newest = found[4] or '', math.min(oldest, since), math.max(newest, since)
      redis.call('ZREM', box .. ':sending', id)
      redis.call('DEL', key)
      if ARGV[i + 1] ~= '' then measure(tonumber(ARGV[i + 1])) end
    elseif fate == 'dead' or is_given_up then
      redis.call('ZREM', box .. ':sending', id)
      redis.call('ZADD', box .. ':dead', now, id)
      redis.call('HSET', key, 'error', problem)
    elseif fate == 'wait' and redis.call('HEXISTS', key, 'to') == 0 then
      redis.call('ZREM', box .. ':sending', id)
      redis.call('HDEL', key, 'mail')
      redis.call('HSET', key, 'error', problem)
      redis.call('ZADD', box, found[2], id)
    else
      redis.call('ZADD', box .. ':sending', hold, id)
      if ARGV[9] ~= '' then redis.call('HSET', key, 'to', ARGV[9]) end
      redis.call('HSET', key, 'error', problem)
    end
  end
end
if audience and tonumber(ARGV[10]) > 0 then
  -- Each mail that follows closely on another doubles the pause before the next, up to five minutes. How long it then
  -- waited for more does not make it a late one, or a storm that goes on would never be told more rarely.
  local last, pause, owed = string.match(redis.call('HGET', box .. ':pace', audience) or '', '^(%d+),(%d+),(%d+)$')
  if last and oldest < tonumber(last) + tonumber(pause) then
    pause = math.min(tonumber(pause) * 2, 300000)
  else
    pause = tonumber(ARGV[10])
  end
  newest = math.max(newest, tonumber(owed or 0))
  redis.call('HSET', box .. ':pace', audience, string.format('%.0f,%.0f,%.0f', now + pause, pause, newest))
  -- What came in while the mail was on its way follows this pace, too.
  local waiting = redis.call('ZRANGE', box, '-inf', now + pause, 'BYSCORE', 'LIMIT', 0, 20000)
  for _, id in ipairs(waiting) do
    local found = redis.call('HMGET', box .. ':entry:' .. id, 'audience', 'number')
    if found[1] == audience and tonumber(found[2] or 0) > tonumber(ARGV[12]) then
      redis.call('ZADD', box, now + pause, id)
    end
  end
end
if ARGV[11] == '1' then
  -- It is a matter of this mail alone.
elseif fate == 'wait' or fate == 'again' then
  redis.call('HSET', box .. ':hold', 'until', hold)
  redis.call('HINCRBY', box .. ':hold', 'failures', 1)
  if is_stuck then redis.call('HSETNX', box .. ':hold', 'since', now) end
else
  redis.call('DEL', box .. ':hold')
end
local surplus = redis.call('ZRANGE', box .. ':dead', 0, -10001)
for _, id in ipairs(surplus) do
  redis.call('ZREM', box .. ':dead', id)
  redis.call('DEL', box .. ':entry:' .. id)
end
""".replace("BOUNDS", ", ".join(map(str, DELAY_BOUNDS)))
)

_REQUEST_REPORT = """
-- KEYS[1] the box. ARGV: now. A report that waits already is the one asked for; one that is being sent is not.
local box = KEYS[1]
local waiting = redis.call('GET', box .. ':report')
if waiting and redis.call('ZSCORE', box, waiting) then return waiting end
local id = 'report-' .. ARGV[1]
redis.call('SET', box .. ':report', id)
redis.call('ZADD', box, ARGV[1], id)
redis.call('HSET', box .. ':entry:' .. id, 'alert', '', 'since', ARGV[1], 'tries', 0)
return id
"""

_REVIVE = """
-- KEYS[1] the box. ARGV: id, now. A dead letter waits again, as if it were new.
if redis.call('ZREM', KEYS[1] .. ':dead', ARGV[1]) == 0 then return 0 end
local key = KEYS[1] .. ':entry:' .. ARGV[1]
if string.sub(ARGV[1], -1) == '!' then
  -- The others have had it: it is a mail of its own.
  redis.call('HDEL', key, 'error')
  redis.call('HSET', key, 'since', ARGV[2], 'tries', 0, 'mail', ARGV[1])
  redis.call('ZADD', KEYS[1] .. ':sending', ARGV[2], ARGV[1])
  return 1
end
redis.call('HDEL', key, 'mail', 'error', 'to')
redis.call('HSET', key, 'since', ARGV[2], 'tries', 0)
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
-- A fall whose recovery was told meanwhile is told as what it was: over.
local found = redis.call('HMGET', key, 'alert', 'target', 'audience')
local alert = found[1] and found[1] ~= '' and cjson.decode(found[1]) or {}
local closed = alert['kind'] == 'down' and alert['incident']
               and redis.call('HGET', 'monitor:incident:' .. alert['incident'], 'closed')
if closed then
  local id = cjson.decode(closed)['id'] .. (string.match(ARGV[1], '%+$') or '')
  local up = KEYS[1] .. ':entry:' .. id
  if redis.call('ZREM', KEYS[1] .. ':dead', id) == 1 or redis.call('EXISTS', up) == 0 then
    redis.call('HDEL', up, 'mail', 'error', 'to')
    redis.call('HSET', up, 'alert', closed, 'since', ARGV[2], 'tries', 0, 'target', found[2] or '', 'parent', '',
               'audience', found[3] or '', 'number', redis.call('INCR', KEYS[1] .. ':owed'))
    redis.call('ZADD', KEYS[1], ARGV[2], id)
  end
end
return 1
"""


_NOBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Mail:
    """What one deliver job has taken, under a lease of two minutes: alerts in order, or one report (then none)."""

    id: str
    entries: tuple[str, ...]
    """The ids in the outbox."""
    alerts: tuple[Alert, ...]
    recipients: tuple[str, ...] | None = None
    """Those who have not had it yet, after a server took it for the others; None: all."""
    audience: tuple[str, ...] = ()
    """Who is told instead of the recipients of the settings; empty: those."""
    tries: int = field(default=0, compare=False)
    """How often it was tried before."""
    newest: int = field(default=0, compare=False)
    """The number of the newest alert in the box when it was claimed."""
    apart: tuple[str, ...] = ()
    """Those who have not had an earlier mail about the same targets yet; this one is sent to them later, alone."""

    @property
    def is_report(self) -> bool:
        return not self.alerts


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How full the outbox is; ``oldest_at`` is when the first that waits is to be sent (ms), None when none waits."""

    waiting: int
    sending: int
    dead: int
    oldest_at: int | None
    failures: int
    failing_since: int | None = None
    """Since when nothing gets through (ms), whether the server says so or the jobs die; None while all is well."""


class Outbox:
    """Claims, settles and counts. Any number of deliver jobs may run at once: an alert is in one mail at a time."""

    def __init__(self, redis: Redis, box: str) -> None:
        """``box`` is the key that all others of this outbox begin with."""
        self._redis: Any = redis  # redis-py cannot say that this client answers in bytes
        self.box = box
        self._claim = redis.register_script(_CLAIM)
        self._settle = redis.register_script(_SETTLE)
        self._request_report = redis.register_script(_REQUEST_REPORT)
        self._revive = redis.register_script(_REVIVE)

    def request_report(self, *, now: int) -> None:
        """Owe people a mail with the present state of every target that is down. Idempotent while it waits."""
        self._request_report(keys=[self.box], args=[now])

    def is_due(self, *, now: int) -> bool:
        """Whether a deliver job would find work; asked by the scheduler at every pass, so it is one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrange(self.box, 0, 0, withscores=True)
            pipe.zrange(keys.sending(self.box), 0, 0, withscores=True)
            pipe.hget(keys.hold(self.box), "until")
            waiting, sending, hold = pipe.execute()
        if hold is not None and float(hold) > now:
            return False
        return any(rows and rows[0][1] <= now for rows in (waiting, sending))

    def claim(self, mail_id: str, *, now: int, wait_ms: int = 0) -> Mail | None:
        """Take what is due, as the mail ``mail_id`` or as the earlier mail whose lease ended; None: nothing is due.

        ``wait_ms`` is how long before it was due an alert was written. What is owed to an audience is due as a whole
        when nothing further was added for as long (to :data:`MANY` for twice as long), when its oldest was written
        :data:`GROUP_WAITS` times as long ago or is overdue by :data:`LONGEST_MORE_MS`, or when it fills a mail; until
        then all of it is put off, so that :meth:`is_due` says no. With 0 nothing waits for more.

        A kill after this line costs the lease: the same mail is then claimed again under its own id.
        """
        patience_ms = min((GROUP_WAITS - 1) * wait_ms, LONGEST_MORE_MS)
        arguments: list[int | str] = [now, now + LEASE_MS, mail_id, MAIL_SIZE, patience_ms, wait_ms, MANY]
        claimed = self._claim(keys=[self.box], args=arguments)
        if not claimed:
            return None
        mail, to, audience, tries, newest, apart, *entries = claimed
        rows = list(zip(entries[::2], entries[1::2], strict=True))
        alerts = [Alert.parse(orjson.loads(alert)) for _, alert in rows if alert]
        alerts.sort(key=lambda alert: alert.at)
        recipients = tuple(orjson.loads(to)) if to else None
        return Mail(
            mail.decode(),
            tuple(entry.decode() for entry, _ in rows),
            tuple(alerts),
            recipients,
            parse_audience(audience.decode()),
            int(tries),
            int(newest),
            tuple(sorted(orjson.loads(apart))) if apart else (),
        )

    def sent(
        self, mail: Mail, *, now: int, recipients: Sequence[str], refused: Mapping[str, str], pause_ms: int = 0
    ) -> None:
        """A server took the mail: its alerts leave, and their incidents remember it.

        Those whom it was ``refused`` for good, with the server's answer, have a dead letter each of their own.

        The next mail to the same audience waits for ``pause_ms`` at least, and twice as long each time that one follows
        closely, that is when its oldest alert was due before another such pause was over.
        """
        fate = {"fate": "sent", "at": now, "mail": mail.id, "recipients": list(recipients), "refused": dict(refused)}
        self._put(mail, "sent", now=now, fate=fate, pause_ms=pause_ms, never=refused)

    def refused(self, mail: Mail, *, now: int, error: str) -> None:
        """A server will never take the mail: its alerts become dead letters."""
        self._put(mail, "dead", now=now, error=error, fate={"fate": "refused", "at": now, "error": error})

    def delayed(self, mail: Mail, *, now: int, error: str, may_have_arrived: bool, is_about_mail: bool = False) -> int:
        """The mail did not get through; returns when the next attempt is due (ms).

        Every failure in a row doubles the wait, from 5 s up to 15 min; alerts older than three days become dead
        letters. With ``may_have_arrived`` the same mail is sent again as it is. Others wait with it, because there is
        no server for them either, unless the failure ``is_about_mail`` alone.
        """
        is_kept = may_have_arrived or is_about_mail
        return self._hold(mail, "again" if is_kept else "wait", now=now, error=error, is_about_mail=is_about_mail)

    def partly_sent(
        self,
        mail: Mail,
        *,
        now: int,
        recipients: Sequence[str],
        remaining: Sequence[str],
        error: str,
        never: Mapping[str, str] = _NOBODY,
    ) -> int:
        """The server took the mail for ``recipients`` and asks the others to wait: it is sent to them again, alone.

        ``never`` are those whom it refused it for good, as in :meth:`sent`.
        """
        return self._hold(
            mail,
            "again",
            now=now,
            error=error,
            is_about_mail=True,
            recipients=recipients,
            remaining=remaining,
            never=never,
        )

    def _hold(
        self,
        mail: Mail,
        fate_name: str,
        *,
        now: int,
        error: str,
        is_about_mail: bool,
        recipients: Sequence[str] = (),
        remaining: Sequence[str] = (),
        never: Mapping[str, str] = _NOBODY,
    ) -> int:
        failures = mail.tries if is_about_mail else int(self._redis.hget(keys.hold(self.box), "failures") or 0)
        until: int = now + min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** min(failures, 20))
        fate = {"fate": "delayed", "at": now, "error": error, "next_at": until, "recipients": list(recipients)}
        self._put(
            mail,
            fate_name,
            now=now,
            hold=until,
            error=error,
            fate=fate,
            remaining=remaining,
            is_about_mail=is_about_mail,
            never=never,
        )
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
        pause_ms: int = 0,
        is_about_mail: bool = False,
        never: Mapping[str, str] = _NOBODY,
    ) -> None:
        given_up = {name: value for name, value in fate.items() if name != "next_at"} | {"fate": "given_up"}
        head: list[Any] = [mail.id, fate_name, now, hold, error, now - GIVEN_UP_AFTER_MS]
        to = orjson.dumps(list(remaining)) if remaining else ""
        tail = [orjson.dumps(fate), orjson.dumps(given_up), to, pause_ms]
        tail += [int(is_about_mail), mail.newest]
        tail += [orjson.dumps(list(never)), "; ".join(never.values())] if never else ["", ""]
        delays = {alert.id: _delay_ms(alert, now) for alert in mail.alerts}
        entries = [word for entry in mail.entries for word in (entry, delays.get(entry, ""))]
        self._settle(keys=[self.box], args=[*head, *tail, *entries])

    def revive(self, entry_id: str, *, now: int) -> bool:
        """Send a dead letter again; False when there is none of that id."""
        return bool(self._revive(keys=[self.box], args=[entry_id, now]))

    def counts(self) -> OutboxCounts:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(self.box)
            pipe.zcard(keys.sending(self.box))
            pipe.zcard(keys.dead(self.box))
            pipe.zrange(self.box, 0, 0, withscores=True)
            pipe.zrange(keys.sending(self.box), 0, 0)
            pipe.hmget(keys.hold(self.box), "failures", "since")
            waiting, sending, dead, oldest, [*leased], (failures, since) = pipe.execute()
        failing = [int(since)] if since else []
        for raw in leased:
            owed, tries, to = self._redis.hmget(keys.outbox_entry(self.box, raw.decode()), "since", "tries", "to")
            if owed and int(tries or 0) > 1 and to is None:
                failing.append(int(owed))
        oldest_at = int(oldest[0][1]) if oldest else None
        return OutboxCounts(waiting, sending, dead, oldest_at, int(failures or 0), min(failing, default=None))

    def delays(self) -> tuple[list[tuple[str, int]], int]:
        """How long alerts took to a server: counts up to each bound in seconds, cumulative; and the sum in ms."""
        found = {name.decode(): int(value) for name, value in self._redis.hgetall(keys.ALERT_DELAY).items()}
        counts, so_far = [], 0
        for bound in (*DELAY_BOUNDS, "inf"):
            so_far += found.get(str(bound), 0)
            counts.append(("+Inf" if bound == "inf" else f"{bound:.1f}", so_far))
        return counts, found.get("sum_ms", 0)

    def entries(self) -> list[dict[str, Any]]:
        """What waits, is being sent or was given up, bounded: id, place, tries, error, alert (a document)."""
        places = {"waiting": self.box, "sending": keys.sending(self.box), "dead": keys.dead(self.box)}
        ids = [(place, raw.decode()) for place, key in places.items() for raw in self._redis.zrange(key, 0, LISTED - 1)]
        with self._redis.pipeline(transaction=False) as pipe:
            for _, entry_id in ids:
                pipe.hmget(keys.outbox_entry(self.box, entry_id), "alert", "tries", "error")
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


def boxes(settings: Settings) -> tuple[str, ...]:
    """The outboxes that an alert goes into: that of the mails always, for they fall back to a folder."""
    has_channels = bool(settings.notify_urls or settings.webhook_url)
    return (keys.OUTBOX, keys.NOTIFICATIONS) if has_channels else (keys.OUTBOX,)


def audience_of(recipients: Sequence[str]) -> str:
    """Those who are told beside the recipients of the settings, as one key; "" for nobody.

    No address holds a line break, but one may hold a comma: ``"Doe, Jane" <jane@example.org>``.
    """
    return "\n".join(sorted(recipients))


def audiences_of(recipients: Sequence[str], settings: Settings) -> str:
    """Whom an alert is owed to by mail: the recipients of the settings, and apart from them its own."""
    own = [audience_of(recipients)] if recipients else []
    return "\x1e".join([""] * bool(settings.mail_recipients or not own) + own)


def parse_audience(audience: str) -> tuple[str, ...]:
    return tuple(filter(None, audience.split("\n")))


def _delay_ms(alert: Alert, now: int) -> int | str:
    """From the end of the first check that saw it until now; "" for what no check saw just now."""
    if alert.kind not in ("down", "up", "flapping"):
        return ""
    return max(0, now - (alert.detected_at or alert.at))
