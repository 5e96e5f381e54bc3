-- The alerts of a run that has failed.

-- alert lease_us: asks for the right to send the run's alerts. Returns {which try this is, what was
-- sent before (JSON list), incident}, or {0} when there is nothing to send now or somebody else is
-- at it. An incident is one end of the run.
function ops.alert()
  local alert_at, sent, ended_at = unpack(call('HMGET', RUN, 'alert_at', 'alert_sent', 'ended_at'))
  if not alert_at or tonumber(alert_at) > now_us then return {0} end
  call('HSET', RUN, 'alert_at', after(tonumber(ARGS[2])))
  return {call('HINCRBY', RUN, 'alert_tries', 1), sent or '[]', ended_at}
end

-- alerted report_id incident try retry_in_us sent(JSON list) then event detail ...: what came of a
-- try. retry_in_us '' = there is no more to send. Of an incident that is over (the run was resumed)
-- only the events are kept; a try that a later one overtook adds what it sent. The same report_id
-- again changes nothing.
function ops.alerted()
  local report_id, incident, try, retry_in_us = ARGS[2], ARGS[3], ARGS[4], ARGS[5]
  local ended_at, alert_at, tries, before, told =
    unpack(call('HMGET', RUN, 'ended_at', 'alert_at', 'alert_tries', 'alert_sent', 'alert_told'))
  if told == report_id or call('EXISTS', RUN) == 0 then return 0 end
  call('HSET', RUN, 'alert_told', report_id)
  for index = 7, #ARGS, 2 do emit(ARGS[index], '', 0, ARGS[index + 1]) end
  if ended_at ~= incident or not alert_at then return 0 end
  local sent, is_sent = cjson.decode(before or '[]'), {}
  for _, target in ipairs(sent) do is_sent[target] = true end
  for _, target in ipairs(cjson.decode(ARGS[6])) do
    if not is_sent[target] then sent[#sent + 1] = target end
  end
  if #sent > 0 then call('HSET', RUN, 'alert_sent', cjson.encode(sent)) end
  if tries ~= try then return 0 end
  if retry_in_us == '' then
    call('HDEL', RUN, 'alert_at', 'alert_tries', 'alert_sent')
  else
    call('HSET', RUN, 'alert_at', after(tonumber(retry_in_us)))
  end
  return 1
end
