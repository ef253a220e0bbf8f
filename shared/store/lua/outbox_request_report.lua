-- KEYS[1] the box. ARGV: now. A report that waits already is the one asked for; one that is being sent is not.
local box = KEYS[1]
local waiting = redis.call('GET', box .. ':report')
if waiting and redis.call('ZSCORE', box, waiting) then return waiting end
local id = 'report-' .. ARGV[1]
redis.call('SET', box .. ':report', id)
redis.call('ZADD', box, ARGV[1], id)
redis.call('HSET', box .. ':entry:' .. id, 'alert', '', 'since', ARGV[1], 'tries', 0)
return id
