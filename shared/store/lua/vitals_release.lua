-- KEYS: leases, ARGV: owner. Only what is still ours is released.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
