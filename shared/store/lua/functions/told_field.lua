-- The field in which an incident remembers what became of an alert of this box.
local function told_field(box, entry)
  return 'told:' .. (box == 'monitor:outbox' and '' or 'notifications:') .. entry
end
