-- The state of steps, and how it changes: always by `write`, with an event in the same call.

-- What may become of a step in each state. `states.py` has the same table, for those that read the
-- record.
local TRANSITIONS = {
  -- taken over: succeeded
  waiting = {queued = 1, upstream_failed = 1, skipped = 1, cancelled = 1, succeeded = 1},
  queued = {running = 1, failed = 1, retrying = 1, cancelled = 1},
  running = {succeeded = 1, failed = 1, retrying = 1, queued = 1, cancelled = 1},
  retrying = {queued = 1, cancelled = 1},
  succeeded = {waiting = 1}, failed = {waiting = 1}, cancelled = {waiting = 1},  -- by a resume
  skipped = {waiting = 1}, upstream_failed = {waiting = 1},
}

-- Records what happened. `detail` is JSON that is never read here, for cjson would spoil long
-- numbers and empty lists; what is to be added to it goes beside it, as `name, number, ...`.
local function emit(event, step, attempt, detail, ...)
  call('XADD', EVENTS, '*', 'event', event, 'at', now, 'step', step, 'attempt', attempt,
    'detail', detail, ...)
end

local function graph_of(step)
  local entry = graphs[step]
  if not entry then
    entry = cjson.decode(call('HGET', GRAPH, step))
    graphs[step] = entry
  end
  return entry
end

-- The names of a page (from 1) of the steps that wait for `step`.
local function children_of(step, page)
  local text = call('HGET', CHILDREN, page == 1 and step or step .. '\0' .. page)
  return text and cjson.decode(text) or {}
end

-- state, attempt, token, at, holder. Token and time stay text: Lua writes numbers from 1e14 on
-- without their last digits.
local function read(step)
  local text = call('HGET', STATE, step)
  if not text then return 'waiting', 0, '0', '0', '-' end
  local state, attempt, token, at, holder = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (.*)$')
  return state, tonumber(attempt), token, at, holder
end

-- Whether a holder is of this owner: a worker's name, or "worker incarnation.pid." for one process
-- of it.
local function is_owned(holder, owner)
  if not string.find(owner, ' ', 1, true) then owner = owner .. ' ' end
  return string.sub(holder, 1, #owner) == owner
end

-- lost attempts since the last resume, attempts that do not count against the retries, how often in
-- a row put back
local function uncounted_of(step)
  local text = call('HGET', UNCOUNTED, step)
  if not text then return 0, 0, 0 end
  local lost, uncounted, put_back = string.match(text, '^(%d+) (%d+) ?(%d*)$')
  return tonumber(lost), tonumber(uncounted), tonumber(put_back) or 0
end

local function set(step, state, attempt, token, at, holder)
  call('HSET', STATE, step, state .. ' ' .. attempt .. ' ' .. token .. ' ' .. at .. ' ' .. holder)
end

local function check(step, old, new)
  if not TRANSITIONS[old][new] then
    error('step ' .. step .. ' cannot become ' .. new .. ', it is ' .. old)
  end
end

-- Changes the state of a step, and counts it.
local function write(step, old, new, attempt, token, holder)
  check(step, old, new)
  set(step, new, attempt, token, now, holder)
  counts[old] = (counts[old] or 0) - 1
  counts[new] = (counts[new] or 0) + 1
  if ENDED[new] then ended = ended + 1 end
end

-- Lets a step wait anew, whose attempts so far are kept; a resume counts its steps itself. Returns
-- their number. `at` is when the resume was.
local function reset(step, at)
  local state, attempt, token = read(step)
  if state ~= 'waiting' then check(step, state, 'waiting') end
  set(step, 'waiting', attempt, token, at, '-')
  return attempt
end

-- The list of the broker that a step's message lies in: kombu has one for each of the levels 0, 3,
-- 6 and 9.
local function queued_key(entry)
  return BASE .. 'queued:' .. entry.q .. ':' .. (entry.s or 0)
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
