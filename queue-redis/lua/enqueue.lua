-- T1 and T2: takes jobs in, or finds the jobs that have their id or idempotency key.
--
-- KEYS   15 fixed keys
-- ARGV   number of groups; per group: queue, kind, priority, when ("n" now, "d" after, "a" at),
--        milliseconds of that, flags ("e" existing or "r" reject, then "k" if its jobs have keys,
--        "b" if their bodies are apart); then per job: its group, id, record without version and
--        times, its body if that is apart, and its key if it has one
-- Reply  one letter per job (S scheduled, R ready, D duplicate, I and K conflict of id and key,
--        X rejected), then per D its id and state byte, per conflict its id, as one string each
--
-- Invariant: a job is written with its body, its ticket or its due time, its key and its counters,
-- or not at all; a job whose lane cannot be written waits in `due`; a duplicate is counted in META so that a later WAIT covers the first enqueue.

local ids, heads, owners, keys, asked_keys = {}, {}, {}, {}, {}
local bodies = {} -- number of a job → its body, if that is apart
local groups = {}
local at = 2

local function read_group()
  local queue, kind, priority, when, ms, flags =
    ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]), ARGV[at + 5]
  at = at + 6
  local due_ms = now
  if when == 'd' then due_ms = min(now + ms, TIME_MAX) end
  if when == 'a' then due_ms = min(max(ms, now), TIME_MAX) end
  local pair = queue .. '/' .. kind
  return {
    class = { queue = queue, pair = pair, lane = pair .. '/' .. priority, priority = priority },
    due_ms = due_ms,
    reject = sub(flags, 1, 1) == 'r',
    keyed = string.find(flags, 'k', 2, true),
    apart = string.find(flags, 'b', 2, true),
    times = pack('>BI6I6', VERSION, now, due_ms),
  }
end

for i = 1, tonumber(ARGV[1]) do groups[i] = read_group() end
local asked = #ARGV
local count = 0
while at <= asked do
  count = count + 1
  local group = groups[tonumber(ARGV[at])]
  owners[count], ids[count], heads[count] = group, ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  if group.apart then
    bodies[count] = ARGV[at]
    at = at + 1
  end
  if group.keyed then
    keys[count] = ARGV[at]
    asked_keys[#asked_keys + 1] = ARGV[at]
    at = at + 1
  end
end

local records = {} -- id → record, of jobs that exist
for i, record in ipairs(read('HMGET', JOBS, ids)) do
  if record then records[ids[i]] = record end
end
local holders, unread = {}, {} -- key → id of the job that holds it
for i, id in ipairs(read('HMGET', IDEM, asked_keys)) do
  if id then
    holders[asked_keys[i]] = id
    if not records[id] then unread[#unread + 1] = id end
  end
end
for i, record in ipairs(read('HMGET', JOBS, unread)) do records[unread[i]] = record or nil end

-- The body of a job that is there, read at most once.
local known_bodies = {}
local function body_of(id, record, class, head_bytes)
  if not class.apart then return sub(record, head_bytes + 1) end
  if known_bodies[id] == nil then known_bodies[id] = call('HGET', BODY, id) end
  return known_bodies[id] or ''
end

-- Whether the job with this id has the kind, codec and payload of the `i`th of this call. Bodies
-- come last: comparing whole ones costs nothing (Lua keeps equal strings once), so only those
-- that differ, perhaps in their options alone, are cut to the payload.
local function is_same_work(id, i)
  local a, b = records[id], owners[i].times .. heads[i]
  local class_a, from_a = class_of(a, 0)
  local class_b, from_b = class_of(b, 0)
  if not class_a or not class_b or byte(a, 20) ~= byte(b, 20) then return false end
  local kind_a, kind_b = class_a.pair:match('/(.*)'), class_b.pair:match('/(.*)')
  local length = payload_bytes(a)
  if kind_a ~= kind_b or length ~= payload_bytes(b) then return false end
  local body_a, body_b = body_of(id, a, class_a, from_a), bodies[i] or sub(b, from_b + 1)
  return body_a == body_b or sub(body_a, 1, length) == sub(body_b, 1, length)
end

local letters, met, duplicates = {}, {}, {}
local made = {} -- id → state, of jobs of this call
local written, written_bodies, keyed = {}, {}, {}

local function meet(i, id, letter)
  if not is_same_work(id, i) then
    letters[i], met[#met + 1] = letter, id
  elseif owners[i].reject then
    letters[i], met[#met + 1] = 'X', id
  else
    letters[i], met[#met + 1] = 'D', id
    duplicates[#duplicates + 1] = id
  end
end

local function create(i, id, group)
  local record = group.times .. heads[i]
  written[#written + 1], written[#written + 2] = id, record
  records[id] = record
  if bodies[i] then
    written_bodies[#written_bodies + 1], written_bodies[#written_bodies + 2] = id, bodies[i]
    known_bodies[id] = bodies[i]
  end
  local key = keys[i]
  if key then
    keyed[#keyed + 1], keyed[#keyed + 2] = key, id
    holders[key] = id
  end
  if group.due_ms > now or not group.lane.sound then
    letters[i], made[id] = 'S', SCHEDULED
    wait_until(group.due_ms > now and group.due_ms or now + PARKED_MS, id, group.class.pair)
    tally(group.class.pair .. '/scheduled', 1)
  else
    letters[i], made[id] = 'R', READY
    push_tail(group.lane, id)
  end
end

for _, group in ipairs(groups) do
  if group.due_ms <= now then group.lane = lane_of(group.class) end
end
for i = 1, count do
  local id, holder = ids[i], keys[i] and holders[keys[i]]
  if records[id] then
    meet(i, id, 'I')
  elseif holder and records[holder] then
    meet(i, holder, 'K')
  else
    create(i, id, owners[i])
  end
end

-- The states of the duplicates: of older jobs by their indexes, of this call's jobs as made.
local older, states = {}, {}
for _, id in ipairs(duplicates) do
  if made[id] then states[id] = made[id] else older[#older + 1] = id end
end
for i, state in ipairs((states_of(older))) do states[older[i]] = state end
local extras, nth = {}, 0
for i = 1, count do
  local letter = letters[i]
  if letter ~= 'S' and letter ~= 'R' then
    nth = nth + 1
    local id = met[nth]
    extras[nth] = letter == 'D' and id .. string.char(states[id]) or id
  end
end

tally_lanes()
if #written_bodies > 0 then call('HLEN', BODY) end
save_tallies(read_tallies())
each('HSET', JOBS, written)
each('HSET', BODY, written_bodies)
each('HSET', IDEM, keyed)
save_due()
save_lanes()
if #duplicates > 0 then try('HINCRBY', META, 'dup', #duplicates) end
save_meta()
return { concat(letters), unpack(extras) }
