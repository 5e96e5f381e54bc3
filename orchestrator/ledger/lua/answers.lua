-- What a call answers: the chains to send, and whether it has left more in the front.

local LINKS = 4  -- in an answer, for each step of a page

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

-- {1 when there is more in the front to go on with, else 0; chain, ...}. Links are counted as work,
-- too: of many chains each is given a part of them, and goes on with a message of its own.
local function chains_of(queued)
  note_front()
  local answer = {left and 1 or 0}
  if #queued == 0 then return answer end
  local max_links, pipeline = unpack(call('HMGET', RUN, 'max_links', 'pipeline'))
  local links = math.min(tonumber(max_links), math.max(1, math.floor(LINKS * PAGE / #queued)))
  for _, item in ipairs(queued) do
    answer[#answer + 1] = chain_from(item[1], item[2], pipeline, links)
  end
  return answer
end

-- The same, and keeps it for the caller who asks again with the same id.
local function said(queued, id)
  if #queued > 0 then call('HSET', RUN, 'said', cjson.encode({id, queued})) end
  return chains_of(queued)
end

-- What was answered to the call of that id, as far as it still waits for a worker; nil when nothing
-- was, or others have been answered since.
local function said_before(id)
  local text = call('HGET', RUN, 'said')
  local answer = text and cjson.decode(text)
  if not answer or answer[1] ~= id then return nil end
  local queued = {}
  for _, item in ipairs(answer[2]) do
    local state, attempt = read(item[1])
    if state == 'queued' and attempt == item[2] then queued[#queued + 1] = item end
  end
  return queued
end

-- For an answer that is given again: those below `step` that still wait for a worker, and where a
-- step ended without having run, those below it; a page of them, for what is behind it stands in
-- the front.
local function still_queued(steps)
  local queued, seen, head = {}, {}, 1
  while steps[head] and budget > 0 do
    local step = steps[head]
    head = head + 1
    if not seen[step] then
      seen[step] = true
      spend(1)
      local state, attempt = read(step)
      if state == 'queued' then
        queued[#queued + 1] = {step, attempt}
      elseif state == 'skipped' or state == 'upstream_failed' then
        for _, child in ipairs(children_of(step, 1)) do steps[#steps + 1] = child end
      end
    end
  end
  left = call('LLEN', FRONT) > 0
  return queued
end

-- go_on id: does a page of what stands in the front. Returns {{more, chain, ...}, worker with an
-- attempt to stop, ...}. The same id asking again gets what the last answer had and still waits.
function ops.go_on()
  local newer = unknown_format(unpack(call('HMGET', RUN, 'v', 'state')))
  if newer then return redis.error_reply(newer) end
  local queued = said_before(ARGS[2])
  if queued then
    left = call('LLEN', FRONT) > 0
    return {chains_of(queued)}
  end
  queued = {}
  go_on(queued)
  settle()
  if not left then call('HDEL', RUN, 'front_at') end
  local answer = {said(queued, ARGS[2])}
  for worker in pairs(stopping) do answer[#answer + 1] = worker end
  return answer
end
