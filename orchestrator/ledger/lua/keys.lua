-- The ledger: the one place where the state of a run, a step or an attempt changes. The files of
-- this folder are one script, joined by `script.py` in the order of its list; this one holds the
-- keys and what a call works with.
--
-- Every operation is one atomic call and writes its events in the same call, so the record cannot
-- drift from the state. The one key of a call is the run's hash; all other keys of the run share
-- its hash tag and are derived from it:
--
--   {prefix}:{RUN}:run      hash    pipeline, state, params, import_path, created_at, started_at,
--                                   ended_at, max_links, token (last one given: µs since
--                                   created_at), open (steps that have not ended), cancelled_by
--                                   ("id count;" of each cancelling, the last first), n:<state>
--                                   (how many steps are in that state), cancel_reason, start_id,
--                                   lists (JSON [[queue, level], ...]: the queues of its steps),
--                                   target (where the pipeline was loaded from), code (JSON: file
--                                   -> SHA-256; beside it code_id, its id, and code:<id>, the files
--                                   that attempts ran in the same form), deadline_s (seconds from
--                                   start or resume to its end), deadline_at, alerts (JSON list of
--                                   targets), alert_at (when the next alert of its failure is due;
--                                   absent = nothing to send), alert_tries, alert_sent (JSON list),
--                                   alert_told (last report of a try), resumes (how often),
--                                   resume_id, clock_step (last step of the server's clock that it
--                                   was shifted by), limits (1: it has a deadline or queue
--                                   timeouts), tended_at (only with limits), rerun_of (the run that
--                                   this one is a rerun of), reuses (JSON list: the runs whose
--                                   outputs it has taken over), secrets (JSON list: the params that
--                                   are secret), labels (JSON: name -> text), v (format), said
--                                   (JSON [id, [[step, attempt], ...]]: what the call of that id
--                                   has queued), front_at (when something was last left in the
--                                   front, or done of it; absent = it is empty), resumed_at,
--                                   cancel_final (while it is being cancelled: the state that it
--                                   will end in), cancel_from (n:cancelled before that)
--   {prefix}:{RUN}:graph    hash    step -> JSON: x place in the user's order, u upstreams (count,
--                                   absent = 0), n next step of its chain, t trigger rule (absent =
--                                   all_success), q queue, p priority, s level of the broker's list
--                                   (absent = 0), l timeout in seconds, w queue timeout in seconds,
--                                   b lost attempts that it may have (absent = 3), m 1 when it
--                                   reads params
--   {prefix}:{RUN}:children hash    step -> JSON list of the steps that wait for it; absent = none.
--                                   Of more than a page (pages.py) the N-th page, from the second
--                                   on, is at step\0N; a full page may have another one behind it
--   {prefix}:{RUN}:inputs   hash    step -> JSON list of the steps whose outputs it reads, in pages
--                                   like the children; absent = none
--   {prefix}:{RUN}:front    list    what is decided, and still to be written: JSON [kind, what] as
--                                   in WORK, done from the head on, a page in each call
--   {prefix}:{RUN}:spec     hash    step -> JSON of the call and its options; opaque here, for
--                                   workers and people
--   {prefix}:{RUN}:state    hash    step -> "state attempt token at holder"; absent = "waiting 0 0
--                                   0 -". at is when it got into that state; for a running step
--                                   that is claimed_at. holder is "worker claim_id" of the running
--                                   attempt, and of one that is to be stopped: its step was
--                                   cancelled, or failed because it was lost once too often
--   {prefix}:{RUN}:join     hash    step -> upstreams that have ended; step\0bad, step\0skipped ->
--                                   how many of them so; only for steps with several upstreams
--   {prefix}:{RUN}:output   hash    step -> JSON of the output of its committed success; absent =
--                                   null
--   {prefix}:{RUN}:uncounted hash   step -> "lost uncounted put_back": its lost attempts since the
--                                   last resume, how many of its attempts do not count against its
--                                   retries (lost, handed over, put back, before a resume), and how
--                                   often in a row it was put back (absent = 0)
--   {prefix}:{RUN}:due      zset    step -> when it must be looked at: its retry is due (retrying),
--                                   its lease runs out (running, and cancelled while its attempt is
--                                   being stopped), or it has waited too long (queued, with a queue
--                                   timeout)
--   {prefix}:{RUN}:queued:<queue>:<level> zset  step -> when its message was last sent; one for
--                                   each list of the broker
--   {prefix}:{RUN}:secret   string  JSON: secret param -> its text; there only until the run ends
--   {prefix}:{RUN}:past     hash    what resumes have replaced, so that the record of earlier
--                                   attempts stays true: "params N" and "spec N step" as they were
--                                   until the N-th resume (specs only of steps that have had an
--                                   attempt), "output ATTEMPT step" of a step that was run again
--   {prefix}:{RUN}:reused   hash    step -> "place attempt run": its success, and its output, are
--                                   those of that attempt of another run; the places go from
--                                   upstreams to what waits for them
--   {prefix}:{RUN}:<part>~<stage_id> hash  graph, children, inputs, spec, output or reused as a
--                                   submit, a rerun or a resume will have it; until then, and for
--                                   an hour at most; so is front~<stage_id>, a list
--   {prefix}:{RUN}:events   stream  event, at, step, attempt, detail (JSON): one entry for every
--                                   change; beside it lost and budget (of lost attempts), due_at,
--                                   token, waited_s and queue (of a queue timeout)
--   {prefix}:{RUN}:log:<step>:<attempt>  list  lines of one attempt, oldest dropped beyond the
--                                   limit
--   {prefix}:{RUN}:takers   zset    run that has taken over outputs of this one -> when it asked
--   {prefix}:{RUN}:deleted  hash    the hash of the run once it is being deleted: it goes last
--   {prefix}:{RUN}:dropped  hash    <step>:<attempt> -> how many lines at the beginning of its log
--                                   were dropped
--
-- Kept by the client and never touched here, so that no call crosses from a run to another slot:
--   {prefix}:runs           zset    run -> created_at, every run on this server
--   {prefix}:active         set     runs that have not ended, as far as the coordinator has noticed
--   {prefix}:deleting       hash    runs whose deletion has begun -> JSON of how (deleting.py)
--   {prefix}:workers        zset    worker -> until when its last sign of life counts;
--                                   {prefix}:worker:<name> its card; {prefix}:nudge:<name> a list
--                                   that wakes it, to look at its leases now
--   {prefix}:foreign:<queue>, {prefix}:dead:<queue> and their kin: messages that workers set aside
--                                   (set_aside.py)
--   {prefix}:shared:<queue> a string: who else reads a queue of ours (shared_queues.py)
--   {prefix}:knock          string  empty, for a millisecond: that the server takes writes
--   {prefix}:clock          string  JSON list of the steps of the server's clock, see
--                                   server_clock.py
--   {prefix}:coordinators   zset    coordinator -> until when its last sign of life counts
--   {prefix}:coordinator:<name>, its card, is kept by ledger/presence.py
--   {prefix}:store, the id of the artifact store, is kept by ledger/store_id.py
--
-- Times are microseconds since the epoch by the server's clock.

