-- The ledger's second half: what happens when a run does not go well. Leases and who lets them lapse, messages that are
-- gone, clocks, cancelling, resuming, and whom to tell. The client puts this behind `ledger.lua`, whose keys and
-- functions it uses.

local LOST_ATTEMPTS = 3  -- a step may have so many, where its graph entry (b) says nothing else

-- Queues a running step again because its attempt is over without an end of its own, or fails it when it has lost as
-- many as it may. `detail` is told to people: JSON, to which is added without reading it, for Lua would spoil long
-- numbers and empty lists; its last `tail` bytes follow the words of its error's message. `kind` is lost or handed_over.
-- A step that fails keeps its holder, who may still be at it and is told so. Returns the steps that are queued now.
local function replace(step, attempt, token, holder, kind, detail, tail)
  local lost, uncounted = uncounted_of(step)
  leave(step, 'running')
  if kind == 'lost' then
    local budget = graph_of(step).b or LOST_ATTEMPTS
    lost = lost + 1
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1))
    if lost >= budget and budget > 1 and tail > 0 then
      local last_words = ' (lost attempt ' .. lost .. ' of ' .. budget .. ': it is not tried again)'
      detail = string.sub(detail, 1, -tail - 1) .. last_words .. string.sub(detail, -tail)
    end
    detail = string.sub(detail, 1, -2) .. ',"lost":' .. lost .. ',"budget":' .. budget .. '}'
    if lost >= budget then
      write(step, 'running', 'failed', attempt, token, holder)
      emit('step.failed', step, attempt, detail)
      return propagate({{step, 'bad', step}})
    end
    emit('attempt.lost', step, attempt, detail)
  else
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1))
    emit('attempt.handed_over', step, attempt, detail)
  end
  queue(step, 'running', attempt + 1)
  return {{step, attempt + 1}}
end

-- Ends a step before its time. A running one keeps lease and holder until its attempt has been stopped; its worker is
-- noted in `workers`.
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

-- Notes that an attempt of a cancelled step is over. Who still may be at it (`keeps`) stays its holder, and can take its
-- lease up again.
local function end_stopping(step, attempt, token, at, detail, keeps)
  call('ZREM', DUE, step)
  if not keeps then call('HSET', STATE, step, 'cancelled ' .. attempt .. ' ' .. token .. ' ' .. at .. ' -') end
  emit('attempt.stopped', step, attempt, detail)
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

-- How many steps the cancelling of that id has cancelled, nil if it is a new one; and who has attempts to stop.
local function cancelled_before(cancel_id)
  local count = string.match(';' .. (call('HGET', RUN, 'cancelled_by') or ''), ';' .. cancel_id .. ' (%d+);')
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

-- lost step attempt token owner kind detail tail expected_us: an attempt is over and has no end of its own: its process died (kind
-- lost) or gives it up (kind handed_over). Who says so shows it by the token, by being the holder's owner, or, with
-- neither, by the lease having run out by a clock that shows what it expects (expected_us, '' = anything). A step that is
-- still queued lost its message only, or gives it back: that is sent again. One that was cancelled needs no more stopping. Returns {1, state, {chain, ...}} or {0, why refused}.
function ops.lost()
  local step, wanted, token, owner, kind, detail = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[6], ARGS[7]
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
      if is_off(ARGS[9], 0) then return {0, "the server's clock is not what it should be"} end
      local lease_until = call('ZSCORE', DUE, step)
      may, how = lease_until and tonumber(lease_until) <= now_us, 'its worker is gone: the lease ran out'
    end
    if not may then return {0, 'the attempt is held by another'} end
    if state == 'cancelled' then
      local told = cjson.encode({how = how, worker = string.match(holder, '^%S+')})
      end_stopping(step, attempt, holding, at, told, token == '0' and owner == '')
      return {1, state, {}}
    end
    queued = replace(step, attempt, holding, holder, kind, detail, tonumber(ARGS[8]))
    settle()
  elseif token == '0' and owner == '' then
    -- Of many who saw the lease run out, one is believed and sends the message.
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  elseif state == 'queued' and attempt == wanted + 1 then
    queued = {{step, attempt}}  -- said before; the answer was lost on the way
  elseif state == 'failed' and attempt == wanted then
    queued = still_queued(children_of(step))
  else
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end
  return {1, (read(step)), chains_of(queued)}
end

