-- KEYS: the signs, the run's work. ARGV: run, ms until its next sign, ms to keep it, then fields that are done.
-- 0 when the run is not known, or not any more.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
for i = 4, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
