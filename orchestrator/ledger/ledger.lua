-- The ledger: the one place where the state of a run, a step or an attempt changes. This file holds its keys, its
-- words and the course of a run that goes well; `recovery.lua`, which the client puts behind it, holds the rest.
--
-- Every operation is one atomic call and writes its events in the same call, so the record cannot drift from the
-- state. The one key of a call is the run's hash; all other keys of the run share its hash tag and are derived from it:
--
--   {prefix}:{RUN}:run      hash    pipeline, state, params, import_path, created_at, started_at, ended_at,
--                                   max_links, token (last one given: µs since created_at), open (steps that have not
--                                   ended), cancelled_by ("id count;" of each cancelling, the last first),
--                                   n:<state> (how many steps are in that state), cancel_reason, start_id,
--                                   lists (JSON [[queue, level], ...]: the queues of its steps), target (where the
--                                   pipeline was loaded from), code (JSON: file -> SHA-256; beside it code_id, its
--                                   id, and code:<id>, the files that attempts ran in the same form), deadline_s (seconds from
--                                   start or resume to its end), deadline_at, alerts (JSON list of targets),
--                                   alert_at (when somebody is to be told that it failed; absent = nothing to tell),
--                                   alert_tries, alert_sent (JSON list), alert_told (last report of a try),
--                                   resumes (how often), resume_id, clock_step (last step of the server's clock that it
--                                   was shifted by), limits (1: it has a deadline or queue timeouts), tended_at (only
--                                   with limits), rerun_of (the run that this one is a rerun of), reuses (JSON list: the runs whose
--                                   outputs it has taken over), secrets (JSON list: the params that are secret)
--   {prefix}:{RUN}:graph    hash    step -> JSON: x place in the user's order, u upstreams (count, absent = 0), n next
--                                   step of its chain, t trigger rule (absent = all_success), q queue, p priority,
--                                   l timeout in seconds, w queue timeout in seconds, b lost attempts that it may have
--                                   (absent = 3), m 1 when it reads params
--   {prefix}:{RUN}:children hash    step -> JSON list of the steps that wait for it; absent = none
--   {prefix}:{RUN}:inputs   hash    step -> JSON list of the steps whose outputs it reads; absent = none
--   {prefix}:{RUN}:spec     hash    step -> JSON of the call and its options; opaque here, for workers and people
--   {prefix}:{RUN}:state    hash    step -> "state attempt token at holder"; absent = "waiting 0 0 0 -".
--                                   at is when it got into that state; for a running step that is claimed_at.
--                                   holder is "worker claim_id" of the running attempt, and of one that is to be
--                                   stopped: its step was cancelled, or failed because it was lost once too often
--   {prefix}:{RUN}:join     hash    step -> upstreams that have ended; step\0bad, step\0skipped -> how many of them so;
--                                   only for steps with several upstreams
--   {prefix}:{RUN}:output   hash    step -> JSON of the output of its committed success; absent = null
--   {prefix}:{RUN}:uncounted hash   step -> "lost uncounted put_back": its lost attempts since the last resume, how many
--                                   of its attempts do not count against its retries (lost, handed over, put back,
--                                   before a resume), and how often in a row it was put back (absent = 0)
--   {prefix}:{RUN}:due      zset    step -> when it must be looked at: its retry is due (retrying), its lease runs out
--                                   (running, and cancelled while its attempt is being stopped), or it has waited too
--                                   long (queued, with a queue timeout)
--   {prefix}:{RUN}:queued:<queue>:<level> zset  step -> when its message was last sent; one for each list of the broker
--   {prefix}:{RUN}:secret   string  JSON: secret param -> its text; there only until the run ends
--   {prefix}:{RUN}:past     hash    what resumes have replaced, so that the record of earlier attempts stays true:
--                                   "params N" and "spec N step" as they were until the N-th resume (specs only of steps
--                                   that have had an attempt), "output ATTEMPT step" of a step that was run again
--   {prefix}:{RUN}:reused   hash    step -> "place attempt run": its success, and its output, are those of that attempt of
--                                   another run; the places go from upstreams to what waits for them
--   {prefix}:{RUN}:<part>~<stage_id> hash  graph, children, inputs, spec, output or reused as a submit, a rerun or a resume
--                                   will have it; until then, and for an hour at most
--   {prefix}:{RUN}:events   stream  event, at, step, attempt, detail (JSON): one entry for every change
--   {prefix}:{RUN}:log:<step>:<attempt>  list  lines of one attempt, oldest dropped beyond the limit
--   {prefix}:{RUN}:dropped  hash    <step>:<attempt> -> how many lines at the beginning of its log were dropped
--
-- Kept by the client and never touched here, so that no call crosses from a run to another key slot:
--   {prefix}:runs           zset    run -> created_at, every run on this server
--   {prefix}:active         set     runs that have not ended, as far as the coordinator has noticed
--   {prefix}:workers        zset    worker -> until when its last sign of life counts; {prefix}:worker:<name> its card;
--                                   {prefix}:nudge:<name> a list that wakes it, to look at its leases now
--   {prefix}:foreign:<queue>, {prefix}:dead:<queue> and their kin: messages that workers set aside (set_aside.py)
--   {prefix}:shared:<queue> a string: who else reads a queue of ours (shared_queues.py)
--   {prefix}:knock          string  empty, for a millisecond: that the server takes writes
--   {prefix}:clock          string  JSON list of the steps of the server's clock, see server_clock.py
--   {prefix}:coordinators   zset    coordinator -> until when its last sign of life counts
--   {prefix}:coordinator:<name>, its card, is kept by ledger/presence.py
--   {prefix}:store, the id of the artifact store, is kept by ledger/store_id.py
--
-- Times are microseconds since the epoch by the server's clock. Step states:
--   waiting -> queued -> running -> succeeded | failed;  running -> retrying -> queued;  queued -> failed;
--   running -> queued;  waiting -> upstream_failed | skipped;  any that has not ended -> cancelled
-- A lost or handed-over attempt takes a running step back to queued, one that is put back to retrying. A resume takes steps that have ended to waiting.

