-- ARGV: how many fields, their names, ids of targets. One call for all of them: a pipeline's commands would cost both
-- sides more than their work.
local found, fields = {}, {unpack(ARGV, 2, ARGV[1] + 1)}
for i = ARGV[1] + 2, #ARGV do
  found[#found + 1] = redis.call('HMGET', 'monitor:target:' .. ARGV[i], unpack(fields))
end
return found
