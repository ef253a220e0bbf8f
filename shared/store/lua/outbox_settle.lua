-- KEYS[1] the box. ARGV: mail id, fate ('sent', 'dead', 'wait', 'again'), now, hold until, error, given up before, fate
-- as JSON, the fate of those too old to wait (JSON), who has not had it yet (JSON) or '', first pause of an audience
-- (ms), whether others may be sent meanwhile (0 or 1), number of the newest alert when the mail was claimed, who will
-- never get it though others did (JSON) or '', and why; then id and delay of each entry (ms from the check to now; '':
-- not to be counted). Only alerts still in that mail count: another job may have taken it over. What some will never
-- get is a dead letter for them, whose id ends with a !.
local box, mail, fate, now, hold, problem = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local audience, oldest, newest, is_stuck = nil, math.huge, 0, false
local function measure(ms)
  local bucket = 'inf'
  for _, bound in ipairs(DELAY_BOUNDS) do
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
