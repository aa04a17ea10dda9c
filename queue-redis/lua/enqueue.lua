-- T1 and T2: takes jobs in, or finds the jobs that have their id or idempotency key.
--
-- KEYS   13 fixed keys
-- ARGV   number of groups; per group: queue, kind, priority, when ("n" now, "d" after, "a" at),
--        milliseconds of that, flags ("e" existing or "r" reject, then "k" if its jobs have keys);
--        then per job: its group, id, record without version and times, and the key in a keyed
--        group
-- Reply  one letter per job (S scheduled, R ready, D duplicate, I and K conflict of id and key,
--        X rejected), then per D its id and state byte, per conflict its id, as one string each
--
-- Invariant: a job is written with its ticket or its due time, its key and its counters, or not
-- at all; a duplicate is counted in META so that a later WAIT covers the first enqueue.

local ids, bodies, owners, keys, asked_keys = {}, {}, {}, {}, {}
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
    keyed = sub(flags, 2, 2) == 'k',
    times = pack('>BI6I6', VERSION, now, due_ms),
  }
end

for i = 1, tonumber(ARGV[1]) do groups[i] = read_group() end
local asked = #ARGV
local count = 0
while at <= asked do
  count = count + 1
  local group = groups[tonumber(ARGV[at])]
  owners[count], ids[count], bodies[count] = group, ARGV[at + 1], ARGV[at + 2]
  at = at + 3
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

-- Same kind, codec and payload.
local function is_same_work(a, b)
  local class_a, from_a = class_of(a, 0)
  local class_b, from_b = class_of(b, 0)
  if not class_a or not class_b or byte(a, 20) ~= byte(b, 20) then return false end
  local kind_a, kind_b = class_a.pair:match('/(.*)'), class_b.pair:match('/(.*)')
  local length = payload_bytes(a)
  return kind_a == kind_b
    and length == payload_bytes(b)
    and sub(a, from_a + 1, from_a + length) == sub(b, from_b + 1, from_b + length)
end

local letters, met, duplicates = {}, {}, {}
local made = {} -- id → state, of jobs of this call
local written, keyed = {}, {}

local function meet(i, id, letter)
  local record = owners[i].times .. bodies[i]
  if not is_same_work(records[id], record) then
    letters[i], met[#met + 1] = letter, id
  elseif owners[i].reject then
    letters[i], met[#met + 1] = 'X', id
  else
    letters[i], met[#met + 1] = 'D', id
    duplicates[#duplicates + 1] = id
  end
end

local function create(i, id, group)
  local record = group.times .. bodies[i]
  written[#written + 1], written[#written + 2] = id, record
  records[id] = record
  local key = keys[i]
  if key then
    keyed[#keyed + 1], keyed[#keyed + 2] = key, id
    holders[key] = id
  end
  if group.due_ms > now then
    letters[i], made[id] = 'S', SCHEDULED
    wait_until(group.due_ms, id, group.class.pair)
    tally(group.class.pair .. '/scheduled', 1)
  else
    letters[i], made[id] = 'R', READY
    push_tail(group.lane, id)
  end
end

for _, group in ipairs(groups) do
  if group.due_ms <= now then
    group.lane = lane_of(group.class)
    if not group.lane.sound then
      return redis.error_reply('WRONGTYPE the lane ' .. group.lane.name .. ' is not a list')
    end
  end
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
save_tallies(read_tallies())
each('HSET', JOBS, written)
each('HSET', IDEM, keyed)
save_due()
save_lanes()
if #duplicates > 0 then try('HINCRBY', META, 'dup', #duplicates) end
save_meta()
return { concat(letters), unpack(extras) }
