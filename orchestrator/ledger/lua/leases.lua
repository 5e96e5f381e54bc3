-- Leases of running attempts: renewing them, and what follows when an attempt is over without an
-- end of its own.

local LOST_ATTEMPTS = 3  -- how many a step may have, where its graph entry (b) says nothing else

-- Queues a running step again because its attempt is over without an end of its own, or fails it
-- when it has lost as many as it may. `kind` is lost or handed_over. A step that fails keeps its
-- holder, which may still be at it and hears of it. Returns the steps that are queued now.
local function replace(step, attempt, token, holder, kind, detail)
  local lost, uncounted = uncounted_of(step)
  leave(step, 'running')
  if kind == 'lost' then
    local budget = graph_of(step).b or LOST_ATTEMPTS
    lost = lost + 1
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1))
    if lost >= budget then
      write(step, 'running', 'failed', attempt, token, holder)
      emit('step.failed', step, attempt, detail, 'lost', lost, 'budget', budget)
      return propagate({{step, 'bad', step}}, {})
    end
    emit('attempt.lost', step, attempt, detail, 'lost', lost, 'budget', budget)
  else
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1))
    emit('attempt.handed_over', step, attempt, detail)
  end
  queue(step, 'running', attempt + 1)
  return {{step, attempt + 1}}
end

-- Notes that an attempt of a cancelled step is over. Who still may be at it (`keeps`) stays its
-- holder, and can take its lease up again.
local function end_stopping(step, attempt, token, at, detail, keeps)
  call('ZREM', DUE, step)
  if not keeps then set(step, 'cancelled', attempt, token, at, '-') end
  emit('attempt.stopped', step, attempt, detail)
end

-- lost step attempt token owner kind detail expected_us: an attempt is over and has no end of its
-- own: its process died (kind lost) or gives it up (kind handed_over). Who says so shows it by the
-- token, by being the holder's owner, or, with neither, by the lease having run out by a clock that
-- shows what it expects (expected_us, '' = anything). A step that is still queued lost its message
-- only, or gives it back: that is sent again. One that was cancelled needs no more stopping.
-- Returns {1, state, {more, chain, ...}} or {0, why refused}.
function ops.lost()
  local step, wanted, token, owner, kind, detail =
    ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[6], ARGS[7]
  local state, attempt, holding, at, holder = read(step)
  local queued
  if state == 'queued' and attempt == wanted and owner ~= '' then
    call('ZADD', queued_key(graph_of(step)), now, step)
    if kind == 'lost' then
      emit('message.lost', step, attempt, detail)
    else
      emit('message.returned', step, attempt, detail)
    end
    queued = {{step, attempt}}
  elseif (state == 'running' or (state == 'cancelled' and holder ~= '-')) and attempt == wanted then
    local may, how = false, kind == 'lost' and 'its process died' or 'its worker ended'
    if token ~= '0' then
      may = token == holding
    elseif owner ~= '' then
      may = is_owned(holder, owner)
    else
      if is_off(ARGS[8], 0) then return {0, "the server's clock is not what it should be"} end
      local lease_until = call('ZSCORE', DUE, step)
      may, how = lease_until and tonumber(lease_until) <= now_us,
        'its worker is gone: the lease ran out'
    end
    if not may then return {0, 'the attempt is held by another'} end
    cancel_if_reached(step)
    state, attempt, holding, at = read(step)
    if state == 'cancelled' then
      local told = cjson.encode({how = how, worker = string.match(holder, '^%S+')})
      end_stopping(step, attempt, holding, at, told, token == '0' and owner == '')
      return {1, state, {0}}
    end
    queued = replace(step, attempt, holding, holder, kind, detail)
    settle()
  elseif token == '0' and owner == '' then
    -- Of many who saw the lease run out, one is believed and sends the message.
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  elseif state == 'queued' and attempt == wanted + 1 then
    queued = {{step, attempt}}  -- said before; the answer was lost on the way
  elseif state == 'failed' and attempt == wanted then
    queued = still_queued(children_of(step, 1))
  else
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end
  return {1, (read(step)), chains_of(queued)}
end

