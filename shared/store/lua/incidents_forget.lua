-- ARGV: ids of incidents that seem to have expired.
for _, id in ipairs(ARGV) do leave(id) end
