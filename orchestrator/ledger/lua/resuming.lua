-- Resuming a run that has ended, and not well.

-- Keeps the output of an attempt that no longer counts, for those that have read it.
local function set_aside(step)
  call('HDEL', REUSED, step)
  local output = call('HGET', OUTPUT, step)
  if not output then return end
  local _, attempt = read(step)
  call('HSET', PAST, 'output ' .. attempt .. ' ' .. step, output)
  call('HDEL', OUTPUT, step)
end

-- Keeps what the N-th resume (`number`) is about to replace of what earlier attempts were given:
-- the specs of `respecified`, and the params where `params` are others.
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

-- resume resume_id staged(steps staged under that id, 0 = as they were) seen(how often the caller
-- saw the run resumed before, '' = it does not matter) detail again(JSON list) gone(JSON list)
-- respecified(JSON list: steps that have had an attempt and get another spec, or none)
-- fields(count) field value ... then step done ...: a run that has ended, and not well, goes on.
-- Each listed step waits anew, `done` of its upstreams being kept with their success; `again` are
-- those among them that had succeeded, `gone` are steps that there no longer are. All other steps
-- are kept as they are. Where fields are given the run has the deadline among them, or none.
-- Returns the chains. The same resume_id asking again gets the chains of what is still queued.
function ops.resume()
  local resume_id, staged, seen, detail = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5]
  local again, gone, respecified =
    cjson.decode(ARGS[6]), cjson.decode(ARGS[7]), cjson.decode(ARGS[8])
  local fields = tonumber(ARGS[9])
  local run_state, resumed_by, started_at, resumes, succeeded, v =
    unpack(call('HMGET', RUN, 'state', 'resume_id', 'started_at', 'resumes', 'n:succeeded', 'v'))
  if not run_state then return redis.error_reply('UNKNOWN run') end
  local other = unknown_format(v, staged == 0 and 'queued')  -- what is staged is of this format
  if other then return redis.error_reply(other) end
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
  if staged > 0 and steps ~= staged then
    return redis.error_reply('STAGED are ' .. steps .. ' steps of ' .. staged)
  end
  local kept = tonumber(succeeded or 0) - #again
  for _, step in ipairs(gone) do
    if (read(step)) == 'succeeded' then kept = kept - 1 end
  end
  if steps - (#ARGS - first + 1) / 2 ~= kept then
    return redis.error_reply('RESETS are not all that has not succeeded: ' .. kept
      .. ' steps of ' .. steps .. ' are kept')
  end
  keep_past(tonumber(resumes or 0) + 1, respecified, argument_named('params', 10, first - 1))
  if staged > 0 then take_staged(resume_id, 4) end
  for _, step in ipairs(gone) do  -- what it had counts on, should a later resume bring it back
    set_aside(step)
    reset(step)
  end
  for _, step in ipairs(again) do set_aside(step) end

  local roots, open = {}, 0
  for index = first, #ARGS, 2 do
    local step, done = ARGS[index], tonumber(ARGS[index + 1])
    local upstreams, attempt = graph_of(step).u or 0, reset(step)
    if attempt > 0 then call('HSET', UNCOUNTED, step, '0 ' .. attempt) end
    call('HDEL', JOIN, step, step .. '\0bad', step .. '\0skipped')
    if done > 0 and upstreams > 1 then call('HSET', JOIN, step, done) end
    if done == upstreams then roots[#roots + 1] = step end
    open = open + 1
  end
  for _, name in ipairs(call('HKEYS', RUN)) do
    if string.sub(name, 1, 2) == 'n:' then call('HDEL', RUN, name) end
  end
  call('HDEL', RUN, 'ended_at', 'cancel_reason', 'deadline_at', 'tended_at', 'alert_at',
    'alert_tries', 'alert_sent')
  if fields > 0 then
    call('HDEL', RUN, 'deadline_s', 'secrets')
    set_fields(10, first - 1)
  end
  call('HSET', RUN, 'state', started_at and 'running' or 'queued', 'resume_id', resume_id,
    'open', open, 'n:waiting', open, 'n:succeeded', kept)
  call('HINCRBY', RUN, 'resumes', 1)
  set_deadline()
  emit('run.resumed', '', 0, detail)
  local told = cjson.decode(detail)
  if told.code_changed then
    emit('run.code_changed', '', 0, cjson.encode({changed = told.code_changed}))
  end
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
  settle(open == 0)
  return chains_of(queued)
end
