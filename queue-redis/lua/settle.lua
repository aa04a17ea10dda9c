-- T6 to T10 and T14: ends attempts.
--
-- KEYS   the first of the fixed keys and one that is never there
-- ARGV   the ids of all, then per settlement a head and what is behind it. The head is the outcome
--        (C completed, R retry, F and T retry because it failed or timed out, D dead, L released, Z
--        snoozed, K throttled, X cancelled), delay_ms (6 bytes), the length of a shorter error for
--        the history (2 bytes, 0 for the same), elapsed_ms (6 bytes) and the token. Behind it are
--        the shorter error and the result, the error, or the limit keys that are closed (with
--        commas between)
-- Reply  per settlement two characters: a applied, d done before, s stale, g gone, q quarantined
--        now; and the state
--
-- Invariant: only the token in `run` changes a job. It leaves `run` and its claim in the step
-- that puts it into a lane, `due`, or `fin`; that record or `att` keeps the token. In the same
-- step it lets go of its limit keys, which may let others start.

local HEAD_BYTES = 31 -- of a settlement
local ids, heads, blobs, shorts = {}, {}, {}, {}
for i = 1, #ARGV / 2 do
  local head = ARGV[#ARGV / 2 + i]
  local high, low = byte(head, 8, 9)
  local short_end = HEAD_BYTES + high * 256 + low
  ids[i], heads[i], blobs[i] = ARGV[i], sub(head, 1, HEAD_BYTES), sub(head, short_end + 1)
  shorts[i] = short_end > HEAD_BYTES and sub(head, HEAD_BYTES + 1, short_end)
end
local runs = read('HMGET', RUN, ids)
local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ids) or {}
local had_atts = call('HLEN', ATT) > 0
local atts = had_atts and read('HMGET', ATT, ids) or {}
local record_of = {} -- jobs that have not completed, and of which no attempts are noted yet
do
  local needed = {}
  for i, id in ipairs(ids) do
    if runs[i] and not atts[i] and byte(heads[i]) ~= 67 then needed[#needed + 1] = id end -- C
  end
  for n, record in ipairs(read('HMGET', JOBS, needed)) do record_of[needed[n]] = record end
end

local answers, held, missed = {}, 0, {}
local new_atts = {}
local seen = {}
local completed, completed_with_key = {}, {} -- class → ids

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

-- Who made a claim, as far as that is known.
local known_workers = {}
local function worker_by(token)
  if not known_workers[token] then
    local packed = call('HGET', CLAIMS, token)
    known_workers[token] = is_claim(packed) and worker_of(packed) or ''
  end
  return known_workers[token]
end

-- Moves a job to where its outcome takes it; answers its new state, and whether it is kept.
local function conclude(id, record, class, head, blob, att, asked)
  local outcome = sub(head, 1, 1)
  local settled = sub(head, 10, HEAD_BYTES)
  if outcome == 'F' or outcome == 'T' then outcome = 'R' end
  if outcome == 'K' then outcome = 'Z' end
  if outcome == 'R' or outcome == 'D' then
    att.failures = min(att.failures + 1, 65535)
    att.error = blob
  end
  if outcome == 'D' then
    return DEAD, finish(id, record, class, DEAD, FAILED, settled)
  end
  if asked then
    return CANCELLED, finish(id, record, class, CANCELLED, 0, settled)
  end
  if outcome == 'R' and att.failures >= class.max_attempts then
    return DEAD, finish(id, record, class, DEAD, EXHAUSTED, settled)
  end
  if outcome == 'Z' then att.snoozes = min(att.snoozes + 1, 2 ^ 32 - 1) end
  if outcome == 'R' or outcome == 'Z' then return again(id, class, att, head), true end
  return back_to_head(id, class, att), true
end

-- The tag of an entry with jobs of a class (shelf.lua).
local function tag_of(class)
  local kind = sub(class.pair, #class.queue + 2)
  if class.apart or #kind > 64 then return nil end
  local filler = #kind % 16 == 15 and '\0' or ''
  return kind .. filler .. string.char(#kind + #filler + 1)
end

-- `finish` for completed jobs, which are most.
local function complete(id, record, class, head, blob)
  local settled = sub(head, 10, HEAD_BYTES)
  if class.completed_s == 0 or class.at_least or class.live_hold or #blob > INLINE_MAX_BYTES then
    finish(id, record, class, COMPLETED, 0, settled, blob)
    return
  end
  local count = #finished
  finished[count + 1] = id
  finished[count + 2] = packed_end(COMPLETED, 0, settled, blob)
  local has_key = byte(record, 18) + byte(record, 19) > 0
  local list = has_key and completed_with_key or completed
  local ids = list[class]
  if not ids then
    ids = {}
    list[class] = ids
  end
  ids[#ids + 1] = id
end

-- What is known of a job's record is in `run`, or if that is damaged in JOBS. `keys` are the limit
-- keys that it held.
local function settle_one(i, id, record, class, token, keys)
  local head, blob = heads[i], blobs[i]
  release(id, token, class, flags[i] == 1)
  if keys then
    ends[#ends + 1] = { id = id, keys = keys, ending = sub(head, 1, 1), token = token }
  end
  if byte(head) == 75 then -- K
    local throttled, until_ms = split_keys(blob), min(now + delay_of(head), TIME_MAX)
    ends[#ends + 1] = { id = id, throttled = throttled, until_ms = until_ms, token = token }
  end
  if byte(head) == 67 then -- C
    complete(id, record, class, head, blob)
    answers[i] = 'a4'
    return
  end
  local att = parse_att(atts[i]) or new_att(record_of[id])
  att.token = token
  local state, is_kept = conclude(id, record, class, head, blob, att, flags[i] == 1)
  if is_kept then
    new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att)
    local letter = byte(head)
    if letter == 82 or letter == 68 or letter == 70 or letter == 84 then -- R, D, F, T
      note(id, att.failures, worker_by(token), sub(head, 10, 15), shorts[i] or blob)
    end
  end
  answers[i] = 'a' .. state
end

-- A job whose record cannot be read ends here; if it has none, nothing is left of it.
local function settle_undecoded(i, id, record, token)
  release(id, token, nil, flags[i] == 1)
  if record then quarantine(id) end
  answers[i] = record and 'q7' or 'g0'
end

for i = 1, #ids do
  local id, run, token = ids[i], runs[i], sub(heads[i], 16, HEAD_BYTES)
  if run and sub(run, 1, 16) == token and not seen[id] then
    seen[id] = true -- a job that comes twice is held only once
    held = held + 1
    local record = run
    local class, head_bytes = class_of(record, IN_RUN)
    local keys = class and held_keys(run, class, head_bytes)
    if not class then
      record = read('HMGET', JOBS, { id })[1]
      class = record and class_of(record)
      keys = class and class.keys
      has_lost_keys = true
    end
    if class then
      settle_one(i, id, record, class, token, keys)
    else
      settle_undecoded(i, id, record, token)
    end
  else
    missed[#missed + 1] = i
  end
end
for _, list in ipairs({ completed, completed_with_key }) do
  for class, done in pairs(list) do
    local shelf, expiry = retention_of(class, COMPLETED, now)
    tally(field_of(class, COMPLETED), #done)
    if class.keys then tally_keys(class.keys, -#done) end
    put_on_shelf(shelf, expiry, done, list == completed and tag_of(class))
  end
end

-- Whether this token is the one that was noted, of which brief ends keep 4 bytes (brief.lua).
local function is_noted(token, noted)
  if noted == token then return true end
  return noted ~= NO_TOKEN and noted == sub(token, 1, 4) .. sub(NO_TOKEN, 5)
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
      answers[i] = (is_noted(sub(heads[i], 16, HEAD_BYTES), tokens[n]) and 'd' or 's') .. states[n]
    end
  end
end

if held > 0 then
  tally_lanes()
  tally_released()
  local kept, ended = read_released()
  local counts = read_tallies()
  check_finish(counts)
  local histories = #noted > 0 and read_history() or {}
  if #ends > 0 then plan_ends() end
  save_tallies(counts)
  save_released(kept, ended)
  each('HSET', ATT, new_atts)
  if new_atts[1] then widen(ATT, 16) end
  each('HSET', HISTORY, histories)
  save_quarantined()
  save_finished()
  save_due()
  save_lanes()
  if #ends > 0 then limits().save() end
  trim_shelves(counts)
end
save_meta()
return concat(answers)
