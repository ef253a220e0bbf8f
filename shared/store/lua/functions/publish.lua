-- Appends so many events; of each a line with its type, one with its target or '', one with its data (JSON).
local function publish(count, lines)
  local last = redis.call('INCRBY', 'monitor:event', count)
  -- Numbers begin at the next second, in ms, so that no reader of what a lost Redis held takes the new ones for old.
  if last == count then last = redis.call('INCRBY', 'monitor:event', 1000 * (redis.call('TIME')[1] + 1)) end
  redis.call('XADD', 'monitor:events', string.format('%d-%d', last, count), 'e', lines)
  redis.call('XTRIM', 'monitor:events', 'MINID', '~', string.format('%d', last - EVENTS_KEPT))
end
