-- ARGV: name, alert (JSON), entry, boxes, now. Of two that see it at once, one tells.
if redis.call('HSETNX', 'monitor:troubles', ARGV[1], ARGV[2]) == 0 then return 0 end
owe(ARGV[4], ARGV[3], ARGV[2], '', '', '', ARGV[5])
return 1