-- What a call works with; a function of the server keeps these between calls, so `enter` sets every
-- one of them anew.
local call, ARGS
local RUN, BASE, GRAPH, CHILDREN, INPUTS, SPEC, STATE, JOIN, OUTPUT, DUE, EVENTS, UNCOUNTED, PAST,
  REUSED, SECRET, FRONT
local now_us, now
local graphs  -- decoded graph entries of this call
local counts  -- state -> change of its count in this call
local ended   -- steps that ended in this call
local budget  -- steps that this call may still look at
local left    -- whether it has left something in the front
local stopping  -- worker -> true: it has an attempt to stop since this call

local ENDED = {succeeded = true, failed = true, cancelled = true, skipped = true,
  upstream_failed = true}

local PAGE = 0  -- steps that a call looks at, and names in a list: PAGE of pages.py

local FORMAT = 2  -- of what is written of a run; its field v

-- What to answer where a run is of a format that this script does not know, else nil. One that an
-- older version has begun goes on with that version only; what has ended can be read, cancelled and
-- resumed.
local function unknown_format(v, run_state)
  v = tonumber(v or 0)
  if v > FORMAT or (v < FORMAT and run_state and not ENDED[run_state]) then
    return 'FORMAT ' .. v
  end
end

local function enter(keys, args)
  call, ARGS, RUN = redis.call, args, keys[1]
  BASE = string.sub(RUN, 1, -4)
  GRAPH, CHILDREN, INPUTS, SPEC = BASE .. 'graph', BASE .. 'children',
    BASE .. 'inputs', BASE .. 'spec'
  STATE, JOIN, OUTPUT = BASE .. 'state', BASE .. 'join', BASE .. 'output'
  DUE, EVENTS, UNCOUNTED, PAST = BASE .. 'due', BASE .. 'events', BASE .. 'uncounted',
    BASE .. 'past'
  REUSED, SECRET, FRONT = BASE .. 'reused', BASE .. 'secret', BASE .. 'front'
  local clock = call('TIME')
  now_us = clock[1] * 1000000 + clock[2]
  now = string.format('%.0f', now_us)
  graphs, counts, ended, stopping = {}, {}, 0, {}
  budget, left = PAGE, false
end

local function after(us)
  return string.format('%.0f', now_us + us)
end

local ops = {}
