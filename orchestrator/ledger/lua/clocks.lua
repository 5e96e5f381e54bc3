-- The ledger's clocks when the server's own clock is put forward or back, and when the server was
-- away. Lua has the wall clock only, so callers who watch it (`server_clock.py`) say what they
-- know. And what is due by the clock: retries, queue timeouts, deadlines, messages that must be
-- sent again.

-- by so much the server's time may differ from the one that a caller expects
local CLOCK_TOLERANCE_US = 2000000

-- a front that nobody has done anything of for so long was left by one who died
local FRONT_LEFT_US = 1000000

-- Whether times must not be judged now: the server's clock is not what the caller expects ('' = it
-- expects nothing), or the run has not been shifted by all steps of the clock that the caller knows
-- of.
local function is_off(expected_us, known_step, run_step)
  if expected_us == nil or expected_us == '' then return false end
  return math.abs(now_us - tonumber(expected_us)) > CLOCK_TOLERANCE_US
    or tonumber(run_step or 0) < tonumber(known_step)
end

-- Adds to what people have set a limit of time to: the deadline, and the queue timeouts of steps
-- that wait.
local function put_off(by_us, may)
  local deadline_at, deadline_s = unpack(call('HMGET', RUN, 'deadline_at', 'deadline_s'))
  local count = 0
  if deadline_at and may(tonumber(deadline_at) - tonumber(deadline_s) * 1000000) then
    call('HSET', RUN, 'deadline_at', string.format('%.0f', tonumber(deadline_at) + by_us))
    count = count + 1
  end
  local due = call('ZRANGE', DUE, 0, -1, 'WITHSCORES')
  for index = 1, #due, 2 do
    local state, _, _, at = read(due[index])
    if state == 'queued' and may(tonumber(at)) then
      call('ZADD', DUE, string.format('%.0f', tonumber(due[index + 1]) + by_us), due[index])
      count = count + 1
    end
  end
  return count
end

local function every() return true end

-- The server was away for `away_us`, as a caller knows who waited for it. As much of that as nobody
-- has tended the run for is added to its deadline and queue timeouts; so of several callers the
-- first one adds it, once.
local function pardon(away_us)
  local limits, tended_at = unpack(call('HMGET', RUN, 'limits', 'tended_at'))
  if not limits then return end
  local since_us = now_us - tonumber(tended_at or 0)
  local by_us = tended_at and math.min(away_us, since_us) or 0
  if by_us >= 1000000 and put_off(by_us, every) > 0 then
    emit('clock.paused', '', 0, cjson.encode({for_s = by_us / 1000000}))
  end
  if away_us > 0 or since_us >= 1000000 then call('HSET', RUN, 'tended_at', now) end
end

-- shift step by_us last_us lease_us: the server's clock was put forward by so much (back, if
-- negative) when it showed last_us; `step` numbers such steps of the clock. Each run is shifted
-- once by each: retries, queue timeouts, the deadline, alerts and when messages were sent. Leases
-- are given anew, as workers may have renewed them by either clock. What was written since then is
-- left as it is; the record's times always are. Returns 1, or 0 when there is no need.
function ops.shift()
  local step, by_us, last_us, lease_us =
    tonumber(ARGS[2]), tonumber(ARGS[3]), tonumber(ARGS[4]), tonumber(ARGS[5])
  local run_state, run_step, lists, alert_at =
    unpack(call('HMGET', RUN, 'state', 'clock_step', 'lists', 'alert_at'))
  if not run_state or tonumber(run_step or 0) >= step then return 0 end
  call('HSET', RUN, 'clock_step', step)
  local function is_before(at_us) return at_us < last_us + by_us or at_us > now_us end
  local count = put_off(by_us, is_before)
  local due = call('ZRANGE', DUE, 0, -1, 'WITHSCORES')
  for index = 1, #due, 2 do
    local name = due[index]
    local state, _, _, at = read(name)
    if state == 'running' or state == 'cancelled' then
      call('ZADD', DUE, after(lease_us), name)
      count = count + 1
    elseif state == 'retrying' and is_before(tonumber(at)) then
      call('ZADD', DUE, string.format('%.0f', tonumber(due[index + 1]) + by_us), name)
      count = count + 1
    end
  end
  for _, list in ipairs(lists and cjson.decode(lists) or {}) do
    local key = BASE .. 'queued:' .. list[1] .. ':' .. list[2]
    local sent = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for index = 1, #sent, 2 do
      local at_us = tonumber(sent[index + 1])
      if is_before(at_us) then
        call('ZADD', key, string.format('%.0f', at_us + by_us), sent[index])
      end
    end
  end
  if alert_at and is_before(tonumber(alert_at)) then
    call('HSET', RUN, 'alert_at', string.format('%.0f', tonumber(alert_at) + by_us))
    count = count + 1
  end
  if call('HEXISTS', RUN, 'tended_at') == 1 then call('HSET', RUN, 'tended_at', now) end
  if count > 0 or not ENDED[run_state] then
    emit('clock.shifted', '', 0, cjson.encode({by_s = by_us / 1000000, step = step}))
  end
  return 1
