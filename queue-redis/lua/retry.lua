-- T15: makes finished jobs ready again.
--
-- KEYS   21 fixed keys
-- ARGV   1 to keep the counts of attempts or 0, then per job: id, the time in ms at which it was
--        finished
-- Reply  one answer per job as one string: r (ready), u and the state (unchanged), k and the id of
--        the job that has its key, e (expired), n (not found)
--
-- Invariant: a job leaves its shelf and `fin` in the step in which it joins the tail of its lane
-- and takes its key back; its last error, its history and its log stay.

local keeps_counts = ARGV[1] == '1'
local ids, times = {}, {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1], times[#times + 1] = ARGV[i], tonumber(ARGV[i + 1])
end
local records, fins, atts = read('HMGET', JOBS, ids), read('HMGET', FIN, ids), read('HMGET', ATT, ids)
local states, tokens = states_of(ids)
local taken = {} -- key → id, by this call
local retried = {} -- ids
local new_atts, new_keys, parked = {}, {}, {}

-- The job that has a key, unless its hold is over.
local function holder_of(key)
  if taken[key] then return taken[key] end
  local id = call('HGET', IDEM, key)
  local record = id and read('HMGET', JOBS, { id })[1]
  local class = record and class_of(record)
  if not class or key_of(record, class) ~= key then return nil end
  if class.at_least and hold_end_ms(record, class) <= now then
    if states_of({ id })[1] == COMPLETED then return nil end
  end
  return id
end

local function make_ready(i, id, class)
  if class.keys then tally_keys(class.keys, 1) end
  local att = parse_att(atts[i]) or new_att(records[i])
  att.due_ms, att.token = now, tokens[i]
  if not keeps_counts then
    att.failures, att.stalls, att.snoozes = 0, 0, 0
  end
  new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att)
  unshelve(id, records[i], class, fins[i])
  tally(field_of(class, states[i]), -1)
  local lane = lane_of(class)
  if lane.sound then
    push_tail(lane, id)
  else
    parked[#parked + 1], parked[#parked + 2] = now + PARKED_MS, id
    tally(field_of(class, att.failures > 0 and RETRYING or SCHEDULED), 1)
  end
  retried[#retried + 1] = id
end

local function retry(i, id)
  local record, state = records[i], states[i]
  if not record then return 'n' end
  if retried[id] then return 'u' .. READY end
  if state < COMPLETED or state == QUARANTINED then return 'u' .. state end
  if struct.unpack('>I6', fins[i], 3) ~= times[i] then return 'u' .. state end
  local class = class_of(record)
  if not class then return 'u' .. QUARANTINED end
  if class.expires_ms <= now then return 'e' end
  local key = key_of(record, class)
  local holder = key and holder_of(key)
  if holder and holder ~= id then return 'k' .. holder end
  if key then
    taken[key] = id
    new_keys[#new_keys + 1], new_keys[#new_keys + 2] = key, id
  end
  make_ready(i, id, class)
  retried[id] = true
  return 'r'
end

local answers = {}
for i, id in ipairs(ids) do answers[i] = retry(i, id) end
tally_lanes()
call('ZCARD', AGES)
call('HLEN', RESULT)
save_tallies(read_tallies())
save_unshelved()
each('HDEL', FIN, retried)
each('HDEL', RESULT, retried)
each('HSET', ATT, new_atts)
each('HSET', IDEM, new_keys)
each('ZADD', DUE, parked)
save_lanes()
save_meta()
return answers
