-- Puts an alert into each of the boxes (comma-separated); the parent is given where nobody is to be told while that is
-- down. Only mails have audiences, separated by the character 30; the entry of a second one has a + behind its id.
-- Where the last mail to the same audience was a short while ago, the alert is due when the pace of that audience
-- allows the next; a minute in which it was owed nothing ends the pace.
local function owe_to(box, entry, alert, target, parent, whose, due)
  local at = tonumber(due)
  local paced, pause, owed = string.match(redis.call('HGET', box .. ':pace', whose) or '', '^(%d+),(%d+),(%d+)$')
  if paced and at - tonumber(owed) >= 60000 then
    redis.call('HDEL', box .. ':pace', whose)
  elseif paced then
    redis.call('HSET', box .. ':pace', whose, string.format('%s,%s,%.0f', paced, pause, math.max(at, tonumber(owed))))
    at = math.max(at, tonumber(paced))
  end
  redis.call('HSET', box .. ':entry:' .. entry, 'alert', alert, 'since', due, 'tries', 0, 'target', target,
             'parent', parent, 'audience', whose, 'number', redis.call('INCR', box .. ':owed'))
  redis.call('ZADD', box, at, entry)
  local incident = 'monitor:incident:' .. (string.match(alert, '"incident":"([^"]+)"') or '')
  if redis.call('EXISTS', incident) == 1 then
    local kind = string.match(alert, '"kind":"(%a+)"')
    redis.call('HSET', incident, told_field(box, entry),
               string.format('{"kind":"%s","fate":"waiting","next_at":%.0f}', kind, at))
  end
end
local function owe(boxes, entry, alert, target, parent, audiences, due)
  for box in string.gmatch(boxes, '[^,]+') do
    if box == 'monitor:outbox' then
      local id = entry
      for whose in string.gmatch(audiences .. '\30', '([^\30]*)\30') do
        owe_to(box, id, alert, target, parent, whose, due)
        id = id .. '+'
      end
    else
      owe_to(box, entry, alert, target, parent, '', due)
    end
  end
end