end

-- advance_due limit expected_us clock_step away_us: does what is due: queues retries, fails what
-- has waited too long for a worker, ends a run that missed its deadline. Leases that have run out
-- and queues to look into are returned to the caller, which knows what became of worker and
-- message. A front that nobody goes on with is said to have more. Returns {run state or '', next
-- due time or '', now, {more, chain, ...}, {JSON [step, attempt, holder, since when the lease is
-- over, state], ...}, JSON [[queue, level, oldest sent at], ...], alert_at or '', the last step of
-- the clock that the run was shifted by, 1 if times were judged}. Nothing is judged by a clock that
-- does not show what the caller expects, nor before the run is shifted by the steps that it knows.
function ops.advance_due()
  local run_state, lists, clock_step, v =
    unpack(call('HMGET', RUN, 'state', 'lists', 'clock_step', 'v'))
  if not run_state then return {'', '', now, {0}, {}, '[]', '', 0, 1} end
  if unknown_format(v, run_state) then return redis.error_reply(unknown_format(v, run_state)) end
  clock_step = tonumber(clock_step or 0)
  if is_off(ARGS[3], ARGS[4], clock_step) then
    local nearest = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    return {run_state, nearest[2] or '', now, {0}, {}, '[]', call('HGET', RUN, 'alert_at') or '',
      clock_step, 0}
  end
  if not ENDED[run_state] then pardon(tonumber(ARGS[5] or 0)) end
  local deadline_at, front_at = unpack(call('HMGET', RUN, 'deadline_at', 'front_at'))
  local queued, expired, waiting = {}, {}, {}
  local has_ended = ENDED[run_state] or run_state == 'cancelling'
  if deadline_at and not has_ended and now_us >= tonumber(deadline_at) then
    begin_cancelling('failed',
      'missed its deadline of ' .. call('HGET', RUN, 'deadline_s') .. ' s')
  elseif front_at and now_us - tonumber(front_at) > FRONT_LEFT_US then
    left = true
  end
  cancel_again_if_lost()
  has_ended = has_ended or is_cancelling()
  local limit = math.min(tonumber(ARGS[2]), PAGE)
  local due = call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for index = 1, #due, 2 do
    local step = due[index]
    local state, attempt, token, at, holder = read(step)
    if budget <= 0 then break end
    spend(1)
    if state == 'running' or state == 'cancelled' then
      expired[#expired + 1] = cjson.encode({step, attempt, holder, due[index + 1], state})
    elseif not has_ended then  -- else the cancelling will come to it
      call('ZREM', DUE, step)
      if state == 'retrying' then
        queue(step, state, attempt + 1)
        queued[#queued + 1] = {step, attempt + 1}
      elseif state == 'queued' then
        local entry = graph_of(step)
        leave(step, state)
        write(step, state, 'failed', attempt, token, '-')
        emit('step.failed', step, attempt, '{"outcome":"timed_out"}',
          'waited_s', string.format('%g', entry.w), 'queue', entry.q)
        propagate({{step, 'bad', step}}, queued)
      end
    end
  end
  settle()
  local nearest = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  for _, list in ipairs(lists and cjson.decode(lists) or {}) do
    local oldest =
      call('ZRANGE', BASE .. 'queued:' .. list[1] .. ':' .. list[2], 0, 0, 'WITHSCORES')
    if oldest[2] then waiting[#waiting + 1] = {list[1], list[2], oldest[2]} end
  end
  local state, alert_at = unpack(call('HMGET', RUN, 'state', 'alert_at'))
  local lists_text = #waiting > 0 and cjson.encode(waiting) or '[]'
  return {state, nearest[2] or '', now, chains_of(queued), expired, lists_text, alert_at or '',
    clock_step, 1}
end

-- resend step attempt sent_at detail: the message of a queued step is gone, and is sent again by
-- the one caller whose sent_at is the last. Returns {0, chain}, or {0} when there is nothing to
-- send.
function ops.resend()
  local step, wanted, sent_at, detail = ARGS[2], tonumber(ARGS[3]), tonumber(ARGS[4]), ARGS[5]
  local state, attempt = read(step)
  if state ~= 'queued' or attempt ~= wanted then return {0} end
  local key = queued_key(graph_of(step))
  if tonumber(call('ZSCORE', key, step) or 0) ~= sent_at then return {0} end
  call('ZADD', key, now, step)
  emit('message.lost', step, attempt, detail)
  return chains_of({{step, attempt}})
end

-- queue_shared detail: somebody else reads a queue of this run's steps. Returns 1, or 0 when the
-- run is not there.
function ops.queue_shared()
  if call('EXISTS', RUN) == 0 then return 0 end
  emit('queue.shared', '', 0, ARGS[2])
  return 1
end
