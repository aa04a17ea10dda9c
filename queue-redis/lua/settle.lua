-- T6 to T10 and T14: ends attempts.
--
-- KEYS   15 fixed keys
-- ARGV   per settlement: id, head, blob. The head is the outcome (C completed, R retry, D dead,
--        L released, Z snoozed, X cancelled), delay_ms and elapsed_ms (6 bytes each) and the
--        token; the blob is the result, the error, or empty
-- Reply  per settlement two characters: a applied, d done before, s stale, g gone; and the state
--
-- Invariant: only the token in `run` changes a job. It leaves `run` and its claim in the step
-- that puts it into a lane, `due`, or `fin`; that record or `att` keeps the token.

local COMPLETED_PREFIX = pack('>BBI6', COMPLETED, 0, now)
local APART_PREFIX = pack('>BBI6', COMPLETED, RESULT_APART, now)
local ids, heads, blobs = {}, {}, {}
for i = 1, #ARGV, 3 do
  ids[#ids + 1], heads[#heads + 1], blobs[#blobs + 1] = ARGV[i], ARGV[i + 1], ARGV[i + 2]
end
local runs = read('HMGET', RUN, ids)
local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ids) or {}
local had_atts = call('HLEN', ATT) > 0
local atts = had_atts and read('HMGET', ATT, ids) or {}

local answers, held, missed = {}, 0, {}
local new_atts = {}
local seen = {}
local completed = {} -- class → ids

local function delay_of(head) return (struct.unpack('>I6', head, 2)) end

-- Runs again later, or at once from the tail of its lane.
local function again(id, class, att, head)
  local due_ms = min(now + delay_of(head), TIME_MAX)
  att.due_ms = due_ms
  local lane = lane_of(class)
  if due_ms > now or not lane.sound then
    local state = att.failures > 0 and RETRYING or SCHEDULED
    wait_until(due_ms, id, class.pair)
    tally(field_of(class, state), 1)
    return state
  end
  push_tail(lane, id)
  return READY
end

local function back_to_head(id, class, att)
  local lane = lane_of(class)
  if lane.sound then
    push_head(lane, id)
    return READY
  end
  wait_until(now + PARKED_MS, id, class.pair)
  local state = att.failures > 0 and RETRYING or SCHEDULED
  tally(field_of(class, state), 1)
  return state
end

-- Moves a job to where its outcome takes it; answers its new state.
local function conclude(id, run, class, head, blob, att, asked)
  local outcome = sub(head, 1, 1)
  local settled = sub(head, 8)
  if outcome == 'R' or outcome == 'D' then
    att.failures = min(att.failures + 1, 65535)
    att.error = blob
  end
  if outcome == 'D' then
    finish(id, run, 16, class, DEAD, FAILED, settled)
    return DEAD
  end
  if asked then
    finish(id, run, 16, class, CANCELLED, 0, settled)
    return CANCELLED
  end
  if outcome == 'R' and att.failures >= class.max_attempts then
    finish(id, run, 16, class, DEAD, EXHAUSTED, settled)
    return DEAD
  end
  if outcome == 'Z' then att.snoozes = min(att.snoozes + 1, 2 ^ 32 - 1) end
  if outcome == 'R' or outcome == 'Z' then return again(id, class, att, head) end
  return back_to_head(id, class, att)
end

local function is_dropped(class, state)
  local kept_s = state == DEAD and class.dead_s or class.completed_s
  return (state == DEAD or state == CANCELLED) and kept_s == 0
end

-- `finish` for completed jobs, which are most.
local function complete(id, run, class, head, blob)
  if class.completed_s == 0 then
    finish(id, run, 16, class, COMPLETED, 0)
    return
  end
  local count = #finished
  finished[count + 1] = id
  if #blob <= INLINE_MAX_BYTES then
    finished[count + 2] = COMPLETED_PREFIX .. sub(head, 8) .. blob
  else
    finished[count + 2] = APART_PREFIX .. sub(head, 8)
    results[#results + 1], results[#results + 2] = id, blob
  end
  local ids = completed[class]
  if not ids then
    ids = {}
    completed[class] = ids
  end
  ids[#ids + 1] = id
end

local function settle_one(i, id, run, class, token)
  local head = heads[i]
  release(id, token, class, flags[i] == 1)
  if byte(head) == 67 then -- C
    complete(id, run, class, head, blobs[i])
    answers[i] = 'a4'
    return
  end
  local att = parse_att(atts[i]) or new_att(run, 16)
  att.token = token
  local state = conclude(id, run, class, head, blobs[i], att, flags[i] == 1)
  if not is_dropped(class, state) then
    new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att)
  end
  answers[i] = 'a' .. state
end

for i = 1, #ids do
  local run, token = runs[i], sub(heads[i], 14)
  local class = run and sub(run, 1, 16) == token and class_of(run, 16)
  if class and not seen[ids[i]] then
    seen[ids[i]] = true -- a job that comes twice is held only once
    held = held + 1
    settle_one(i, ids[i], run, class, token)
  else
    missed[#missed + 1] = i
  end
end
for class, done in pairs(completed) do
  put_on_shelf(class, COMPLETED, class.completed_s, done)
end

-- Settlements whose token does not hold the job: done before by this token, or stale.
if #missed > 0 then
  local missed_ids = {}
  for n, i in ipairs(missed) do missed_ids[n] = ids[i] end
  local records = read('HMGET', JOBS, missed_ids)
  local states, tokens = states_of(missed_ids)
  for n, i in ipairs(missed) do
    if not records[n] then
      answers[i] = 'g0'
    else
      answers[i] = (tokens[n] == sub(heads[i], 14) and 'd' or 's') .. states[n]
    end
  end
end

if held > 0 then
  tally_lanes()
  tally_released()
  local kept, ended = read_released()
  local counts = read_tallies()
  check_finish(counts)
  save_tallies(counts)
  save_released(kept, ended)
  each('HSET', ATT, new_atts)
  save_finished()
  save_due()
  save_lanes()
  trim_shelves(counts)
end
save_meta()
return concat(answers)
