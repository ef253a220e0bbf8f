-- ARGV: seconds to keep a closed incident, the boxes that alerts go into, the results (MessagePack), each a row of
-- 1 id, 2 revision, 3 expected state, 4 new state, 5 started, 6 packed result, 7 length of the history, 8 result as
-- JSON, 9 verdict (nil: not to be counted), 10 elapsed ms, 11 finished, 12 when the next result is overdue, 13
-- baseline, 14 what most results have not (see _Row._extras in recording.py) or nil, 15 evidence of a failure or nil.
-- Returns for each: 'ok', 'gone' (deleted, or changed since the check began) or the state that was found instead.
local kept, boxes, outcome, checked, due, events = ARGV[1], ARGV[2], {}, {}, {}, {}
local call, match, format = redis.call, string.match, string.format
local function tell(kind, id, data)
  local at = #events
  events[at + 1], events[at + 2], events[at + 3] = kind, id, data
end
local function add(key, size, open, stamp, verdict, elapsed)
  local at, up, down, unknown, sum = match(open, '(%d+),(%d+),(%d+),(%d+),(%d+)')
  if tonumber(at) ~= stamp then
    if at then call('HSET', key, at % size, open) end
    up, down, unknown, sum = 0, 0, 0, 0
  end
  if verdict == 'up' or verdict == 'degraded' then
    up = up + 1
  elseif verdict == 'down' then
    down = down + 1
  else
    unknown = unknown + 1
  end
  return format('%d,%d,%d,%d,%d', stamp, up, down, unknown, sum + elapsed)
end
local function change(id, order, extras, evidence)
  if extras.good then call('HSET', 'monitor:target:' .. id, 'good', extras.good) end
  if extras.flip then
    call('ZREM', 'monitor:status:' .. extras.before, id)
    call('ZADD', 'monitor:status:' .. extras.after, order, id)
    tell('target_flipped', id, extras.flip)
    call('INCR', 'monitor:changes')
  end
  if extras.fate then
    local incident = extras.incident
    local name = 'monitor:incident:' .. incident
    call('HSET', name, 'target', id, unpack(extras.fields))
    if extras.fate == 'open' then
      local opened = call('HGET', name, 'opened_at')
      call('HSET', name, 'evidence', evidence)
      call('ZADD', 'monitor:incidents', opened, incident)
      call('ZADD', 'monitor:incidents:open', opened, incident)
      call('ZADD', 'monitor:incidents:of:' .. id, opened, incident)
      call('ZREMRANGEBYRANK', 'monitor:incidents', 0, -10001)
      call('ZREMRANGEBYRANK', 'monitor:incidents:of:' .. id, 0, -1001)
      if extras.remind_at then call('ZADD', 'monitor:reminders', extras.remind_at, incident) end
    elseif extras.fate == 'close' then
      call('EXPIRE', name, kept)
      call('ZREM', 'monitor:incidents:open', incident)
      call('ZREM', 'monitor:reminders', incident)
    end
  end
  if extras.alert then
    owe(boxes, cjson.decode(extras.flip)['id'], extras.alert, id, extras.parent, extras.audiences, extras.due)
  end
end
for _, row in ipairs(cmsgpack.unpack(ARGV[3])) do
  local id, revision, before, after, started, packed, length, result, verdict, elapsed, finished, overdue, baseline,
        extras, evidence = unpack(row, 1, 15)
  local key = 'monitor:target:' .. id
  local found = call('HMGET', key, 'revision', 'state', 'order', 'hour', 'day')
  if found[1] ~= revision then
    outcome[#outcome + 1] = 'gone'
  elseif found[2] ~= before then
    outcome[#outcome + 1] = found[2]
  else
    local hour, day = found[4] or '', found[5] or ''
    if verdict then
      hour = add('monitor:hours:' .. id, HOURS_KEPT, hour, math.floor(started / 3600000), verdict, elapsed)
      day = add('monitor:days:' .. id, DAYS_KEPT, day, math.floor(started / 86400000), verdict, elapsed)
    end
    call('HSET', key, 'state', after, 'latest', result, 'baseline', baseline, 'hour', hour, 'day', day)
    if evidence then
      call('LPUSH', 'monitor:failures:' .. id, evidence)
      call('LTRIM', 'monitor:failures:' .. id, 0, 49)
    end
    call('XADD', 'monitor:results:' .. id, 'MAXLEN', '~', length, format('%d-0', started), 'p', packed)
    checked[#checked + 1], checked[#checked + 2] = finished, id
    due[#due + 1], due[#due + 2] = overdue, id
    tell('check_finished', id, result)
    if extras then change(id, found[3], extras, evidence) end
    outcome[#outcome + 1] = 'ok'
  end
end
if #due > 0 then
  call('ZADD', 'monitor:checked', unpack(checked))
  call('ZADD', 'monitor:due', unpack(due))
end
if #events > 0 then publish(#events / 3, table.concat(events, '\n')) end
return outcome
