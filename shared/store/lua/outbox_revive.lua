-- KEYS[1] the box. ARGV: id, now. A dead letter waits again, as if it were new.
if redis.call('ZREM', KEYS[1] .. ':dead', ARGV[1]) == 0 then return 0 end
local key = KEYS[1] .. ':entry:' .. ARGV[1]
if string.sub(ARGV[1], -1) == '!' then
  -- The others have had it: it is a mail of its own.
  redis.call('HDEL', key, 'error')
  redis.call('HSET', key, 'since', ARGV[2], 'tries', 0, 'mail', ARGV[1])
  redis.call('ZADD', KEYS[1] .. ':sending', ARGV[2], ARGV[1])
  return 1
end
redis.call('HDEL', key, 'mail', 'error', 'to')
redis.call('HSET', key, 'since', ARGV[2], 'tries', 0)
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
-- A fall whose recovery was told meanwhile is told as what it was: over.
local found = redis.call('HMGET', key, 'alert', 'target', 'audience')
local alert = found[1] and found[1] ~= '' and cjson.decode(found[1]) or {}
local closed = alert['kind'] == 'down' and alert['incident']
               and redis.call('HGET', 'monitor:incident:' .. alert['incident'], 'closed')
if closed then
  local id = cjson.decode(closed)['id'] .. (string.match(ARGV[1], '%+$') or '')
  local up = KEYS[1] .. ':entry:' .. id
  if redis.call('ZREM', KEYS[1] .. ':dead', id) == 1 or redis.call('EXISTS', up) == 0 then
    redis.call('HDEL', up, 'mail', 'error', 'to')
    redis.call('HSET', up, 'alert', closed, 'since', ARGV[2], 'tries', 0, 'target', found[2] or '', 'parent', '',
               'audience', found[3] or '', 'number', redis.call('INCR', KEYS[1] .. ':owed'))
    redis.call('ZADD', KEYS[1], ARGV[2], id)
  end
end
return 1
