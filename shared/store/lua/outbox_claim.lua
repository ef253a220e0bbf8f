-- KEYS[1] the box. ARGV: now, lease ends, new mail id, size, how long what is due may wait for more (ms), how much
-- longer (ms) where many alerts wait. First a mail whose lease has ended, whole; else, once something is due and no
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
    line = (found[1] or '') ~= '' and found[1] .. '\30' .. (found[2] or '') or nil,
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
        line = (found[1] or '') ~= '' and found[1] .. '\30' .. (found[3] or '') or nil,
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
    local more = owed.count < MANY and 0 or tonumber(ARGV[6])
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
