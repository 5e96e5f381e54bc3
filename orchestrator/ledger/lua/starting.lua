-- Staging the steps of a run, and making the run exist.

-- The keys of what is staged for each step, in the order of the columns of `stage`; those of a
-- resume are the first four.
local function parts()
  return {GRAPH, CHILDREN, INPUTS, SPEC, OUTPUT, REUSED}
end

-- The keys under which a submit, a rerun or a resume stages the steps of its run, that of the graph
-- first.
local function staged_keys(stage_id)
  local keys = {}
  for place, key in ipairs(parts()) do keys[place] = key .. '~' .. stage_id end
  return keys
end

-- Makes the first `count` parts that were staged under that id those of the run.
local function take_staged(stage_id, count)
  local keys, own = staged_keys(stage_id), parts()
  for place = 1, count do
    call('UNLINK', own[place])
    if call('EXISTS', keys[place]) == 1 then
      call('RENAME', keys[place], own[place])
      call('PERSIST', own[place])
    end
  end
end

-- Keeps what was staged under that id until its turn has come to be taken, however late that is.
local function keep_staged(stage_id)
  for _, key in ipairs(staged_keys(stage_id)) do call('PERSIST', key) end
end

-- Takes the front that was staged under that id, of so many pages, for the run's own.
local function take_front(stage_id, pages)
  if pages == 0 then return end
  call('RENAME', FRONT .. '~' .. stage_id, FRONT)
  call('PERSIST', FRONT)
  left = true
end

-- What is missing of what was staged, as an error; else nil.
local function missing_stage(stage_id, steps, pages)
  local staged = steps > 0 and call('HLEN', staged_keys(stage_id)[1]) or 0
  if staged ~= steps then
    return redis.error_reply('STAGED are ' .. staged .. ' steps of ' .. steps)
  end
  local front = pages > 0 and call('LLEN', FRONT .. '~' .. stage_id) or 0
  if front ~= pages then
    return redis.error_reply('STAGED are ' .. front .. ' pages of ' .. pages)
  end
end

-- Steps that are taken over from other runs: all of them have succeeded before any step below one
-- is told so.
function WORK.reuse(steps)
  for _, step in ipairs(steps) do
    local attempt, run = string.match(call('HGET', REUSED, step), '^%d+ (%d+) (.*)$')
    write(step, 'waiting', 'succeeded', 0, 0, '-')
    emit('step.reused', step, 0, cjson.encode({run = run, attempt = tonumber(attempt)}))
  end
  spend(#steps)
end

-- Writes fields of the run from the arguments `name value ...` from `first` to `last`.
-- `secret_values` among them goes where secrets are: nothing else of the run ever holds it.
local function set_fields(first, last)
  for index = first, last, 2 do
    if ARGS[index] == 'secret_values' then
      call('SET', SECRET, ARGS[index + 1])
    else
      call('HSET', RUN, ARGS[index], ARGS[index + 1])
    end
  end
end

-- stage stage_id step graph children inputs spec output reused ...: writes steps as the submit, the
-- rerun or the resume of that id will have them, beside what there is; may be called many times.
-- Many who stage for one run at once do not mix what they stage. `output` and `reused` are of a
-- step that is taken over from another run, else ''.
function ops.stage()
  local keys = staged_keys(ARGS[2])
  for index = 3, #ARGS, 7 do
    for place, key in ipairs(keys) do
      local text = ARGS[index + place]
      if text ~= '' then call('HSET', key, ARGS[index], text) end
    end
  end
  -- one who dies leaves nothing for ever
  for _, key in ipairs(keys) do call('EXPIRE', key, 3600) end
  return 1
end

-- stage_front stage_id before page ...: writes pages of the front as the start or the resume of
-- that id will have it, behind the first `before` of them. Saying it again changes nothing.
function ops.stage_front()
  local key = FRONT .. '~' .. ARGS[2]
  if call('LLEN', key) == tonumber(ARGS[3]) then call('RPUSH', key, unpack(ARGS, 4)) end
  call('EXPIRE', key, 3600)
  return 1
end

-- start steps start_id pages(of the front that is staged) field value ...: makes the run exist with
-- the steps that were staged under start_id; those that are taken over have succeeded with that,
-- and its roots and what waits for nothing else are queued, as its front says: a page of that now.
-- Returns {more, chain, ...}. The same start_id asking again (a reply was lost on the way) gets the
-- chains of what is still queued; any other one is refused, and what it has staged is dropped.
function ops.start()
  local steps, start_id, pages = tonumber(ARGS[2]), ARGS[3], tonumber(ARGS[4])
  local started_by = call('HGET', RUN, 'start_id')
  if started_by == start_id then
    left = call('LLEN', FRONT) > 0
    return chains_of(said_before(start_id) or {})
  end
  if started_by or call('EXISTS', BASE .. 'deleted') == 1 then
    call('UNLINK', FRONT .. '~' .. start_id, unpack(staged_keys(start_id)))
    return redis.error_reply('EXISTS the run is already started')
  end
  local missing = missing_stage(start_id, steps, pages)
  if missing then return missing end
  take_staged(start_id, 6)
  take_front(start_id, pages)
  call('HSET', RUN, 'state', 'queued', 'created_at', now, 'token', 0, 'open', steps,
    'n:waiting', steps, 'start_id', start_id)
  set_fields(5, #ARGS)
  set_deadline()
  emit('run.created', '', 0, '')
  local queued = {}
  go_on(queued)
  settle(steps == 0)
  return said(queued, start_id)
end
