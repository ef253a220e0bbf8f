-- An incident that has expired leaves the indexes too; the target is the first part of its id.
local function leave(id)
  if redis.call('EXISTS', 'monitor:incident:' .. id) == 1 then return end
  redis.call('ZREM', 'monitor:incidents', id)
  redis.call('ZREM', 'monitor:incidents:open', id)
  redis.call('ZREM', 'monitor:incidents:of:' .. (string.match(id, '^(.*)%-') or ''), id)
  redis.call('ZREM', 'monitor:reminders', id)
end