-- put_back step attempt token owner first_us longest_us detail instead: a running attempt goes back, because of something
-- that is no fault of its step: it counts neither against the retries nor as lost. It is due again after first_us,
-- doubled for each time before in a row, longest_us at most. Who says so shows it by the token or by being the holder's
-- owner. `instead` '' = it may always go back; else it is the detail with which a step fails that may lose no attempt.
-- Returns {1, state, {chain, ...}} or {0, why refused}.
function ops.put_back()
  local step, wanted, token, owner, detail, instead = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[8], ARGS[9]
  local state, attempt, holding, at, holder = read(step)
  if attempt == wanted and token == holding and holder == '-' and (state == 'retrying' or state == 'failed') then
    return {1, state, state == 'failed' and chains_of(still_queued(children_of(step))) or {}}  -- said before
  end
  local is_held = state == 'running' or (state == 'cancelled' and holder ~= '-')
  if attempt ~= wanted or not is_held then return {0, 'the step is ' .. state .. ' at attempt ' .. attempt} end
  if not (token ~= '0' and token == holding or token == '0' and owner ~= '' and is_owned(holder, owner)) then
    return {0, 'the attempt is held by another'}
  end
  if state == 'cancelled' then
    local told = cjson.encode({how = 'it gave its step back', worker = string.match(holder, '^%S+')})
    end_stopping(step, attempt, holding, at, told)
    return {1, state, {}}
  end
  local lost, uncounted, put_back = uncounted_of(step)
  local chains = {}
  leave(step, state)
  if instead ~= '' and (graph_of(step).b or LOST_ATTEMPTS) <= 1 then
    write(step, state, 'failed', attempt, holding, '-')
    emit('step.failed', step, attempt, instead)
    chains = propagate({{step, 'bad', step}})
  else
    local due = after(math.min(tonumber(ARGS[7]), tonumber(ARGS[6]) * 2 ^ math.min(put_back, 50)))
    call('HSET', UNCOUNTED, step, lost .. ' ' .. (uncounted + 1) .. ' ' .. (put_back + 1))
    write(step, state, 'retrying', attempt, holding, '-')
    call('ZADD', DUE, due, step)
    emit('attempt.put_back', step, attempt, string.sub(detail, 1, -2) .. ',"due_at":' .. due .. '}')
    emit('step.retrying', step, attempt, '{"outcome":"put_back","due_at":' .. due .. '}')
  end
  settle()
  return {1, (read(step)), chains_of(chains)}
end

-- States of a step that say to who held its attempt that somebody took over; a resume may have led there.
local FENCES = {running = true, waiting = true, skipped = true, upstream_failed = true}

