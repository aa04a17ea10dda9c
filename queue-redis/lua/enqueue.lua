-- T1 and T2: takes jobs in, or finds the jobs that have their id or idempotency key.
--
-- KEYS   the first of the fixed keys, or all 21; with the first alone one that is never there
-- ARGV   number of families of groups; the runs of jobs of one group: the group's number from 1 and
--        how many jobs, 2 bytes each, or nothing if each of several jobs has a group of its own, in
--        order; of each limit key how many jobs have it, 2 bytes; per family:
--        queue, kind, priority, when ("n" now, "d" after, "a" at), milliseconds of that, flags ("e"
--        existing, "r" reject or "p" replace, then "k" if its jobs have keys, "b" if their bodies are
--        apart, "l" if they have limit keys), how many groups it has, which differ in their limit
--        keys only, and if they have some, per group the key of its lane (lanes.lua). Then the
--        limit keys, each once; the ids of all; per job its record, its body if that is apart, and its key if
--        it has one; and the time that the records have, as of when they were sent (times.lua)
-- Reply  one letter per job (S scheduled, R ready, s and r the same and it replaced another,
--        D duplicate, I and K conflict of id and key, X rejected, F full) and now, then per D its id and
--        state byte, per replaced job and conflict its id, per F now, what is full and how often jobs
--        of its queue start (starts.lua), as one string each; the first string alone if nothing follows
--
-- Invariant: a job is written with its body, its ticket or its due time, its key and its counters,
-- or not at all (what a user without a permission has begun is taken back); a job whose lane cannot
-- be written waits in `due`; a duplicate is counted in META so that a later WAIT covers the first
-- enqueue. A job that is replaced is cancelled in the same step, and its key goes straight to the new
-- one.

local ids, heads, owners, keys, asked_keys = {}, {}, {}, {}, {}
local bodies = {} -- number of a job → its body, if that is apart
local groups = {}
local replaces = false -- whether a job may take the place of another
local at = 4

