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

-- Steps whose specs are about to be replaced, for those that have read them.
function WORK.past(steps)
  local number = call('HGET', RUN, 'resumes')
  for _, step in ipairs(steps) do
    local spec = call('HGET', SPEC, step)
    if spec then call('HSET', PAST, 'spec ' .. number .. ' ' .. step, spec) end
  end
  spend(#steps)
end

-- The steps that were staged under that id become those of the run.
function WORK.take(stage_id)
  take_staged(stage_id, 4)
end

-- Steps that there no longer are: what they had counts on, should a later resume bring them back.
function WORK.gone(steps)
  local at = call('HGET', RUN, 'resumed_at')
  for _, step in ipairs(steps) do
    set_aside(step)
    reset(step, at)
  end
  spend(#steps)
end

-- step, done (of its upstreams are kept with their success), 1 if it had succeeded else 0, ...
function WORK.reset(what)
  local at = call('HGET', RUN, 'resumed_at')
  for index = 1, #what, 3 do
    local step, done = what[index], what[index + 1]
    if what[index + 2] == 1 then set_aside(step) end
    local upstreams, attempt = graph_of(step).u or 0, reset(step, at)
    if attempt > 0 then call('HSET', UNCOUNTED, step, '0 ' .. attempt) end
    call('HDEL', JOIN, step, step .. '\0bad', step .. '\0skipped')
    if done > 0 and upstreams > 1 then call('HSET', JOIN, step, done) end
  end
  spend(#what / 3)
end

-- Everything is reset: the run goes on, unless somebody has cancelled it.
function WORK.resumed()
  local run_state, started_at, open = unpack(call('HMGET', RUN, 'state', 'started_at', 'open'))
  if run_state == 'resuming' then
    call('HSET', RUN, 'state', started_at and 'running' or 'queued')
    settle(open == '0')
  end
end

-- Of `name value ...` in the arguments from `first` to `last`, the value of that name.
local function argument_named(name, first, last)
  for index = first, last, 2 do
    if ARGS[index] == name then return ARGS[index + 1] end
  end
end

-- Why there is no resume, as an error; what was staged for it goes.
local function refuse_resume(why)
  call('UNLINK', FRONT .. '~' .. ARGS[2], unpack(staged_keys(ARGS[2])))
  return redis.error_reply(why)
end

-- resume resume_id staged(steps staged under that id, 0 = as they were) pages(of the front that is
-- staged) seen(how often the caller saw the run resumed before, '' = it does not matter) detail
-- resets again gone(how many steps wait anew; of those that had succeeded these that do, and these
-- that there no longer are) code_changed(detail of that event, or '') clock_step('' = as it is)
-- field value ...: a run that has ended, and not well, goes on. Its front says which steps wait
-- anew (the kinds past, take, gone, reset, resumed and ready, in this order); all other steps are
-- kept as they are. It is being resumed until all that is done, a page in each call, and nothing
-- starts before. Where fields are given the run has the deadline among them, or none. Returns
-- {more, chain, ...}. The same resume_id asking again gets the chains of what is still queued.
function ops.resume()
  local resume_id, staged, pages, seen = ARGS[2], tonumber(ARGS[3]), tonumber(ARGS[4]), ARGS[5]
  local resets, again, gone = tonumber(ARGS[7]), tonumber(ARGS[8]), tonumber(ARGS[9])
  local first, last = 12, #ARGS
  local run_state, resumed_by, resumes, succeeded, v, params =
    unpack(call('HMGET', RUN, 'state', 'resume_id', 'resumes', 'n:succeeded', 'v', 'params'))
  if not run_state then return refuse_resume('UNKNOWN run') end
  local other = unknown_format(v, staged == 0 and 'queued')  -- what is staged is of this format
  if other then return refuse_resume(other) end
  if resumed_by == resume_id then
    left = call('LLEN', FRONT) > 0
    return chains_of(said_before(resume_id) or {})
  end
  if seen ~= '' and seen ~= (resumes or '0') then return refuse_resume('RESUMED meanwhile') end
  if not ENDED[run_state] then return refuse_resume('RUNNING ' .. run_state) end
  if run_state == 'succeeded' then return refuse_resume('SUCCEEDED stays as it is') end
  local stopping = call('ZCARD', DUE)
  if stopping > 0 then return refuse_resume('STOPPING ' .. stopping) end
  local missing = missing_stage(resume_id, staged, pages)
  if missing then return missing end
  local steps = call('HLEN', staged > 0 and staged_keys(resume_id)[1] or GRAPH)
  local kept = tonumber(succeeded or 0) - again - gone
  if steps - resets ~= kept then
    return refuse_resume('RESETS are not all that has not succeeded: ' .. kept
      .. ' steps of ' .. steps .. ' are kept')
  end
  local number, now_params = tonumber(resumes or 0) + 1, argument_named('params', first, last)
  if now_params and now_params ~= params then
    call('HSET', PAST, 'params ' .. number, params)
  end
  take_front(resume_id, pages)
  keep_staged(resume_id)
  for _, name in ipairs(call('HKEYS', RUN)) do
    if string.sub(name, 1, 2) == 'n:' then call('HDEL', RUN, name) end
  end
  call('HDEL', RUN, 'ended_at', 'cancel_reason', 'deadline_at', 'tended_at', 'alert_at',
    'alert_tries', 'alert_sent')
  if last >= first then
    call('HDEL', RUN, 'deadline_s', 'secrets')
    set_fields(first, last)
  end
  call('HSET', RUN, 'state', 'resuming', 'resume_id', resume_id, 'resumed_at', now,
    'open', resets, 'n:waiting', resets, 'n:succeeded', kept, 'resumes', number)
  set_deadline()
  emit('run.resumed', '', 0, ARGS[6])
  if ARGS[10] ~= '' then emit('run.code_changed', '', 0, ARGS[10]) end
  if ARGS[11] ~= '' then call('HSET', RUN, 'clock_step', ARGS[11]) end
  local queued = {}
  go_on(queued)
  settle()
  return said(queued, resume_id)
end
