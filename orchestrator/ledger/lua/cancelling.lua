-- Cancelling a run, or steps of it.

-- Ends a step before its time. A running one keeps lease and holder until its attempt has been
-- stopped; its worker is noted.
local function cancel_step(step, detail)
  local state, attempt, token, _, holder = read(step)
  if ENDED[state] then return false end
  if state == 'running' then
    stopping[string.match(holder, '^%S+')] = true
  else
    leave(step, state)
    holder = '-'
  end
  write(step, state, 'cancelled', attempt, token, holder)
  emit('step.cancelled', step, attempt, detail)
  return true
end

local function cancel_detail()
  return cjson.encode({reason = call('HGET', RUN, 'cancel_reason')})
end

-- Cancels a running step of a run that is being cancelled now, because what has become of it must
-- not start it again.
local function cancel_if_reached(step)
  if is_cancelling() and read(step) == 'running' then
    cancel_step(step, cancel_detail())
    settle()
  end
end

-- Cancels a page of the steps, from a cursor of HSCAN (ZSCAN) on: first those with something due
-- that are running, then all that have not ended.
local SCANS = {due = {'ZSCAN', 'due'}, graph = {'HSCAN', 'graph'}}

local function cancel_page(what, cursor)
  local detail, scan = cancel_detail(), SCANS[what]
  local page = call(scan[1], BASE .. scan[2], cursor, 'COUNT', PAGE)
  for index = 1, #page[2], 2 do
    local step = page[2][index]
    if what == 'graph' or read(step) == 'running' then cancel_step(step, detail) end
  end
  spend(#page[2] / 2)
  if page[1] ~= '0' then later('cancel', {what, page[1]}) end
end

function WORK.cancel(what)
  cancel_page(what[1], what[2])
end

local function go_on_cancelling()
  go_on({})  -- which queues nothing
  settle()
  note_front()
end

-- Decides that the run ends in the state `final`, and does a page of what that takes: nothing is
-- claimed or queued from now on. What was to be told in the front before is dropped when it is
-- reached, but what a resume still has to reset is reset first.
local function begin_cancelling(final, reason)
  local cancelled = call('HGET', RUN, 'n:cancelled') or 0
  call('HSET', RUN, 'state', 'cancelling', 'cancel_reason', reason, 'cancel_final', final,
    'cancel_from', cancelled)
  if call('HLEN', GRAPH) * 2 > PAGE or call('EXISTS', FRONT) == 1 then
    emit('run.cancelling', '', 0, cjson.encode({reason = reason}))
  end
  cancel_page('due', 0)
  later('cancel', {'graph', 0})
  go_on_cancelling()
end

-- A run that is being cancelled and has no front was changed by somebody else, or by a fault of
-- ours: its steps are looked through once more.
local function cancel_again_if_lost()
  if is_cancelling() and call('EXISTS', FRONT) == 0 then later('cancel', {'graph', 0}) end
end

local function with_workers(reply)
  for worker in pairs(stopping) do reply[#reply + 1] = worker end
  return reply
end

-- How many steps the cancelling of that id has cancelled, '*' while it goes on, nil if it is a new
-- one.
local function cancelled_by(cancel_id)
  return string.match(';' .. (call('HGET', RUN, 'cancelled_by') or ''),
    ';' .. cancel_id .. ' ([%d*]+);')
end

-- The same, and notes who still has attempts to stop.
local function cancelled_before(cancel_id)
  local count = cancelled_by(cancel_id)
  if not count then return nil end
  for _, step in ipairs(call('ZRANGE', DUE, 0, PAGE - 1)) do
    local state, _, _, _, holder = read(step)
    if state == 'cancelled' then stopping[string.match(holder, '^%S+')] = true end
  end
  return count
end

-- Several people may cancel at once, and each may ask again: the newest forty or so are remembered.
local function remember_cancel(cancel_id, count)
  local others = call('HGET', RUN, 'cancelled_by') or ''
  call('HSET', RUN, 'cancelled_by', string.sub(cancel_id .. ' ' .. count .. ';' .. others, 1, 800))
end

-- cancel reason cancel_id: every step that has not ended is cancelled and the run ends. Of a large
-- run that is a page in each call: whoever asks goes on asking, with the same cancel_id, until it
-- is done; if nobody does a coordinator goes on. Another one who cancels meanwhile joins in.
-- Returns {how many steps that were, or -1 when the run had ended before, 1 while it is not done,
-- worker with an attempt to stop, ...}. The same cancel_id asking again gets the same answer.
function ops.cancel()
  local newer = unknown_format(call('HGET', RUN, 'v'))
  if newer then return redis.error_reply(newer) end
  local reason, cancel_id = ARGS[2], ARGS[3]
  local before = cancelled_before(cancel_id)
  if not before then
    local run_state = call('HGET', RUN, 'state')
    if not run_state or ENDED[run_state] then return {-1, 0} end
    remember_cancel(cancel_id, '*')
    if run_state ~= 'cancelling' then begin_cancelling('cancelled', reason) end
    before = cancelled_by(cancel_id)
  elseif before == '*' then
    cancel_again_if_lost()
    go_on_cancelling()
    before = cancelled_by(cancel_id)
  end
  return with_workers({tonumber(before) or 0, before == '*' and 1 or 0})
end

-- cancel_steps reason cancel_id step ...: these steps are cancelled, unless they have ended; for
-- what is below them they failed. Returns {how many steps that were, {more, chain, ...}, worker
-- with an attempt to stop, ...}. The same cancel_id asking again gets the same answer, with the
-- chains of what is still queued.
function ops.cancel_steps()
  local v, run_state = unpack(call('HMGET', RUN, 'v', 'state'))
  local other = unknown_format(v, run_state)
  if other then return redis.error_reply(other) end
  -- which steps there are, and how they stand, is known when it is done
  if run_state == 'resuming' then return redis.error_reply('RESUMING') end
  local detail, worklist = cjson.encode({reason = ARGS[2]}), {}
  for index = 4, #ARGS do
    if call('HEXISTS', GRAPH, ARGS[index]) == 0 then
      return redis.error_reply('UNKNOWN ' .. ARGS[index])
    end
  end
  local before = cancelled_before(ARGS[3])
  if before then
    local below = {}
    for index = 4, #ARGS do
      for _, child in ipairs(children_of(ARGS[index], 1)) do below[#below + 1] = child end
    end
    return with_workers({tonumber(before), chains_of(still_queued(below))})
  end
  if run_state == 'cancelling' then return {0, {0}} end
  for index = 4, #ARGS do
    local step = ARGS[index]
    if cancel_step(step, detail) then worklist[#worklist + 1] = {step, 'bad', step} end
  end
  local cancelled = #worklist
  local queued = propagate(worklist, {})
  settle()
  remember_cancel(ARGS[3], cancelled)
  return with_workers({cancelled, chains_of(queued)})
end
