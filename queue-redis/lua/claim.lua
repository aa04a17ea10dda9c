-- T4: leases jobs that the worker can run, after making due ones ready (T3).
--
-- KEYS   the first of the fixed keys and one that is never there
-- ARGV   claim token, worker, the most jobs, lease in ms, how many jobs a turn of every lane may have if
--        they are short (or 0), number of queues, the queues,
--        then per kind: kind, slots, the limit keys that the worker adds (with commas between),
--        at last the epoch that the claim is made from: data of another one gives nothing
-- Reply  { now_ms, claimed_ms, first fence, more (1), no limits (2) and another epoch (4), next due ms or -1, maintain, epoch,
--          ids that cannot be decoded (joined), places in the claim of a repeat, ids (joined),
--          attempts, bodies, shut, expired, record, record, … }, where a list without elements is
--          nothing; attempts is none or one per job ("" for none), without errors; bodies are those that are apart: number of the job from 1,
--          body, …; shut is "<queue>/<kind>", key, … of jobs that wait for a key that the worker
--          adds; expired is "<queue>/<kind>", count, … of the jobs that this call has made dead
--
-- Invariant: each job that leaves its lane has `run` → token, and the token has its lease, its
-- list of ids and the number of jobs left. A token that holds jobs gets these and no others. The
-- answer's bodies are at most ANSWER_MAX_BYTES or one, so that it arrives, and so does a repeat.
-- Paused queues are passed over. A lane that is found without room leaves the index for one of the
-- keys that have none: no claim meets it again until that key has room.
--
-- This is how it begins, and the whole of a repeat. What follows is in claim/: take.lua, views.lua, serve.lua
-- and save.lua.

local BURIED_MAX, STALE_MAX, PROMOTED_MAX = 500, 500, 500
local PARKED_MAX = 128 -- lanes that one call parks
local token, worker, most, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function maintain_needed()
  local function reached(key)
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    return first[2] and tonumber(first[2]) <= now
  end
  return (reached(LEASES) or reached(AGES)) and 1 or 0
end

-- The bodies of these jobs, as the answer has them.
local function read_bodies(ids, numbers)
  local bodies = {}
  for i, body in ipairs(read('HMGET', BODY, ids)) do
    bodies[2 * i - 1], bodies[2 * i] = numbers[i], body or ''
  end
  return bodies
end

local att_count
local function has_atts()
  att_count = att_count or call('HLEN', ATT)
  return att_count > 0
end

local shut = {} -- see the reply
local spare = false -- whether nobody waits for the places of what is claimed
local expired_of -- by queue and kind, once this call has made jobs dead

local function answer(
  claimed_ms, first_fence, more, due_ms, room_ms, maintain, offsets, ids, records, bodies
)
  if due_ms and due_ms <= now or is_tidy_due then maintain = 1 end
  local next_ms = min(due_ms or TIME_MAX + 1, room_ms or TIME_MAX + 1)
  local next_due = next_ms <= TIME_MAX and max(next_ms - now, 0) or -1
  local atts = {}
  if #ids > 0 and has_atts() then
    for i, att in ipairs(read('HMGET', ATT, ids)) do
      atts[i] = att and sub(att, 1, ATT_BYTES) or ''
    end
  end
  local reply = {
    now, claimed_ms, first_fence, (more and 1 or 0) + (spare and 2 or 0), next_due, maintain, epoch,
    concat(new_bad), concat(offsets, ','), concat(ids), atts[1] and atts or false,
    bodies[1] and bodies or false, shut[1] and shut or false, expired_of and {} or false,
  }
  for pair, count in pairs(expired_of or {}) do
    table.insert(reply[14], pair)
    table.insert(reply[14], count)
  end
  for i = 1, #records do reply[14 + i] = records[i] end
  return reply
end

local packed = call('HGET', CLAIMS, token)
if is_claim(packed) then
  local _, claimed_ms, first_fence = struct.unpack('>BI6I8', packed)
  local all = ids_of(packed)
  local offsets, ids = {}, {}
  for i, run in ipairs(read('HMGET', RUN, all)) do
    if run and sub(run, 1, 16) == token then
      offsets[#offsets + 1], ids[#ids + 1] = i - 1, all[i]
    end
  end
  local records, stored = read('HMGET', JOBS, ids)
  local body_ids, numbers = {}, {}
  for i, record in ipairs(records) do
    local class = record and class_of(record)
    if class and class.apart then body_ids[#body_ids + 1], numbers[#numbers + 1] = ids[i], i end
  end
  local bodies = read_bodies(body_ids, numbers)
  local due_ms = next_due_ms()
  -- Nobody was there to renew it: its answer was lost.
  local ends = tonumber(call('ZSCORE', LEASES, token) or 0)
  call('ZADD', LEASES, max(ends, min(now + lease_ms, TIME_MAX)), token)
  save_meta()
  local maintain = maintain_needed()
  -- A repeat looks at no lanes: the worker is to ask again, who knows what waits for room.
  return answer(
    claimed_ms, first_fence, false, due_ms, limited and now, maintain, offsets, ids, stored, bodies
  )
end

-- Neither a new claim nor the burial of an expired job changes this.
local maintain = maintain_needed()
local _, more, due_ms = promote(PROMOTED_MAX)
local more_keys = look_at_keys()

