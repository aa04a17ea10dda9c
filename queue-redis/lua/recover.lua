-- T17, back: takes jobs out of quarantine that this program can read.
--
-- KEYS   21 fixed keys
-- ARGV   per job: id, the record that could be read, 1 if its finished record can be read or 0
-- Reply  per job two characters: r recovered, u unchanged, x still not readable, n not found; and
--        the state
--
-- Invariant: a job leaves `bad` in the step in which it joins the index of its state: its shelf,
-- or the tail of its lane with due time now. Its counts stay; its key is its own again if no other
-- job has it.

local ids, seen, ended = {}, {}, {}
for i = 1, #ARGV, 3 do
  ids[#ids + 1], seen[#seen + 1], ended[#ended + 1] = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1'
end
local records, stored = read('HMGET', JOBS, ids)
local fins, atts = read('HMGET', FIN, ids), read('HMGET', ATT, ids)
local states = states_of(ids)
local left, new_atts, new_keys, unfinished, parked = {}, {}, {}, {}, {}

local function leave_quarantine(id)
  local pair = call('HGET', WHENCE, id)
  if pair and string.find(pair, '^[a-z0-9_.-]+/[a-z0-9_.-]+$') then
    tally(pair .. '/quarantined', -1)
  end
  left[#left + 1] = id
  left[id] = true
end

-- Back to the shelf of its finished record.
local function shelve_again(i, id, class)
  local record, state = records[i], byte(fins[i], 1)
  local finished_ms = struct.unpack('>I6', fins[i], 3)
  local key = key_of(record, class)
  local hold_ms = key and state == COMPLETED and class.at_least and hold_end_ms(record, class) or 0
  tally(field_of(class, state), 1)
  if hold_ms > finished_ms and hold_ms > now then
    put_on_shelf('held:' .. class.queue, hold_ms, { id })
  else
    local shelf, expiry = retention_of(class, state, finished_ms)
    put_on_shelf(shelf, expiry, { id })
  end
  local holds = state == COMPLETED and not class.live_hold and not (class.at_least and hold_ms <= now)
  if key and holds then new_keys[#new_keys + 1], new_keys[#new_keys + 2] = key, id end
  return 'r' .. state
end

local function make_ready(i, id, class)
  if class.keys then tally_keys(class.keys, 1) end
  local att = parse_att(atts[i]) or new_att(records[i])
  att.due_ms = now
  new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att)
  unfinished[#unfinished + 1] = id
  local key = key_of(records[i], class)
  if key then new_keys[#new_keys + 1], new_keys[#new_keys + 2] = key, id end
  local lane = lane_of(class)
  if lane.sound then
    push_tail(lane, id)
    return 'r' .. READY
  end
  local state = att.failures > 0 and RETRYING or SCHEDULED
  parked[#parked + 1], parked[#parked + 2] = now + PARKED_MS, id
  tally(field_of(class, state), 1)
  return 'r' .. state
end

local function recover(i, id)
  if not records[i] then return 'n0' end
  if left[id] then return 'u' .. READY end
  if states[i] ~= QUARANTINED then return 'u' .. states[i] end
  local class = class_of(records[i])
  if not class or stored[i] ~= seen[i] then return 'x7' end
  leave_quarantine(id)
  if ended[i] and fins[i] and fin_state(fins[i]) ~= QUARANTINED then
    return shelve_again(i, id, class)
  end
  return make_ready(i, id, class)
end

local answers = {}
for i, id in ipairs(ids) do answers[i] = recover(i, id) end
tally_lanes()
local counts = read_tallies()
check_finish(counts)
check_forget()
save_tallies(counts)
each('ZREM', BAD, left)
each('HDEL', WHENCE, left)
each('HSET', ATT, new_atts)
each('HDEL', FIN, unfinished)
each('HDEL', RESULT, unfinished)
for i = 1, #new_keys, 2 do call('HSETNX', IDEM, new_keys[i], new_keys[i + 1]) end
each('ZADD', DUE, parked)
save_finished()
save_lanes()
save_meta()
return concat(answers)