-- What a call works with; a function of the server keeps these between calls, so `enter` sets every one of them anew.
local call, ARGS
local RUN, BASE, GRAPH, CHILDREN, INPUTS, SPEC, STATE, JOIN, OUTPUT, DUE, EVENTS, UNCOUNTED, PAST, REUSED, SECRET
local now_us, now
local graphs  -- decoded graph entries of this call
local counts  -- state -> change of its count in this call
local ended   -- steps that ended in this call

local ENDED = {succeeded = true, failed = true, cancelled = true, skipped = true, upstream_failed = true}

local function enter(keys, args)
  call, ARGS, RUN = redis.call, args, keys[1]
  BASE = string.sub(RUN, 1, -4)
  GRAPH, CHILDREN, INPUTS, SPEC = BASE .. 'graph', BASE .. 'children', BASE .. 'inputs', BASE .. 'spec'
  STATE, JOIN, OUTPUT = BASE .. 'state', BASE .. 'join', BASE .. 'output'
  DUE, EVENTS, UNCOUNTED, PAST = BASE .. 'due', BASE .. 'events', BASE .. 'uncounted', BASE .. 'past'
  REUSED, SECRET = BASE .. 'reused', BASE .. 'secret'
  local clock = call('TIME')
  now_us = clock[1] * 1000000 + clock[2]
  now = string.format('%.0f', now_us)
  graphs, counts, ended = {}, {}, 0
end

local function after(us)
  return string.format('%.0f', now_us + us)
end

local function emit(event, step, attempt, detail)
  call('XADD', EVENTS, '*', 'event', event, 'at', now, 'step', step, 'attempt', attempt, 'detail', detail)
end

-- Adds a token to a JSON object as text, for cjson would round a large one.
local function with_token(detail, token)
  return string.sub(detail, 1, -2) .. ',"token":' .. token .. '}'
end

local function graph_of(step)
  local entry = graphs[step]
  if not entry then
    entry = cjson.decode(call('HGET', GRAPH, step))
    graphs[step] = entry
  end
  return entry
end

local function children_of(step)
  local text = call('HGET', CHILDREN, step)
  return text and cjson.decode(text) or {}
end

