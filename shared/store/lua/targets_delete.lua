-- KEYS[1] the target, ARGV: id, now, seconds to keep its closed incident. What it was owed stays in the outbox.
local key, id = KEYS[1], ARGV[1]
local old = redis.call('HMGET', key, 'identity', 'by_title', 'by_endpoint', 'interval', 'bucket', 'state')
if not old[1] then return 0 end
local state = cjson.decode(old[6])
local bucket = 'monitor:bucket:' .. old[4] .. ':' .. old[5]
redis.call('HDEL', 'monitor:identity', old[1])
redis.call('SREM', 'monitor:title:' .. old[2], id)
redis.call('SREM', 'monitor:endpoint:' .. old[3], id)
redis.call('SREM', bucket, id)
if redis.call('EXISTS', bucket) == 0 and redis.call('SREM', 'monitor:buckets', old[4] .. ':' .. old[5]) == 1 then
  redis.call('INCR', 'monitor:orders')
end
redis.call('ZREM', 'monitor:targets', id)
redis.call('ZREM', 'monitor:checked', id)
redis.call('ZREM', 'monitor:due', id)
redis.call('ZREM', 'monitor:status:' .. state['status'], id)
if state['incident'] then
  redis.call('HSET', 'monitor:incident:' .. state['incident'], 'closed_at', ARGV[2], 'deleted', 1)
  redis.call('EXPIRE', 'monitor:incident:' .. state['incident'], ARGV[3])
  redis.call('ZREM', 'monitor:incidents:open', state['incident'])
  redis.call('ZREM', 'monitor:reminders', state['incident'])
end
redis.call('DEL', key, 'monitor:results:' .. id, 'monitor:failures:' .. id, 'monitor:hours:' .. id,
           'monitor:days:' .. id)
redis.call('EXPIRE', 'monitor:incidents:of:' .. id, ARGV[3])
redis.call('INCR', 'monitor:changes')
return 1
