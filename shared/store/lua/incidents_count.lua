-- KEYS[1] an index. ARGV: since, until, how many of the oldest to look at first. Returns how many began then in that
-- index, and how many of all that are open.
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1)) do leave(id) end
return {redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[2]),
        redis.call('ZCOUNT', 'monitor:incidents:open', ARGV[1], ARGV[2])}
