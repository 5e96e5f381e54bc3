-- What the end of a step decides about those below it, and the end of a run.

-- What a step becomes now that `done` of its upstreams have ended: 'queued', 'skipped',
-- 'upstream_failed' or nil (wait).
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

-- Ends or queues a step that waits, as was decided because of `cause`.
local function apply(verdict, step, attempt, cause, queued, worklist)
  if verdict == 'queued' then
    queue(step, 'waiting', attempt + 1)
    queued[#queued + 1] = {step, attempt + 1}
  else
    write(step, 'waiting', verdict, attempt, 0, '-')
    emit('step.' .. verdict, step, attempt, cjson.encode({because = cause}))
    worklist[#worklist + 1] = {step, verdict == 'skipped' and 'skipped' or 'bad', cause}
  end
end

-- Tells a step that one of its upstreams has ended.
local function tell(child, kind, cause, queued, worklist)
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
  if not verdict then return end
  local state, attempt = read(child)
  if state == 'waiting' then apply(verdict, child, attempt, cause, queued, worklist) end
end

-- Tells the children of every step in `worklist` ({step, kind, cause, page of its children from
-- which on}; kind is ok, bad or skipped) that it has ended. Steps that end by this pass it on. What
-- is more than the budget of this call goes into the front. Adds the steps that are queued now, in
-- order, and returns them.
local function propagate(worklist, queued)
  local head = 1
  if is_cancelling() then return queued end
  while worklist[head] and budget > 0 do
    local parent, kind, cause, page = unpack(worklist[head])
    page = page or 1
    local children = children_of(parent, page)
    for _, child in ipairs(children) do tell(child, kind, cause, queued, worklist) end
    spend(math.max(1, #children))
    if #children >= PAGE then worklist[#worklist + 1] = {parent, kind, cause, page + 1} end
    head = head + 1
  end
  -- In pages; and steps that ended by this come before further pages of a parent, so that the
  -- front of a wide failure stays short.
  for first = head, #worklist, PAGE do
    later('told', {unpack(worklist, first, math.min(first + PAGE - 1, #worklist))})
  end
  return queued
end

WORK.told = propagate

-- Steps that wait for nothing any more.
function WORK.ready(steps, queued)
  if is_cancelling() then return end
  local worklist = {}
  for _, step in ipairs(steps) do
    local entry, state, attempt = graph_of(step), read(step)
    local upstreams = entry.u or 0
    local verdict = decide(entry.t or 'all_success', upstreams, upstreams, 0, 0)
    if state == 'waiting' then apply(verdict, step, attempt, step, queued, worklist) end
  end
  spend(#steps)
  propagate(worklist, queued)
end

-- Ends the run; the end of its last step or somebody's will has decided how.
local function end_run(final, detail)
  call('HSET', RUN, 'state', final, 'ended_at', now)
  call('HDEL', RUN, 'said', 'front_at', 'cancel_final', 'cancel_from')
  call('UNLINK', SECRET, FRONT)  -- whom it would still tell has ended
  left = false
  emit('run.' .. final, '', 0, detail)
  if final == 'failed' then
    call('HSET', RUN, 'alert_at', now, 'alert_tries', 0, 'alert_sent', '[]')
  end
end

-- Notes for those who have cancelled the run how many steps that were.
local function end_cancelling()
  local by, before, cancelled = unpack(call('HMGET', RUN, 'cancelled_by', 'cancel_from',
    'n:cancelled'))
  local count = tonumber(cancelled or 0) - tonumber(before)
  call('HSET', RUN, 'cancelled_by', (string.gsub(by or '', ' %*;', ' ' .. count .. ';')))
end

local function set_deadline()
  local seconds = call('HGET', RUN, 'deadline_s')
  if seconds then call('HSET', RUN, 'deadline_at', after(tonumber(seconds) * 1000000)) end
end

-- Writes the counts of this call and ends the run when nothing is open. `is_empty`: a run without
-- steps.
local function settle(is_empty)
  for state, change in pairs(counts) do
    if change ~= 0 then call('HINCRBY', RUN, 'n:' .. state, change) end
  end
  counts = {}
  if ended == 0 and not is_empty then return end
  local open = call('HINCRBY', RUN, 'open', -ended)
  ended = 0
  if open > 0 then return end
  local run_state, failed, cancelled, final, reason =
    unpack(call('HMGET', RUN, 'state', 'n:failed', 'n:cancelled', 'cancel_final', 'cancel_reason'))
  if ENDED[run_state] then return end
  if run_state == 'cancelling' then
    end_cancelling()
    end_run(final, cjson.encode({reason = reason}))
  elseif tonumber(failed or 0) > 0 then
    end_run('failed', '')
  elseif tonumber(cancelled or 0) > 0 then
    end_run('cancelled', '')
  else
    end_run('succeeded', '')
  end
end
