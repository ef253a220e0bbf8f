-- ARGV: incident, when it was due, when it is due next, number, boxes, entry, alert (JSON), target, audiences, now.
-- Nothing happens when another scheduler was faster, or when the incident was closed or acknowledged meanwhile.
local due = redis.call('ZSCORE', 'monitor:reminders', ARGV[1])
if not due or tonumber(due) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', 'monitor:reminders', ARGV[3], ARGV[1])
redis.call('HSET', 'monitor:incident:' .. ARGV[1], 'reminders', ARGV[4])
owe(ARGV[5], ARGV[6], ARGV[7], ARGV[8], '', ARGV[9], ARGV[10])
return 1
