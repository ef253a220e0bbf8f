-- ARGV: now, then fourteen values a target: id, expected revision (0: new), expected state ('' : any), new state,
-- new status, bucket, identity, title digest, endpoint digest, interval, paused, check, latest result ('' : as it is),
-- how long its check may take (ms).
-- First everything is verified, then everything is written: all or nothing.
local now, width = ARGV[1], 14
local function registry(member, bucket)
  if redis.call('EXISTS', bucket) == 1 then
    if redis.call('SADD', 'monitor:buckets', member) == 1 then redis.call('INCR', 'monitor:orders') end
  elseif redis.call('SREM', 'monitor:buckets', member) == 1 then
    redis.call('INCR', 'monitor:orders')
  end
end
for i = 2, #ARGV, width do
  local id, revision, state, identity = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 6]
  local key = 'monitor:target:' .. id
  local owner = redis.call('HGET', 'monitor:identity', identity)
  if revision == '0' then
    if owner or redis.call('EXISTS', key) == 1 then return {'conflict', (i - 2) / width} end
  else
    local found = redis.call('HMGET', key, 'revision', 'state')
    if found[1] ~= revision or (state ~= '' and found[2] ~= state) then return {'conflict', (i - 2) / width} end
    if owner and owner ~= id then return {'taken', (i - 2) / width} end
  end
end
for i = 2, #ARGV, width do
  local id, revision, state, status = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4]
  local bucket, identity, title, endpoint = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]
  local interval, paused, check, latest = ARGV[i + 9], ARGV[i + 10], ARGV[i + 11], ARGV[i + 12]
  local key, order = 'monitor:target:' .. id, nil
  if revision == '0' then
    order = redis.call('INCR', 'monitor:order')
    redis.call('ZADD', 'monitor:targets', order, id)
    redis.call('HSET', key, 'order', order, 'created_at', now)
    if latest ~= '' then
      redis.call('HSET', key, 'latest', latest)
      local checked = cjson.decode(latest)['finished_at'] or cjson.decode(state)['checked_at']
      redis.call('ZADD', 'monitor:checked', checked, id)
    end
  else
    local old = redis.call('HMGET', key, 'identity', 'by_title', 'by_endpoint', 'interval', 'bucket', 'order', 'state')
    redis.call('HDEL', 'monitor:identity', old[1])
    redis.call('SREM', 'monitor:title:' .. old[2], id)
    redis.call('SREM', 'monitor:endpoint:' .. old[3], id)
    redis.call('SREM', 'monitor:bucket:' .. old[4] .. ':' .. old[5], id)
    registry(old[4] .. ':' .. old[5], 'monitor:bucket:' .. old[4] .. ':' .. old[5])
    order = old[6]
    if state ~= '' then redis.call('ZREM', 'monitor:status:' .. cjson.decode(old[7])['status'], id) end
  end
  redis.call('HSET', key, 'check', check, 'revision', revision + 1, 'identity', identity, 'by_title', title,
             'by_endpoint', endpoint, 'interval', interval, 'bucket', bucket)
  if state ~= '' then
    redis.call('HSET', key, 'state', state)
    redis.call('ZADD', 'monitor:status:' .. status, order, id)
  end
  redis.call('HSET', 'monitor:identity', identity, id)
  redis.call('SADD', 'monitor:title:' .. title, id)
  redis.call('SADD', 'monitor:endpoint:' .. endpoint, id)
  if paused == '0' then
    redis.call('SADD', 'monitor:bucket:' .. interval .. ':' .. bucket, id)
    local seconds = tonumber(interval)
    if seconds == 0 then seconds = tonumber(redis.call('GET', 'monitor:default-interval') or 300) end
    redis.call('ZADD', 'monitor:due', now + 2000 * seconds + ARGV[i + 13], id)
  else
    redis.call('ZREM', 'monitor:due', id)
  end
  registry(interval .. ':' .. bucket, 'monitor:bucket:' .. interval .. ':' .. bucket)
end
redis.call('INCR', 'monitor:changes')
return {'ok'}