-- renew lease_us then step attempt owner ...: a worker's main process is alive and so are these attempts of it.
-- Returns {place in the call from 1, why, ...} for those to be stopped: cancelled, or fenced (somebody took over).
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
      or (state == 'failed' and is_owned(holder, owner)) then  -- failed behind its back: lost once too often
      why = 'fenced'
    end
    if why then
      stop[#stop + 1] = (index - 3) / 3 + 1
      stop[#stop + 1] = why
    end
  end
  return stop
end

-- stopped step attempt owner detail ended_alone: the process of an attempt that had to be stopped is gone, with all it
-- started. Of one that `ended_alone` (1) nothing is to be told unless its step was cancelled meanwhile. Saying it again
-- changes nothing for a cancelled step.
function ops.stopped()
  local step, wanted, owner, detail, ended_alone = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], ARGS[6] == '1'
  local state, attempt, token, at, holder = read(step)
  if call('EXISTS', RUN) == 0 then return 0 end
  if state == 'cancelled' and attempt == wanted then
    if is_owned(holder, owner) then end_stopping(step, attempt, token, at, detail) end
  elseif not ended_alone then
    emit('attempt.stopped', step, wanted, detail)
  end
  return 1
end

-- tend limit expected_us clock_step away_us: does what is due: queues retries, fails what has waited too long for a worker, ends a run that missed its
-- deadline. Leases that have run out and queues to look into are told to the caller, who knows what became of worker
-- and message. Returns {run state or '', next due time or '', now, {chain, ...},
-- {JSON [step, attempt, holder, since when the lease is over, state], ...}, JSON [[queue, level, oldest sent at], ...],
-- alert_at or '', the last step of the clock that the run was shifted by, 1 if times were judged}. Nothing is judged by a
-- clock that does not show what the caller expects, nor before the run is shifted by the steps that it knows (clocks.lua).
function ops.tend()
  local run_state, lists, clock_step = unpack(call('HMGET', RUN, 'state', 'lists', 'clock_step'))
  if not run_state then return {'', '', now, {}, {}, '[]', '', 0, 1} end
  clock_step = tonumber(clock_step or 0)
  if is_off(ARGS[3], ARGS[4], clock_step) then
    local nearest = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    return {run_state, nearest[2] or '', now, {}, {}, '[]', call('HGET', RUN, 'alert_at') or '', clock_step, 0}
  end
  if not ENDED[run_state] then pardon(tonumber(ARGS[5] or 0)) end
  local deadline_at = call('HGET', RUN, 'deadline_at')
  local queued, expired, waiting = {}, {}, {}
  if deadline_at and not ENDED[run_state] and now_us >= tonumber(deadline_at) then
    cancel_all('failed', 'missed its deadline of ' .. call('HGET', RUN, 'deadline_s') .. ' s')
  end
  local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGS[2])
  for index = 1, #due, 2 do
    local step = due[index]
    local state, attempt, token, at, holder = read(step)
    if state == 'running' or state == 'cancelled' then
      expired[#expired + 1] = cjson.encode({step, attempt, holder, due[index + 1], state})
    else
      call('ZREM', DUE, step)
      if state == 'retrying' then
        queue(step, state, attempt + 1)
        queued[#queued + 1] = {step, attempt + 1}
      elseif state == 'queued' then
        local entry = graph_of(step)
        local message = 'it waited ' .. string.format('%g', entry.w) .. ' s for a worker of queue ' .. entry.q .. ', which is as long as it may'
        leave(step, state)
        write(step, state, 'failed', attempt, token, '-')
        emit('step.failed', step, attempt, cjson.encode({outcome = 'timed_out', error = {type = 'QueueTimeout', message = message}}))
        for _, item in ipairs(propagate({{step, 'bad', step}})) do queued[#queued + 1] = item end
      end
    end
  end
  settle()
  local nearest = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  for _, list in ipairs(lists and cjson.decode(lists) or {}) do
    local oldest = call('ZRANGE', BASE .. 'queued:' .. list[1] .. ':' .. list[2], 0, 0, 'WITHSCORES')
    if oldest[2] then waiting[#waiting + 1] = {list[1], list[2], oldest[2]} end
  end
  local state, alert_at = unpack(call('HMGET', RUN, 'state', 'alert_at'))
  return {state, nearest[2] or '', now, chains_of(queued), expired, #waiting > 0 and cjson.encode(waiting) or '[]', alert_at or '', clock_step, 1}
end

-- resend step attempt sent_at detail: the message of a queued step is gone, and is sent again by the one caller whose
-- sent_at is the last. Returns {chain}, or {} when there is nothing to send.
function ops.resend()
  local step, wanted, sent_at, detail = ARGS[2], tonumber(ARGS[3]), tonumber(ARGS[4]), ARGS[5]
  local state, attempt = read(step)
  if state ~= 'queued' or attempt ~= wanted then return {} end
  local key = queued_key(graph_of(step))
  if tonumber(call('ZSCORE', key, step) or 0) ~= sent_at then return {} end
  call('ZADD', key, now, step)
  emit('message.lost', step, attempt, detail)
  return chains_of({{step, attempt}})
end

-- queue_shared detail: somebody else reads a queue of this run's steps. Returns 1, or 0 when the run is not there.
function ops.queue_shared()
  if call('EXISTS', RUN) == 0 then return 0 end
  emit('queue.shared', '', 0, ARGS[2])
  return 1
end

-- cancel reason cancel_id: every step that has not ended is cancelled and the run ends. Returns {how many steps that
-- were, or -1 when the run had ended before, worker with an attempt to stop, ...}. The same cancel_id asking again gets
-- the same answer.
function ops.cancel()
  local before, still_stopping = cancelled_before(ARGS[3])
  if before then return with_names({before}, still_stopping) end
  local run_state = call('HGET', RUN, 'state')
  if not run_state or ENDED[run_state] then return {-1} end
  local cancelled, workers = cancel_all('cancelled', ARGS[2])
  remember_cancel(ARGS[3], cancelled)
  return with_names({cancelled}, workers)
end

-- cancel_steps reason cancel_id step ...: these steps are cancelled, unless they have ended; for what is below them they
-- failed. Returns {how many steps that were, {chain, ...}, worker with an attempt to stop, ...}. The same cancel_id asking
-- again gets the same answer, with the chains of what is still queued.
function ops.cancel_steps()
  local detail, workers, worklist = cjson.encode({reason = ARGS[2]}), {}, {}
  for index = 4, #ARGS do
    if call('HEXISTS', GRAPH, ARGS[index]) == 0 then return redis.error_reply('UNKNOWN ' .. ARGS[index]) end
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

-- Keeps the output of an attempt that no longer counts, for those that have read it.
local function set_aside(step)
  call('HDEL', REUSED, step)
  local output = call('HGET', OUTPUT, step)
  if not output then return end
  local _, attempt = read(step)
  call('HSET', PAST, 'output ' .. attempt .. ' ' .. step, output)
  call('HDEL', OUTPUT, step)
end

-- Keeps what the N-th resume (`number`) is about to replace of what earlier attempts were given: the specs of
-- `respecified`, and the params where `params` are others.
local function keep_past(number, respecified, params)
  local before = call('HGET', RUN, 'params')
  if params and params ~= before then call('HSET', PAST, 'params ' .. number, before) end
  for _, step in ipairs(respecified) do
    local spec = call('HGET', SPEC, step)
    if spec then call('HSET', PAST, 'spec ' .. number .. ' ' .. step, spec) end
  end
end

-- Of `name value ...` in the arguments from `first` to `last`, the value of that name.
local function argument_named(name, first, last)
  for index = first, last, 2 do
    if ARGS[index] == name then return ARGS[index + 1] end
  end
end

-- resume resume_id staged(steps staged under that id, 0 = as they were) seen(how often the caller saw the run resumed before, ''
-- = it does not matter) detail again(JSON list) gone(JSON list) respecified(JSON list: steps that have had an attempt
-- and get another spec, or none) fields(count) field value ... then step done ...: a run that has ended, and not well, goes on.
-- Each listed step waits anew, `done` of its upstreams being kept with their success; `again`
-- are those among them that had succeeded, `gone` are steps that there no longer are. All other steps are kept as they
-- are. Where fields are given the run has the deadline among them, or none. Returns the chains. The same resume_id asking
-- again gets the chains of what is still queued.
function ops.resume()
  local resume_id, staged, seen, detail = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5]
  local again, gone, respecified = cjson.decode(ARGS[6]), cjson.decode(ARGS[7]), cjson.decode(ARGS[8])
  local fields = tonumber(ARGS[9])
  local run_state, resumed_by, started_at, resumes, succeeded =
    unpack(call('HMGET', RUN, 'state', 'resume_id', 'started_at', 'resumes', 'n:succeeded'))
  if not run_state then return redis.error_reply('UNKNOWN run') end
  local first = 10 + 2 * fields
  if resumed_by == resume_id then
    local steps = {}
    for index = first, #ARGS, 2 do steps[#steps + 1] = ARGS[index] end
    return chains_of(still_queued(steps))
  end
  if seen ~= '' and seen ~= (resumes or '0') then return redis.error_reply('RESUMED meanwhile') end
  if not ENDED[run_state] then return redis.error_reply('RUNNING ' .. run_state) end
  if run_state == 'succeeded' then return redis.error_reply('SUCCEEDED stays as it is') end
  local stopping = call('ZCARD', DUE)
  if stopping > 0 then return redis.error_reply('STOPPING ' .. stopping) end
  local steps = call('HLEN', staged > 0 and staged_keys(resume_id)[1] or GRAPH)
  if staged > 0 and steps ~= staged then return redis.error_reply('STAGED are ' .. steps .. ' steps of ' .. staged) end
  local kept = tonumber(succeeded or 0) - #again
  for _, step in ipairs(gone) do
    if (read(step)) == 'succeeded' then kept = kept - 1 end
  end
  if steps - (#ARGS - first + 1) / 2 ~= kept then
    return redis.error_reply('RESETS are not all that has not succeeded: ' .. kept .. ' steps of ' .. steps .. ' are kept')
  end
  keep_past(tonumber(resumes or 0) + 1, respecified, argument_named('params', 10, first - 1))
  if staged > 0 then take_staged(resume_id, 4) end
  for _, step in ipairs(gone) do  -- what it had counts on, should a later resume bring it back
    local _, attempt, token = read(step)
    set_aside(step)
    call('HSET', STATE, step, 'waiting ' .. attempt .. ' ' .. token .. ' ' .. now .. ' -')
  end
  for _, step in ipairs(again) do set_aside(step) end

  local roots, reset = {}, 0
  for index = first, #ARGS, 2 do
    local step, done = ARGS[index], tonumber(ARGS[index + 1])
    local entry, _, attempt, token = graph_of(step), read(step)
    local upstreams = entry.u or 0
    call('HSET', STATE, step, 'waiting ' .. attempt .. ' ' .. token .. ' ' .. now .. ' -')
    if attempt > 0 then call('HSET', UNCOUNTED, step, '0 ' .. attempt) end
    call('HDEL', JOIN, step, step .. '\0bad', step .. '\0skipped')
    if done > 0 and upstreams > 1 then call('HSET', JOIN, step, done) end
    if done == upstreams then roots[#roots + 1] = step end
    reset = reset + 1
  end
  for _, name in ipairs(call('HKEYS', RUN)) do
    if string.sub(name, 1, 2) == 'n:' then call('HDEL', RUN, name) end
  end
  call('HDEL', RUN, 'ended_at', 'cancel_reason', 'deadline_at', 'tended_at', 'alert_at', 'alert_tries', 'alert_sent')
  if fields > 0 then
    call('HDEL', RUN, 'deadline_s', 'secrets')
    set_fields(10, first - 1)
  end
  call('HSET', RUN, 'state', started_at and 'running' or 'queued', 'resume_id', resume_id, 'open', reset,
    'n:waiting', reset, 'n:succeeded', kept)
  call('HINCRBY', RUN, 'resumes', 1)
  set_deadline()
  emit('run.resumed', '', 0, detail)
  local told = cjson.decode(detail)
  if told.code_changed then emit('run.code_changed', '', 0, cjson.encode({changed = told.code_changed})) end
  if told.clock_step then call('HSET', RUN, 'clock_step', told.clock_step) end

  local queued, worklist = {}, {}
  for _, step in ipairs(roots) do
    local entry, _, attempt = graph_of(step), read(step)
    local verdict = decide(entry.t or 'all_success', entry.u or 0, entry.u or 0, 0, 0)
    if verdict == 'queued' then
      queue(step, 'waiting', attempt + 1)
      queued[#queued + 1] = {step, attempt + 1}
    else
      write(step, 'waiting', 'skipped', attempt, 0, '-')
      emit('step.skipped', step, attempt, cjson.encode({because = step}))
      worklist[#worklist + 1] = {step, 'skipped', step}
    end
  end
  for _, item in ipairs(propagate(worklist)) do queued[#queued + 1] = item end
  settle(reset == 0)
  return chains_of(queued)
end

-- alert lease_us: asks to tell people that the run failed. Returns {which try this is, what was sent before (JSON list),
-- incident}, or {0} when there is nothing to tell now or somebody else is at it. An incident is one end of the run.
function ops.alert()
  local alert_at, sent, ended_at = unpack(call('HMGET', RUN, 'alert_at', 'alert_sent', 'ended_at'))
  if not alert_at or tonumber(alert_at) > now_us then return {0} end
  call('HSET', RUN, 'alert_at', after(tonumber(ARGS[2])))
  return {call('HINCRBY', RUN, 'alert_tries', 1), sent or '[]', ended_at}
end

-- alerted report_id incident try retry_in_us sent(JSON list) then event detail ...: what came of a try. retry_in_us '' =
-- there is no more to tell. Of an incident that is over (the run was resumed) only the events are kept; who was
-- overtaken by a later try adds what it sent. The same report_id again changes nothing.
function ops.alerted()
  local report_id, incident, try, retry_in_us = ARGS[2], ARGS[3], ARGS[4], ARGS[5]
  local ended_at, alert_at, tries, before, told =
    unpack(call('HMGET', RUN, 'ended_at', 'alert_at', 'alert_tries', 'alert_sent', 'alert_told'))
  if told == report_id or call('EXISTS', RUN) == 0 then return 0 end
  call('HSET', RUN, 'alert_told', report_id)
  for index = 7, #ARGS, 2 do emit(ARGS[index], '', 0, ARGS[index + 1]) end
  if ended_at ~= incident or not alert_at then return 0 end
  local sent, is_sent = cjson.decode(before or '[]'), {}
  for _, target in ipairs(sent) do is_sent[target] = true end
  for _, target in ipairs(cjson.decode(ARGS[6])) do
    if not is_sent[target] then sent[#sent + 1] = target end
  end
  if #sent > 0 then call('HSET', RUN, 'alert_sent', cjson.encode(sent)) end
  if tries ~= try then return 0 end
  if retry_in_us == '' then
    call('HDEL', RUN, 'alert_at', 'alert_tries', 'alert_sent')
  else
    call('HSET', RUN, 'alert_at', after(tonumber(retry_in_us)))
  end
  return 1
end
