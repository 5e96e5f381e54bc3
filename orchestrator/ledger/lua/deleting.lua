-- Deleting a run that has ended, and what keeps it: runs that have taken over its outputs.

-- lend taker: lets another run take over outputs of this one, which is then kept as long as that
-- one. Returns 1, or 0 when this run is not there (any more).
function ops.lend()
  if call('EXISTS', RUN) == 0 then return 0 end
  call('ZADD', BASE .. 'takers', now, ARGS[2])
  return 1
end

-- given_back taker ...: these runs do not need this one any more.
function ops.given_back()
  return call('ZREM', BASE .. 'takers', unpack(ARGS, 2))
end

-- hide: takes the run away from all that look for one; its keys are still to be removed. Returns
-- {'hidden'}, also when it was already, or why it is kept: {'unknown'}, {'open', state},
-- {'stopping', how many attempts}, {'taken', taker, since, ...} (the first hundred).
function ops.hide()
  local state, v = unpack(call('HMGET', RUN, 'state', 'v'))
  if not state then
    return {call('EXISTS', BASE .. 'deleted') == 1 and 'hidden' or 'unknown'}
  end
  local unknown = unknown_format(v, state)
  if unknown then return redis.error_reply(unknown) end
  if not ENDED[state] then return {'open', state} end
  local stopping = call('ZCARD', DUE)
  if stopping > 0 then return {'stopping', stopping} end
  local takers = call('ZRANGE', BASE .. 'takers', 0, 99, 'WITHSCORES')
  if #takers > 0 then return {'taken', unpack(takers)} end
  call('RENAME', RUN, BASE .. 'deleted')
  return {'hidden'}
end

-- erase part ...: removes these keys of a run that is hidden. One that was started since under the
-- same id is not touched.
function ops.erase()
  if call('EXISTS', BASE .. 'deleted') == 0 then return 0 end
  for index = 2, #ARGS do call('UNLINK', BASE .. ARGS[index]) end
  return 1
end