-- put_back step attempt token owner first_us longest_us detail instead: a running attempt goes
-- back, because of something that is not a fault of its step: it counts neither against the retries
-- nor as lost. It is due again after first_us, doubled for each time before in a row, longest_us at
-- most. Who says so shows it by the token or by being the holder's owner. `instead` '' = it may
-- always go back; else it is the detail with which a step fails that may lose no attempt. Returns
-- {1, state, {more, chain, ...}} or {0, why refused}.
function ops.put_back()
  local step, wanted, token, owner, detail, instead =
    ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[8], ARGS[9]
  local state, attempt, holding, at, holder = read(step)
  if attempt == wanted and token == holding and holder == '-'
    and (state == 'retrying' or state == 'failed') then
    -- said before
    local below = state == 'failed' and still_queued(children_of(step, 1)) or {}
    return {1, state, chains_of(below)}
  end
  local is_held = state == 'running' or (state == 'cancelled' and holder ~= '-')
  if attempt ~= wanted or not is_held then
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end
  if not (token ~= '0' and token == holding
    or token == '0' and owner ~= '' and is_owned(holder, owner)) then
    return {0, 'the attempt is held by another'}
  end
  cancel_if_reached(step)
  state, attempt, holding, at = read(step)
  if state == 'cancelled' then
    local told =
      cjson.encode({how = 'it gave its step back', worker = string.match(holder, '^%S+')})
    end_stopping(step, attempt, holding, at, told)
    return {1, state, {0}}
  end
  local lost, uncounted, put_back = uncounted_of(step)
  local queued = {}
  leave(step, state)
  if instead ~= '' and (graph_of(step).b or LOST_ATTEMPTS) <= 1 then
    write(step, state, 'failed', attempt, holding, '-')
    emit('step.failed', step, attempt, instead)
    propagate({{step, 'bad', step}}, queued)
  else
    local due = after(math.min(tonumber(ARGS[7]), tonumber(ARGS[6]) * 2 ^ math.min(put_back, 50)))
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1) .. ' ' .. (put_back + 1))
    write(step, state, 'retrying', attempt, holding, '-')
    call('ZADD', DUE, due, step)
    emit('attempt.put_back', step, attempt, detail, 'due_at', due)
    emit('step.retrying', step, attempt, '{"outcome":"put_back","due_at":' .. due .. '}')
  end
  settle()
  return {1, (read(step)), chains_of(queued)}
end

-- States of a step that say to who held its attempt that somebody took over; a resume may have led
-- there.
local FENCES = {running = true, waiting = true, skipped = true, upstream_failed = true}

-- renew lease_us then step attempt owner ...: a worker's main process is alive and so are these
-- attempts of it. Returns {place in the call from 1, why, ...} for those to be stopped: cancelled,
-- or fenced (somebody took over).
function ops.renew()
  local until_us, stop = after(tonumber(ARGS[2])), {}
  for index = 3, #ARGS, 3 do
    local step, wanted, owner = ARGS[index], tonumber(ARGS[index + 1]), ARGS[index + 2]
    local state, attempt, _, _, holder = read(step)
    local why
    if attempt == wanted and state == 'running' and is_owned(holder, owner) then
      call('ZADD', DUE, until_us, step)
    elseif attempt == wanted and state == 'cancelled' and is_owned(holder, owner) then
      call('ZADD', DUE, until_us, step)
      why = 'cancelled'
    elseif attempt > wanted or FENCES[state] or (state == 'cancelled' and holder == '-')
      -- failed behind its back: lost once too often
      or (state == 'failed' and is_owned(holder, owner)) then
      why = 'fenced'
    end
    if why then
      stop[#stop + 1] = (index - 3) / 3 + 1
      stop[#stop + 1] = why
    end
  end
  return stop
end

-- stopped step attempt owner detail ended_alone: the process of an attempt that had to be stopped
-- is gone, with all it started. Of one that `ended_alone` (1) nothing is to be recorded unless its
-- step was cancelled meanwhile. Saying it again changes nothing for a cancelled step.
function ops.stopped()
  local step, wanted, owner, detail, ended_alone =
    ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[6] == '1'
  local state, attempt, token, at, holder = read(step)
  if call('EXISTS', RUN) == 0 then return 0 end
  if state == 'cancelled' and attempt == wanted then
    if is_owned(holder, owner) then end_stopping(step, attempt, token, at, detail) end
  elseif not ended_alone then
    emit('attempt.stopped', step, wanted, detail)
  end
  return 1
end
