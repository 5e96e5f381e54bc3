-- Cancelling a run, or steps of it.

-- Ends a step before its time. A running one keeps lease and holder until its attempt has been
-- stopped; its worker is noted in `workers`.
local function cancel_step(step, detail, workers)
  local state, attempt, token, _, holder = read(step)
  if ENDED[state] then return false end
  if state == 'running' then
    workers[string.match(holder, '^%S+')] = true
  else
    leave(step, state)
    holder = '-'
  end
  write(step, state, 'cancelled', attempt, token, holder)
  emit('step.cancelled', step, attempt, detail)
  return true
end

local function cancel_all(final, reason)
  local detail, workers = cjson.encode({reason = reason}), {}
  for _, step in ipairs(call('HKEYS', GRAPH)) do cancel_step(step, detail, workers) end
  call('HSET', RUN, 'cancel_reason', reason)
  end_run(final, detail)
  local cancelled = ended
  settle()
  return cancelled, workers
end

local function with_names(reply, names)
  for name in pairs(names) do reply[#reply + 1] = name end
  return reply
end

-- How many steps the cancelling of that id has cancelled, nil if it is a new one; and what has
-- attempts to stop.
local function cancelled_before(cancel_id)
  local count =
    string.match(';' .. (call('HGET', RUN, 'cancelled_by') or ''), ';' .. cancel_id .. ' (%d+);')
  if not count then return nil end
  local workers = {}
  for _, step in ipairs(call('ZRANGE', DUE, 0, -1)) do
    local state, _, _, _, holder = read(step)
    if state == 'cancelled' then workers[string.match(holder, '^%S+')] = true end
  end
  return tonumber(count), workers
end

-- Several people may cancel at once, and each may ask again: the newest forty or so are remembered.
local function remember_cancel(cancel_id, count)
  local others = call('HGET', RUN, 'cancelled_by') or ''
  call('HSET', RUN, 'cancelled_by', string.sub(cancel_id .. ' ' .. count .. ';' .. others, 1, 800))
end

-- cancel reason cancel_id: every step that has not ended is cancelled and the run ends. Returns
-- {how many steps that were, or -1 when the run had ended before, worker with an attempt to stop,
-- ...}. The same cancel_id asking again gets the same answer.
function ops.cancel()
  local newer = unknown_format(call('HGET', RUN, 'v'))
  if newer then return redis.error_reply(newer) end
  local before, still_stopping = cancelled_before(ARGS[3])
  if before then return with_names({before}, still_stopping) end
  local run_state = call('HGET', RUN, 'state')
  if not run_state or ENDED[run_state] then return {-1} end
  local cancelled, workers = cancel_all('cancelled', ARGS[2])
  remember_cancel(ARGS[3], cancelled)
  return with_names({cancelled}, workers)
end

-- cancel_steps reason cancel_id step ...: these steps are cancelled, unless they have ended; for
-- what is below them they failed. Returns {how many steps that were, {chain, ...}, worker with an
-- attempt to stop, ...}. The same cancel_id asking again gets the same answer, with the chains of
-- what is still queued.
function ops.cancel_steps()
  local other = unknown_format(unpack(call('HMGET', RUN, 'v', 'state')))
  if other then return redis.error_reply(other) end
  local detail, workers, worklist = cjson.encode({reason = ARGS[2]}), {}, {}
  for index = 4, #ARGS do
    if call('HEXISTS', GRAPH, ARGS[index]) == 0 then
      return redis.error_reply('UNKNOWN ' .. ARGS[index])
    end
  end
  local before, still_stopping = cancelled_before(ARGS[3])
  if before then
    local below = {}
    for index = 4, #ARGS do
      for _, child in ipairs(children_of(ARGS[index])) do below[#below + 1] = child end
    end
    return with_names({before, chains_of(still_queued(below))}, still_stopping)
  end
  for index = 4, #ARGS do
    local step = ARGS[index]
    if cancel_step(step, detail, workers) then worklist[#worklist + 1] = {step, 'bad', step} end
  end
  local cancelled = #worklist
  local chains = propagate(worklist)
  settle()
  remember_cancel(ARGS[3], cancelled)
  return with_names({cancelled, chains_of(chains)}, workers)
end
