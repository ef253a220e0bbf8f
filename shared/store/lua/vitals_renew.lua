-- KEYS: leases, ARGV: owner, milliseconds. Only what is still ours, or nobody's, is renewed.
for _, key in ipairs(KEYS) do
  local owner = redis.call('GET', key)
  if not owner or owner == ARGV[1] then redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
end
