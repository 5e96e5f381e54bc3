-- What the end of a step decides about those below it, the chains that become ready by that, and
-- the end of a run.

-- The message for a queued step, as JSON
-- [pipeline, [[step, attempt, queue, priority, timeout], ...]]: its link and those that follow it
-- in its chain. A later link that a success above it cannot start ends the message.
local function chain_from(step, attempt, pipeline, max_links)
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
  return cjson.encode({pipeline, links})
end

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

-- Tells the children of every step in `worklist` ({step, kind, cause}; kind is ok, bad or skipped)
-- that it has ended. Steps that end by this pass it on in the same call. Returns the steps that
-- are queued now, in order.
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
  if final == 'failed' then
    call('HSET', RUN, 'alert_at', now, 'alert_tries', 0, 'alert_sent', '[]')
  end
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
  local run_state, failed, cancelled =
    unpack(call('HMGET', RUN, 'state', 'n:failed', 'n:cancelled'))
  if ENDED[run_state] then return end
  if tonumber(failed or 0) > 0 then
    end_run('failed', '')
  elseif tonumber(cancelled or 0) > 0 then
    end_run('cancelled', '')
  else
    end_run('succeeded', '')
  end
end

-- For an answer that is given again: those of `steps` that still wait for a worker and, where a
-- step ended without having run, those below it.
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
  local max_links, pipeline = unpack(call('HMGET', RUN, 'max_links', 'pipeline'))
  local chains = {}
  for index, item in ipairs(queued) do
    chains[index] = chain_from(item[1], item[2], pipeline, tonumber(max_links))
  end
  return chains
end
