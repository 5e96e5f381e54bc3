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
    call('DEL', own[place])
    if call('EXISTS', keys[place]) == 1 then
      call('RENAME', keys[place], own[place])
      call('PERSIST', own[place])
    end
  end
end

-- The steps that are taken over from other runs as {place, step, run, attempt}, upstreams first.
local function reused_steps()
  local found, raw = {}, call('HGETALL', REUSED)
  for index = 1, #raw, 2 do
    local place, attempt, run = string.match(raw[index + 1], '^(%d+) (%d+) (.*)$')
    found[#found + 1] = {tonumber(place), raw[index], run, tonumber(attempt)}
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  return found
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

-- start steps start_id roots(JSON list) field value ...: makes the run exist with the steps that
-- were staged under start_id; those that are taken over have succeeded with that, and its roots and
-- what waits for nothing else are queued. Returns their chains. The same start_id asking again (a
-- reply was lost on the way) gets the chains of what is still queued; any other one is refused, and
-- what it has staged is dropped.
function ops.start()
  local steps, start_id, roots = tonumber(ARGS[2]), ARGS[3], cjson.decode(ARGS[4])
  local started_by = call('HGET', RUN, 'start_id')
  local function ready()  -- in the same order whenever it is asked
    for _, it in ipairs(reused_steps()) do
      for _, child in ipairs(children_of(it[2])) do roots[#roots + 1] = child end
    end
    return chains_of(still_queued(roots))
  end
  if started_by == start_id then return ready() end
  if started_by or call('EXISTS', BASE .. 'deleted') == 1 then
    call('DEL', unpack(staged_keys(start_id)))
    return redis.error_reply('EXISTS the run is already started')
  end
  local staged = call('HLEN', staged_keys(start_id)[1])
  if staged ~= steps then
    return redis.error_reply('STAGED are ' .. staged .. ' steps of ' .. steps)
  end
  take_staged(start_id, 6)
  call('HSET', RUN, 'state', 'queued', 'created_at', now, 'token', 0, 'open', steps,
    'n:waiting', steps, 'start_id', start_id)
  set_fields(5, #ARGS)
  set_deadline()
  emit('run.created', '', 0, '')
  local queued, worklist = {}, {}
  for _, it in ipairs(reused_steps()) do
    write(it[2], 'waiting', 'succeeded', 0, 0, '-')
    emit('step.reused', it[2], 0, cjson.encode({run = it[3], attempt = it[4]}))
    worklist[#worklist + 1] = {it[2], 'ok', it[2]}
  end
  for _, step in ipairs(roots) do
    if graph_of(step).t == 'one_failed' then
      write(step, 'waiting', 'skipped', 0, 0, '-')
      emit('step.skipped', step, 0, cjson.encode({because = step}))
      worklist[#worklist + 1] = {step, 'skipped', step}
    else
      queue(step, 'waiting', 1)
      queued[#queued + 1] = {step, 1}
    end
  end
  local is_plain = #worklist == 0
  propagate(worklist)
  settle(steps == 0)
  return is_plain and chains_of(queued) or ready()
end