local function read_family()
  local queue, kind, priority, when, ms, flags, size = unpack(ARGV, at, at + 6)
  at = at + 7
  local due_ms = now
  if when == 'd' then due_ms = min(now + ms, TIME_MAX) end
  if when == 'a' then due_ms = min(max(tonumber(ms), now), TIME_MAX) end
  local pair, its_times = queue .. '/' .. kind, times -- nil: those that its records have
  -- A key may be held for a time from now on, not from when its job was sent.
  if when ~= 'n' or string.find(flags, 'k', 2, true) then its_times = pack('>I6I6', now, due_ms) end
  local has_keys = string.find(flags, 'l', 2, true)
  for _ = 1, tonumber(size) do
    local index, keys_ = priority, nil
    if has_keys then
      index = sub(ARGV[at], #PREFIX + #pair + 7) -- behind "lane:" and "/"
      keys_ = split_keys(sub(index, 3))
      at = at + 1
    end
    groups[#groups + 1] = {
      class = {
        queue = queue, pair = pair, lane = pair .. '/' .. index, priority = priority, index = index,
        keys = keys_,
      },
      due_ms = due_ms,
      reject = sub(flags, 1, 1) == 'r',
      replace = sub(flags, 1, 1) == 'p',
      keyed = string.find(flags, 'k', 2, true),
      apart = string.find(flags, 'b', 2, true),
      times = its_times,
    }
  end
end

for _ = 1, tonumber(ARGV[1]) do read_family() end
at = at - 1 + #ARGV[3] / 2
local count = 0
for i = 1, #ARGV[2], 4 do
  local group, length = struct.unpack('>HH', ARGV[2], i)
  for _ = 1, length do
    count = count + 1
    owners[count] = groups[group]
    ids[count] = ARGV[at + count]
  end
end
if count == 0 then
  count, owners = #groups, groups
  for i = 1, count do ids[i] = ARGV[at + i] end
end
at = at + count + 1
for i, group in ipairs(owners) do
  heads[i] = ARGV[at]
  at = at + 1
  if group.apart then
    bodies[i] = ARGV[at]
    at = at + 1
  end
  if group.keyed then
    replaces = replaces or group.replace
    keys[i] = ARGV[at]
    asked_keys[#asked_keys + 1] = ARGV[at]
    at = at + 1
  end
end

-- The record of the `i`th job, as it is stored. Brief ones are of jobs that are due at once.
local function record_of(i)
  local record, its_times = heads[i], owners[i].times
  if not its_times then return record end
  if byte(record) > 4 then return sub(record, 1, 1) .. sub(its_times, 1, 6) .. sub(record, 8) end
  return sub(record, 1, 1) .. its_times .. sub(record, 14)
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

local state_of = {} -- id → state, of jobs of this call, and of others once they are asked for
-- The states of the jobs that may give way: those to be replaced, and those whose hold is over.
local asked = {}
for _, id in pairs(holders) do
  local class = records[id] and class_of(records[id])
  if class and (replaces or class.at_least and hold_end_ms(records[id], class) <= now) then
    asked[#asked + 1] = id
  end
end
for i, state in ipairs((states_of(asked))) do state_of[asked[i]] = state end

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
  local a, b = records[id], whole_record(record_of(i))
  local class_a, from_a = class_of(a)
  local class_b, from_b = class_of(b)
  if not class_a or not class_b or byte(a, 20) ~= byte(b, 20) then return false end
  local kind_a, kind_b = class_a.pair:match('/(.*)'), class_b.pair:match('/(.*)')
  local length = payload_bytes(a)
  if kind_a ~= kind_b or length ~= payload_bytes(b) then return false end
  local body_a, body_b = body_of(id, a, class_a, from_a), bodies[i] or sub(b, from_b + 1)
  return body_a == body_b or sub(body_a, 1, length) == sub(body_b, 1, length)
end

local letters, met, met_states = {}, {}, {}
local duplicates, duplicate_count = {}, 0 -- the first: places in `met` whose state is to be read
local made = {} -- ids of jobs of this call
local written, written_bodies, keyed = {}, {}, {}

-- The job that has the key, if one has. It has not if it cannot be read or does not say so, or if it is completed and
-- the time of its hold is over.
local function holder_of(key)
  local id = key and holders[key]
  local record = id and records[id]
  local class = record and class_of(record)
  if not class or key_of(record, class) ~= key then return nil end
  local is_over = state_of[id] == COMPLETED
    and class.at_least
    and hold_end_ms(record, class) <= now
  if not is_over then return id, class end
end

-- Takes an entry of `width` elements out of a list, from its end, if `id` is its `nth` element.
local function take_out(list, width, nth, id)
  for at_ = #list - width + 1, 1, -width do
    if list[at_ + nth - 1] == id then
      for _ = 1, width do table.remove(list, at_) end
      return
    end
  end
end

local full, count_live
if limited then
  full, count_live = make_admission()
end

-- Cancels a waiting job for another that takes its key.
local function give_way(id, class)
  if count_live then count_live(class, -1) end
  local state = state_of[id]
  if not made[id] then
    unlist(id, class, state)
  elseif state == READY then
    local lane = lane_of(class)
    take_out(lane.tail, 1, 1, id)
    lane.live = lane.live - 1
    lane.by = lane.by - 1
  else
    take_out(waiting, 2, 2, id)
    tally(class.pair .. '/scheduled', -1)
  end
  local record = records[id]
  local is_kept = finish(id, record, class, CANCELLED, 0)
  freed_keys[#freed_keys], freed_owners[#freed_owners] = nil, nil -- the new job has it at once
  state_of[id] = CANCELLED
  if is_kept then return end
  records[id], known_bodies[id] = nil, nil
  if made[id] then
    made[id] = nil
    take_out(dropped_jobs, 1, 1, id)
    take_out(dropped_bodies, 1, 1, id)
    take_out(written, 2, 1, id)
    take_out(written_bodies, 2, 1, id)
  end
end

local function meet(i, id, letter)
  if not is_same_work(id, i) then
    letters[i], met[#met + 1] = letter, id
  elseif owners[i].reject then
    letters[i], met[#met + 1] = 'X', id
  else
    letters[i], met[#met + 1] = 'D', id
    met_states[#met] = state_of[id] or false
    if not state_of[id] then duplicates[#duplicates + 1] = #met end
    duplicate_count = duplicate_count + 1
  end
end

local function create(i, id, group, replaced)
  if count_live then count_live(group.class, 1) end
  if group.class.keys then tally_keys(group.class.keys, 1) end
  local record = record_of(i)
  if replaced then met[#met + 1] = replaced end
  written[#written + 1], written[#written + 2] = id, record
  records[id] = whole_record(record)
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
    letters[i], made[id], state_of[id] = replaced and 's' or 'S', true, SCHEDULED
    wait_until(group.due_ms > now and group.due_ms or now + PARKED_MS, id, group.class.pair)
    tally(group.class.pair .. '/scheduled', 1)
  else
    letters[i], made[id], state_of[id] = replaced and 'r' or 'R', true, READY
    push_tail(group.lane, id)
  end
end

for _, group in ipairs(groups) do
  if group.due_ms <= now then group.lane = lane_of(group.class) end
end
for i = 1, count do
  local id = ids[i]
  local holder, class = holder_of(keys[i])
  local holder_state = holder and state_of[holder]
  if records[id] then
    meet(i, id, 'I')
  elseif
    holder
    and (not owners[i].replace or holder_state == RUNNING or holder_state >= COMPLETED)
  then
    meet(i, holder, 'K')
  else
    local why = full and full(owners[i].class, holder and class)
    if why then
      letters[i], met[#met + 1] = 'F', why
    else
      if holder then give_way(holder, class) end
      create(i, id, owners[i], holder)
    end
  end
end

-- A job that is there is where its record says, or it would never run: this call's own must be. Of a long
-- lane only the end is looked at.
local LOOK_MAX = 1000
local function has_place(id, class)
  local key, in_index = PREFIX .. 'lane:' .. class.lane, PREFIX .. 'lanes:' .. class.pair
  local place = try('ZSCORE', in_index, class.index)
  if not place and class.keys then place = try('ZSCORE', PREFIX .. 'parked:' .. class.pair, class.index) end
  if not place or type(place) == 'table' then return false end
  local ticket = try('LPOS', key, id, 'RANK', -1, 'MAXLEN', LOOK_MAX)
  if ticket then return type(ticket) == 'number' end
  local length = try('LLEN', key)
  return type(length) == 'number' and length > LOOK_MAX
end

local older = {}
for n, place in ipairs(duplicates) do older[n] = met[place] end
for n, state in ipairs((states_of(older))) do met_states[duplicates[n]] = state end
local extras, nth = {}, 0
for i = 1, count do
  local letter = letters[i]
  if letter ~= 'S' and letter ~= 'R' then
    nth = nth + 1
    extras[nth] = letter == 'D' and met[nth] .. string.char(met_states[nth]) or met[nth]
    if letter == 'D' and met[nth] == ids[i] and met_states[nth] == READY and not made[ids[i]] then
      local class = class_of(records[ids[i]])
      if not has_place(ids[i], class) then
        return redis.error_reply('LOST ' .. class.lane .. ': the job is ready and not in its lane')
      end
    end
  end
end

tally_lanes()
if #written_bodies > 0 then call('HLEN', BODY) end
local counts = read_tallies()
if replaces then
  check_unlisted()
  check_finish(counts)
end

local is_counted = false
local function save()
  save_tallies(counts)
  is_counted = true
  if replaces then
    save_unlisted()
    save_finished() -- first what is dropped: its id may come again
  end
  each('HSET', JOBS, written)
  each('HSET', BODY, written_bodies)
  each('HSET', IDEM, keyed)
  if keyed[1] then widen(IDEM, 16) end
  save_due()
  save_lanes()
  if replaces then
    for pair in pairs(early) do keeps_wake[pair] = true end
    tidy_unlisted(counts)
    trim_shelves(counts)
  end
  if duplicate_count > 0 then try('HINCRBY', META, 'dup', duplicate_count) end
  save_meta()
end

-- Takes back what there is of new jobs, the record last: one that is nowhere would answer for a job that
-- never runs. Jobs that were to give way have gone.
local function take_back()
  local gone, their_keys = {}, {}
  for i = 1, count do
    local id, class = ids[i], owners[i].class
    if made[id] and state_of[id] <= READY and string.find(letters[i], '[SRsr]') then
      gone[#gone + 1] = id
      their_keys[#their_keys + 1] = keys[i]
      tally(class.pair .. (state_of[id] == READY and '/ready' or '/scheduled'), -1)
      tally_keys(class.keys or {}, -1)
    end
  end
  for _, lane in pairs(lanes) do
    local last = lane.tail[#lane.tail]
    if last and try('LINDEX', lane.key, -1) == last then try('LTRIM', lane.key, 0, -#lane.tail - 1) end
    if last and try('EXISTS', lane.key) == 0 then
      lane.live, lane.gone, lane.parked = 0, 0, lane.parked or lane.park_at
      pcall(save_lane, lane)
    end
  end
  if is_counted then pcall(save_tallies, read_tallies()) end
  for i = 1, #waiting, 2 do try('ZREM', DUE, waiting[i + 1]) end
  for _, key in ipairs(their_keys) do
    if made[try('HGET', IDEM, key)] then try('HDEL', IDEM, key) end
  end
  pcall(each, 'HDEL', BODY, written_bodies[1] and gone or {})
  each('HDEL', JOBS, gone)
end

-- All that may be wrong with keys was found out by reading. Left is what this user may not do (ACL).
local is_saved, why = pcall(save)
if not is_saved then
  pcall(take_back)
  -- Redis' pcall gives the server's errors as strings; raised again they would be a script's own.
  if type(why) == 'string' and string.find(why, '^%u+ ') then return redis.error_reply(why) end
  error(why, 0)
end
if not extras[1] then return concat(letters) .. now_text end
return { concat(letters) .. now_text, unpack(extras) }
