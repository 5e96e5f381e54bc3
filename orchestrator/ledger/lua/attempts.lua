-- The life of an attempt: claim, log lines, commit.

-- claim step attempt claim_id worker lease_us: a worker asks to begin an attempt. Returns {1,
-- token, spec, params or '', import_path, pipeline, attempts that do not count against the retries,
-- code_id, secrets (JSON; '' = the run has none, 'null' = they are lost), 1 if it reads more than a
-- page of outputs, which the worker is to read by itself, else 0, step, output, ...} or {0, why
-- not}. The same claim_id asking again (a reply was lost on the way) gets the same answer.
function ops.claim()
  local step, wanted, claim_id, worker, lease_us =
    ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5], tonumber(ARGS[6])
  local owner = worker .. ' ' .. claim_id
  local run_state, import_path, pipeline, last, created_at, code_id, secrets, v =
    unpack(call('HMGET', RUN, 'state', 'import_path', 'pipeline', 'token', 'created_at',
      'code_id', 'secrets', 'v'))
  if unknown_format(v, run_state) then
    return {0, 'the run has format ' .. (v or 0) .. ', not ' .. FORMAT}
  end
  local state, attempt, token, _, holder = read(step)
  if attempt ~= wanted then
    return {0, 'attempt ' .. wanted .. ' is not current, the step is ' .. state
      .. ' at attempt ' .. attempt}
  end
  if state == 'queued' then
    if run_state == 'cancelling' then return {0, 'the run is being cancelled'} end
    -- By the clock, so that a token never comes again even if a server that crashed has forgotten
    -- the last ones.
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
  local reply = {1, tonumber(token), call('HGET', SPEC, step), params, import_path or '',
    pipeline, uncounted, code_id or '',
    secrets, 0}
  local inputs = call('HGET', INPUTS, step)
  local sources = inputs and cjson.decode(inputs) or {}
  if #sources >= PAGE and call('HEXISTS', INPUTS, step .. '\0002') == 1 then
    reply[#reply] = 1
  else
    for _, source in ipairs(sources) do
      reply[#reply + 1] = source
      reply[#reply + 1] = call('HGET', OUTPUT, source) or ''
    end
  end
  return reply
end

-- commit step attempt token worker outcome detail output next next_attempt retry_in_us [code_id
-- code]: an attempt has ended. token 0 is for who ended the attempt without having claimed it (a
-- worker's main process): it counts for a queued attempt and for one whose holder is owned by
-- `worker`. retry_in_us is '' when there is no retry. Returns {1, state, 1 if Celery's own chain
-- goes on with `next` else 0, {more, chain, ...}} or {0, why refused}. While the run is being
-- cancelled an end still counts that the cancelling has not reached; a retry is cancelled instead.
function ops.commit()
  local step, wanted, token, worker = ARGS[2], tonumber(ARGS[3]), ARGS[4], ARGS[5]
  local outcome, detail, output = ARGS[6], ARGS[7], ARGS[8]
  local follower, follower_attempt, retry_in_us = ARGS[9], tonumber(ARGS[10]), ARGS[11]
  if retry_in_us ~= '' then cancel_if_reached(step) end
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
      queued = propagate({{step, 'ok', step}}, queued)
    elseif retry_in_us ~= '' then
      local due = after(tonumber(retry_in_us))
      write(step, state, 'retrying', attempt, holding, '-')
      call('ZADD', DUE, due, step)
      emit('step.retrying', step, attempt, detail, 'due_at', due)
    else
      write(step, state, 'failed', attempt, holding, '-')
      emit('step.failed', step, attempt, detail)
      queued = propagate({{step, 'bad', step}}, queued)
    end
    settle()
  elseif attempt == wanted and holding == token and token ~= '0' and said_before then
    -- The answer was lost on the way: say again what still waits for a worker.
    queued = still_queued(children_of(step, 1))
  else
    if token ~= '0' and call('EXISTS', RUN) == 1 then
      emit('commit.refused', step, wanted, cjson.encode({outcome = outcome, state = state}),
        'token', token)
    end
    return {0, 'the step is ' .. state .. ' at attempt ' .. attempt}
  end

  local rest = {}
  for _, item in ipairs(queued) do
    if item[1] == follower and item[2] == follower_attempt then
      goes_on = 1
    else
      rest[#rest + 1] = item
    end
  end
  return {1, (read(step)), goes_on, chains_of(rest)}
end

-- log step attempt token limit before line ...: appends lines of a running attempt, or of one that
-- is being stopped, keeping the last `limit`. `before` is how many lines the attempt has written
-- before these, so that lines keep their numbers and a repeated call adds nothing; empty: as many
-- as are there. Returns 1, or 0 when the token is no longer the current one; then the refusal is
-- recorded.
function ops.log()
  local state, attempt, token, _, holder = read(ARGS[2])
  local is_writing = state == 'running' or (state == 'cancelled' and holder ~= '-')
  if not is_writing or attempt ~= tonumber(ARGS[3]) or token ~= ARGS[4] then
    if call('EXISTS', RUN) == 1 then
      emit('log.refused', ARGS[2], ARGS[3], cjson.encode({state = state}), 'token', ARGS[4])
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
