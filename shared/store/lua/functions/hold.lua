-- The run has this piece of work in hand, under that number, and is alive: its next sign is due in `wait` ms. What is
-- known of it is kept for `kept` ms.
local function hold(signs, work, run, wait, kept, number, piece)
  local now = redis.call('TIME')
  redis.call('HSET', work, 'begun', 1, number, piece)
  redis.call('PEXPIRE', work, kept)
  redis.call('ZADD', signs, now[1] * 1000 + math.floor(now[2] / 1000) + wait, run)
end
