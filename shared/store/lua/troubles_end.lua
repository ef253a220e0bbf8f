-- ARGV: name, alert (JSON), entry, boxes, now.
if redis.call('HDEL', 'monitor:troubles', ARGV[1]) == 0 then return 0 end
owe(ARGV[4], ARGV[3], ARGV[2], '', '', '', ARGV[5])
return 1
