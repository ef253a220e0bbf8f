-- KEYS[1] the incident. ARGV: its id, the acknowledgement (JSON), the event (JSON). Only while it is open.
local found = redis.call('HMGET', KEYS[1], 'target', 'closed_at', 'reminders')
if not found[1] or found[2] then return {} end
redis.call('HSET', KEYS[1], 'acknowledged', ARGV[2])
redis.call('ZREM', 'monitor:reminders', ARGV[1])
-- A reminder that was not sent yet is needless now.
for _, box in ipairs({'monitor:outbox', 'monitor:notifications'}) do
  for number = 1, tonumber(found[3] or 0) do
    for _, id in ipairs({ARGV[1] .. '-r' .. number, ARGV[1] .. '-r' .. number .. '+'}) do
      if redis.call('ZREM', box, id) == 1 then redis.call('DEL', box .. ':entry:' .. id) end
    end
  end
end
publish(1, table.concat({'incident_acknowledged', found[1], ARGV[3]}, '\n'))
return redis.call('HGETALL', KEYS[1])