-- state, attempt, token, at, holder. Token and time stay text: Lua writes numbers from 1e14 on without their last digits.
local function read(step)
  local text = call('HGET', STATE, step)
  if not text then return 'waiting', 0, '0', '0', '-' end
  local state, attempt, token, at, holder = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (.*)$')
  return state, tonumber(attempt), token, at, holder
end

-- Whether a holder is of this owner: a worker's name, or "worker incarnation.pid." for one process of it.
local function is_owned(holder, owner)
  if not string.find(owner, ' ', 1, true) then owner = owner .. ' ' end
  return string.sub(holder, 1, #owner) == owner
end

-- lost attempts since the last resume, attempts that do not count against the retries, how often in a row put back
local function uncounted_of(step)
  local text = call('HGET', UNCOUNTED, step)
  if not text then return 0, 0, 0 end
  local lost, uncounted, put_back = string.match(text, '^(%d+) (%d+) ?(%d*)$')
  return tonumber(lost), tonumber(uncounted), tonumber(put_back) or 0
end

local function write(step, old, new, attempt, token, holder)
  call('HSET', STATE, step, new .. ' ' .. attempt .. ' ' .. token .. ' ' .. now .. ' ' .. holder)
  counts[old] = (counts[old] or 0) - 1
  counts[new] = (counts[new] or 0) + 1
  if ENDED[new] then ended = ended + 1 end
end

-- The list of the broker that a step's message lies in: kombu has one for each of the levels 0, 3, 6 and 9.
local function queued_key(entry)
  return BASE .. 'queued:' .. entry.q .. ':' .. (entry.p - entry.p % 3)
end

local function queue(step, old, attempt)
  local entry = graph_of(step)
  write(step, old, 'queued', attempt, 0, '-')
  call('ZADD', queued_key(entry), now, step)
  if entry.w then call('ZADD', DUE, after(entry.w * 1000000), step) end
  emit('step.queued', step, attempt, '')
end

-- Takes a step from where steps in its state are looked at; its state changes next.
local function leave(step, state)
  if state == 'queued' then
    local entry = graph_of(step)
    call('ZREM', queued_key(entry), step)
    if entry.w then call('ZREM', DUE, step) end
  elseif state == 'running' or state == 'retrying' then
    call('ZREM', DUE, step)
  end
end

-- The message for a queued step: its link and those that follow it in its chain, as JSON [[step, attempt, queue,
-- priority, timeout], ...]. A later link that a success above it cannot start ends the message.
local function chain_from(step, attempt, max_links)
  local links, entry = {}, graph_of(step)
  while true do
    links[#links + 1] = {step, attempt, entry.q, entry.p, entry.l or 0}
    step = entry.n
    if not step or #links >= max_links then break end
    entry = graph_of(step)
    if entry.t == 'one_failed' then break end
    local state, last = read(step)
    if state ~= 'waiting' then break end
    attempt = last + 1
  end
  return cjson.encode(links)
end

-- What a step becomes now that `done` of its upstreams have ended: 'queued', 'skipped', 'upstream_failed' or nil (wait).
local function decide(rule, upstreams, done, bad, skipped)
  if rule == 'one_failed' then
    if bad > 0 then return 'queued' end
    if done == upstreams then return 'skipped' end
    return nil
  end
  if bad > 0 and (rule == 'all_success' or rule == 'none_failed') then return 'upstream_failed' end
  if done < upstreams then return nil end
  if rule == 'all_success' and skipped > 0 then return 'skipped' end
  return 'queued'
end

-- Tells the children of every step in `worklist` ({step, kind, cause}; kind is ok, bad or skipped) that it has ended.
-- Steps that end by this are told on in the same call. Returns the steps that are queued now, in order.
local function propagate(worklist)
  local queued, head = {}, 1
  while worklist[head] do
    local parent, kind, cause = worklist[head][1], worklist[head][2], worklist[head][3]
    head = head + 1
    for _, child in ipairs(children_of(parent)) do
      local entry = graph_of(child)
      local upstreams, rule = entry.u or 0, entry.t or 'all_success'
      local done, bad, skipped = 1, kind == 'bad' and 1 or 0, kind == 'skipped' and 1 or 0
      if upstreams > 1 then
        done = call('HINCRBY', JOIN, child, 1)
        if kind ~= 'ok' then call('HINCRBY', JOIN, child .. '\0' .. kind, 1) end
        if rule == 'all_success' and kind == 'ok' and done < upstreams then
          bad = 0  -- waits on; the common case needs no further look
        else
          bad = tonumber(call('HGET', JOIN, child .. '\0bad') or 0)
          skipped = tonumber(call('HGET', JOIN, child .. '\0skipped') or 0)
        end
      end
      local verdict = decide(rule, upstreams, done, bad, skipped)
      if verdict then
        local state, attempt = read(child)
        if state == 'waiting' then
          if verdict == 'queued' then
            queue(child, state, attempt + 1)
            queued[#queued + 1] = {child, attempt + 1}
          else
            write(child, state, verdict, attempt, 0, '-')
            emit('step.' .. verdict, child, attempt, cjson.encode({because = cause}))
            worklist[#worklist + 1] = {child, verdict == 'skipped' and 'skipped' or 'bad', cause}
          end
        end
      end
    end
  end
  return queued
end

-- Ends the run; the end of its last step or somebody's will has decided how.
local function end_run(final, detail)
  call('HSET', RUN, 'state', final, 'ended_at', now)
  call('DEL', SECRET)
  emit('run.' .. final, '', 0, detail)
  if final == 'failed' then call('HSET', RUN, 'alert_at', now, 'alert_tries', 0, 'alert_sent', '[]') end
end

local function set_deadline()
  local seconds = call('HGET', RUN, 'deadline_s')
  if seconds then call('HSET', RUN, 'deadline_at', after(tonumber(seconds) * 1000000)) end
end

-- Writes the counts of this call and ends the run when nothing is open. `is_empty`: a run without steps.
local function settle(is_empty)
  for state, change in pairs(counts) do
    if change ~= 0 then call('HINCRBY', RUN, 'n:' .. state, change) end
  end
  counts = {}
  if ended == 0 and not is_empty then return end
  local open = call('HINCRBY', RUN, 'open', -ended)
  ended = 0
  if open > 0 then return end
  local run_state, failed, cancelled = unpack(call('HMGET', RUN, 'state', 'n:failed', 'n:cancelled'))
  if ENDED[run_state] then return end
  if tonumber(failed or 0) > 0 then
    end_run('failed', '')
  elseif tonumber(cancelled or 0) > 0 then
    end_run('cancelled', '')
  else
    end_run('succeeded', '')
  end
end

-- For an answer that is given again: those of `steps` that still wait for a worker and, where a step ended without
-- having run, those below it.
local function still_queued(steps)
  local queued, seen, head = {}, {}, 1
  while steps[head] do
    local step = steps[head]
    head = head + 1
    if not seen[step] then
      seen[step] = true
      local state, attempt = read(step)
      if state == 'queued' then
        queued[#queued + 1] = {step, attempt}
      elseif state == 'skipped' or state == 'upstream_failed' then
        for _, child in ipairs(children_of(step)) do steps[#steps + 1] = child end
      end
    end
  end
  return queued
end

local function chains_of(queued)
  if #queued == 0 then return {} end
  local max_links, chains = tonumber(call('HGET', RUN, 'max_links')), {}
  for index, item in ipairs(queued) do chains[index] = chain_from(item[1], item[2], max_links) end
  return chains
end

-- The keys of what is staged for each step, in the order of the columns of `stage`; those of a resume are the first four.
local function parts()
  return {GRAPH, CHILDREN, INPUTS, SPEC, OUTPUT, REUSED}
end

-- The keys under which a submit, a rerun or a resume stages the steps of its run, that of the graph first.
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

-- Writes fields of the run from the arguments `name value ...` from `first` to `last`. `secret_values` among them goes
-- where secrets are: nothing else of the run ever holds it.
local function set_fields(first, last)
  for index = first, last, 2 do
    if ARGS[index] == 'secret_values' then
      call('SET', SECRET, ARGS[index + 1])
    else
      call('HSET', RUN, ARGS[index], ARGS[index + 1])
    end
  end
end

local ops = {}

-- stage stage_id step graph children inputs spec output reused ...: writes steps as the submit, the rerun or the resume of
-- that id will have them, beside what there is; may be called many times. Many who stage for one run at once do not mix
-- what they stage. `output` and `reused` are of a step that is taken over from another run, else ''.
function ops.stage()
  local keys = staged_keys(ARGS[2])
  for index = 3, #ARGS, 7 do
    for place, key in ipairs(keys) do
      local text = ARGS[index + place]
      if text ~= '' then call('HSET', key, ARGS[index], text) end
    end
  end
  for _, key in ipairs(keys) do call('EXPIRE', key, 3600) end  -- one who dies leaves nothing for ever
  return 1
end

-- start steps start_id roots(JSON list) field value ...: makes the run exist with the steps that were staged under
-- start_id; those that are taken over have succeeded with that, and its roots and what waits for nothing else are queued.
-- Returns their chains. The same start_id asking again (a reply was lost on the way) gets the chains of what is still
-- queued; any other one is refused, and what it has staged is dropped.
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
  if started_by then
    call('DEL', unpack(staged_keys(start_id)))
    return redis.error_reply('EXISTS the run is already started')
  end
  local staged = call('HLEN', staged_keys(start_id)[1])
  if staged ~= steps then return redis.error_reply('STAGED are ' .. staged .. ' steps of ' .. steps) end
  take_staged(start_id, 6)
  call('HSET', RUN, 'state', 'queued', 'created_at', now, 'token', 0, 'open', steps, 'n:waiting', steps,
    'start_id', start_id)
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

-- claim step attempt claim_id worker lease_us: a worker asks to begin an attempt.
-- Returns {1, token, spec, params or '', import_path, pipeline, attempts that do not count against the retries, code_id,
-- secrets (JSON; '' = the run has none, 'null' = they are lost), step, output, ...} or {0, why not}. The same claim_id
-- asking again (a reply was lost on the way) gets the same answer.
function ops.claim()
  local step, wanted, claim_id, worker, lease_us = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], tonumber(ARGS[6])
  local owner = worker .. ' ' .. claim_id
  local run_state, import_path, pipeline, last, created_at, code_id, secrets =
    unpack(call('HMGET', RUN, 'state', 'import_path', 'pipeline', 'token', 'created_at', 'code_id', 'secrets'))
  local state, attempt, token, _, holder = read(step)
  if attempt ~= wanted then return {0, 'attempt ' .. wanted .. ' is not current, the step is ' .. state .. ' at attempt ' .. attempt} end
  if state == 'queued' then
    -- By the clock, so that a token never comes again even if a server that crashed has forgotten the last ones.
    token = string.format('%.0f', math.max(tonumber(last) + 1, now_us - tonumber(created_at)))
    call('HSET', RUN, 'token', token)
    leave(step, state)
    write(step, state, 'running', attempt, token, owner)
    call('ZADD', DUE, after(lease_us), step)
    if run_state == 'queued' then
      call('HSET', RUN, 'state', 'running', 'started_at', now)
      emit('run.started', '', 0, '')
    end
    emit('step.started', step, attempt, worker)
    settle()
  elseif state ~= 'running' or holder ~= owner then
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end
  local params = ''
  if graph_of(step).m then params = call('HGET', RUN, 'params') or '' end
  local uncounted = 0
  if attempt > 1 then _, uncounted = uncounted_of(step) end
  secrets = secrets and (call('GET', SECRET) or 'null') or ''
  local reply = {1, tonumber(token), call('HGET', SPEC, step), params, import_path or '', pipeline, uncounted, code_id or '',
    secrets}
  local inputs = call('HGET', INPUTS, step)
  if inputs then
    for _, source in ipairs(cjson.decode(inputs)) do
      reply[#reply + 1] = source
      reply[#reply + 1] = call('HGET', OUTPUT, source) or ''
    end
  end
  return reply
end

-- commit step attempt token worker outcome detail output next next_attempt retry_in_us [code_id code]: an attempt has ended.
-- token 0 is for who ended the attempt without having claimed it (a worker's main process): it counts for a queued
-- attempt and for one whose holder is owned by `worker`. retry_in_us is '' when there is no retry.
-- Returns {1, state, 1 if Celery's own chain goes on with `next` else 0, {chain, ...}} or {0, why refused}.
function ops.commit()
  local step, wanted, token, worker = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5]
  local outcome, detail, output = ARGS[6], ARGS[7], ARGS[8]
  local follower, follower_attempt, retry_in_us = ARGS[9], tonumber(ARGS[10]), ARGS[11]
  local state, attempt, holding, _, holder = read(step)
  local queued, goes_on = {}, 0

  local may = attempt == wanted
  if token == '0' then
    may = may and (state == 'queued' or (state == 'running' and is_owned(holder, worker)))
  else
    may = may and holding == token and state == 'running'
  end

  local said_before = outcome == 'succeeded' and state == 'succeeded'
    or outcome ~= 'succeeded' and (state == 'retrying' or (state == 'failed' and holder == '-'))

  if may then
    leave(step, state)
    if ARGS[12] then call('HSETNX', RUN, 'code:' .. ARGS[12], ARGS[13]) end
    if outcome == 'succeeded' then
      if output ~= '' and output ~= 'null' then call('HSET', OUTPUT, step, output) end
      write(step, state, 'succeeded', attempt, holding, '-')
      emit('step.succeeded', step, attempt, detail)
      queued = propagate({{step, 'ok', step}})
    elseif retry_in_us ~= '' then
      local due = after(tonumber(retry_in_us))
      write(step, state, 'retrying', attempt, holding, '-')
      call('ZADD', DUE, due, step)
      emit('step.retrying', step, attempt, string.sub(detail, 1, -2) .. ',"due_at":' .. due .. '}')
    else
      write(step, state, 'failed', attempt, holding, '-')
      emit('step.failed', step, attempt, detail)
      queued = propagate({{step, 'bad', step}})
    end
    settle()
  elseif attempt == wanted and holding == token and token ~= '0' and said_before then
    -- The answer was lost on the way: tell again what still waits for a worker.
    queued = still_queued(children_of(step))
  else
    if token ~= '0' and call('EXISTS', RUN) == 1 then
      emit('commit.refused', step, wanted, with_token(cjson.encode({outcome = outcome, state = state}), token))
    end
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end

  local rest = {}
  for _, item in ipairs(queued) do
    if item[1] == follower and item[2] == follower_attempt then goes_on = 1 else rest[#rest + 1] = item end
  end
  return {1, (read(step)), goes_on, chains_of(rest)}
end

-- log step attempt token limit before line ...: appends lines of a running attempt, or of one that is being stopped,
-- keeping the last `limit`. `before` is how many lines the attempt has written before these, so that lines keep their
-- numbers and a repeated call adds nothing; empty: as many as are there. Returns 1, or 0 when the token is no longer
-- the current one; then the refusal is recorded.
function ops.log()
  local state, attempt, token, _, holder = read(ARGS[2])
  local is_writing = state == 'running' or (state == 'cancelled' and holder ~= '-')
  if not is_writing or attempt ~= tonumber(ARGS[3]) or token ~= ARGS[4] then
    if call('EXISTS', RUN) == 1 then
      emit('log.refused', ARGS[2], ARGS[3], with_token(cjson.encode({state = state}), ARGS[4]))
    end
    return 0
  end
  local log = ARGS[2] .. ':' .. ARGS[3]
  local key, dropped = BASE .. 'log:' .. log, BASE .. 'dropped'
  local first = 7
  if ARGS[6] ~= '' then
    local written = call('LLEN', key) + (call('HGET', dropped, log) or 0)
    local before = tonumber(ARGS[6])
    if before > written then -- more came at once than is kept
      call('DEL', key)
      call('HSET', dropped, log, ARGS[6])
    else
      first = 7 + written - before
    end
  end
  local kept = 0
  for index = first, #ARGS do kept = call('RPUSH', key, ARGS[index]) end
  local over = kept - tonumber(ARGS[5])
  if over > 0 then
    call('LTRIM', key, over, -1)
    call('HINCRBY', dropped, log, over)
  end
  return 1
end
