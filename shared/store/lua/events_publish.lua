-- ARGV: how many events, their lines (see functions/publish.lua).
publish(tonumber(ARGV[1]), ARGV[2])
