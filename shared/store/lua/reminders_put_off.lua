-- ARGV: incident, when it was due, until when it is put off. Another scheduler may have reminded meanwhile.
local due = redis.call('ZSCORE', 'monitor:reminders', ARGV[1])
if due and tonumber(due) == tonumber(ARGV[2]) then redis.call('ZADD', 'monitor:reminders', ARGV[3], ARGV[1]) end
