-- The front of a run: what one call has decided and a later one writes, so that no call does more
-- than a page of work however wide the run is. What stands in it can be done by anybody, each part
-- once; as long as something does, steps are open, so the run cannot end.

-- kind -> function(what, queued): does what stands in the front under that kind, and adds the steps
-- {step, attempt} that it queues. It is done with it, or leaves the rest for later.
local WORK = {}

-- Notes that so many steps were looked at; when the budget is used up the call is to come to its
-- end.
local function spend(steps)
  budget = budget - steps
end

local function later(kind, what)
  call('RPUSH', FRONT, cjson.encode({kind, what}))
  left = true
end

-- Notes when something was left in the front: what nobody goes on with from then on is found.
local function note_front()
  if left then call('HSET', RUN, 'front_at', now) end
end

-- Does what stands in the front, as far as the budget of this call goes.
local function go_on(queued)
  while budget > 0 do
    local text = call('LPOP', FRONT)
    if not text then break end
    local item = cjson.decode(text)
    WORK[item[1]](item[2], queued)
    spend(1)
  end
  left = call('LLEN', FRONT) > 0
end

-- Whether the run is being cancelled: then nothing is queued any more, and what waits is left to
-- the cancelling.
local function is_cancelling()
  return call('HGET', RUN, 'state') == 'cancelling'
end
