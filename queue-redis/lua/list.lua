-- Lists jobs by state, a page at a time.
--
-- KEYS   21 fixed keys
-- ARGV   number of the state, queue or "", kind or "", the most jobs, then where to go on: of ready
--        jobs queue/kind, 0 or 1 if its lane is parked, its score, place in the lane; of waiting and quarantined ones due time
--        and id; of running ones end of the lease, token, place in the claim; of finished ones
--        shelf, expiry, first id of the entry, how many of its ids are left
-- Reply  { now, where to go on, quarantined ids (joined), { id, head, attempts or "", finished record
--        without its result or "" }, … }; of a record that cannot be read the whole instead
--        of the head
--
-- Invariant: writes nothing, and looks at no more than about LOOKS_MAX jobs. While nothing changes,
-- going on to the end gives every job once.

local LOOKS_MAX, PAGE_MAX_BYTES = 500, 1024 * 1024
local FROM_END_MAX = 1000 -- tickets that are looked at to find a live one
local state, queue, kind, limit = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local from = {}
for i = 5, #ARGV do from[i - 4] = ARGV[i] end

local jobs, page_bytes, looks = {}, 0, 0

local function is_full() return #jobs >= limit or page_bytes >= PAGE_MAX_BYTES end

local function fits(class)
  return (queue == '' or class.queue == queue)
    and (kind == '' or sub(class.pair, #class.queue + 2) == kind)
end

-- Puts those of these jobs on the page that are in the state asked for; answers how many it has
-- looked at before the page was full. `accept(i, class)` may refuse one.
local function consider(ids, accept)
  local records, stored = read('HMGET', JOBS, ids)
  local states = states_of(ids)
  local atts, fins = read('HMGET', ATT, ids), read('HMGET', FIN, ids)
  for i, id in ipairs(ids) do
    if is_full() then return i - 1 end
    looks = looks + 1
    if #id == 16 and records[i] and states[i] == state then
      local class, head_bytes = class_of(records[i])
      if (not class or fits(class)) and (not accept or accept(i, class)) then
        local head = class and sub(records[i], 1, head_bytes) or stored[i]
        local fin = fins[i] and sub(fins[i], 1, 30) or ''
        jobs[#jobs + 1] = { id, head, atts[i] or '', fin }
        page_bytes = page_bytes + #head + #(atts[i] or '')
      end
    end
  end
  return #ids
end

local function is_over() return is_full() or looks >= LOOKS_MAX end

-- How many members of a zset come before (score, text); members count by their first 16 bytes.
-- With `also_equal`, that very one counts, too.
local function rank_of(key, score, text, also_equal)
  local low = call('ZCOUNT', key, '-inf', '(' .. score)
  local high = call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = floor((low + high) / 2)
    local member = sub(call('ZRANGE', key, middle, middle)[1], 1, 16)
    if is_before(member, text) or also_equal and member == text then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- A page of a zset of ids; answers where the next one begins.
local function list_by_time(key, look)
  local rank = from[1] and rank_of(key, from[1], from[2], true) or 0
  local page = call('ZRANGE', key, rank, rank + LOOKS_MAX - 1, 'WITHSCORES')
  local ids = {}
  for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
  local count = look(ids)
  if count == 0 or count == #ids and #ids < LOOKS_MAX then return {} end
  return { page[2 * count], page[2 * count - 1] }
end

-- Whether the job of the ticket at `place` is in the lane there: it is a job of this lane, and its
-- live ticket is the last one.
-- Of a ticket too far from the end nobody can say that in bounded work; its job is then listed with
-- each of its tickets, so that none is missed.
local function live_tickets(lane, tickets, place)
  local gone = stale > 0 and read('HMGET', PREFIX .. 'gone:' .. lane, tickets) or {}
  return function(i, class)
    if (tonumber(gone[i] or nil) or 0) == 0 then return true end
    if class and class.lane ~= lane then return false end
    local key = PREFIX .. 'lane:' .. lane
    local last = call('LPOS', key, tickets[i], 'RANK', -1, 'MAXLEN', FROM_END_MAX)
    return not last or last == place + i - 1
  end
end

-- A page of a lane; answers the place where the next one begins, or nil at its end.
local function list_lane(pair, index, place)
  local lane = pair .. '/' .. index
  while true do
    local wanted = min(limit - #jobs, LOOKS_MAX - looks)
    local tickets = try('LRANGE', PREFIX .. 'lane:' .. lane, place, place + wanted - 1)
    if tickets.err or #tickets == 0 then return nil end
    place = place + consider(tickets, live_tickets(lane, tickets, place))
    if is_over() then return place end
  end
end

-- Whether names can be compared by Lua itself, which follows the server's locale.
local is_plain = 'a-c' < 'ab' and 'a.c' < 'ab' and 'a/c' < 'ab' and 'a_b' < 'aa' and 'a1' < 'aa'
local name_before = is_plain and function(a, b) return a < b end or is_before

local function ready_pairs()
  if queue ~= '' and kind ~= '' then return { queue .. '/' .. kind } end
  local counts, pairs_ = queue ~= '' and counters_of(queue) or call('HGETALL', COUNT), {}
  for i = 1, #counts, 2 do
    local of_queue, of_kind = string.match(counts[i], '^([^/]+)/([^/]+)/ready$')
    if of_kind and (queue == '' or of_queue == queue) and (kind == '' or of_kind == kind) then
      local pair = of_queue .. '/' .. of_kind
      if not (from[1] and name_before(pair, from[1])) then pairs_[#pairs_ + 1] = pair end
    end
  end
  table.sort(pairs_, name_before)
  return pairs_
end

-- The lanes of one index, those of `queue` and `kind` that are open (0) or parked (1), from a score
-- on; of the first of them from a place on.
local function list_index(pair, number, from_score, from_place)
  local key = PREFIX .. (number == '0' and 'lanes:' or 'parked:') .. pair
  local at = 0
  while true do
    local page =
      try('ZRANGE', key, from_score, '+inf', 'BYSCORE', 'LIMIT', at, LOOKS_MAX, 'WITHSCORES')
    if page.err then return nil end
    for i = 1, #page, 2 do
      local index, score = page[i], page[i + 1]
      if string.find(index, '^%d') then
        looks = looks + 1
        local place = score == from_score and from_place or 0
        if not is_over() then place = list_lane(pair, index, place) end
        if place then return { pair, number, score, tostring(place) } end
      end
    end
    if #page < 2 * LOOKS_MAX then return nil end
    at = at + LOOKS_MAX
  end
end

local function list_ready()
  for _, pair in ipairs(ready_pairs()) do
    local of_queue, of_kind = string.match(pair, '^([^/]+)/([^/]+)$')
    if (queue == '' or of_queue == queue) and (kind == '' or of_kind == kind) then
      local goes_on = pair == from[1]
      for _, number in ipairs({ '0', '1' }) do
        if not goes_on or number >= from[2] then
          local is_first = goes_on and number == from[2]
          local next_place =
            list_index(pair, number, is_first and from[3] or '0', is_first and tonumber(from[4]) or 0)
          if next_place then return next_place end
        end
      end
    end
  end
  return {}
end

-- Running jobs by the ends of their leases. A renewal moves a lease on: it may be met again, but
-- is not missed.
local function list_running()
  local rank = from[1] and rank_of(LEASES, from[1], from[2], false) or 0
  while true do
    local lease = call('ZRANGE', LEASES, rank, rank, 'WITHSCORES')
    local token, ends = lease[1], lease[2]
    if not token then return {} end
    local place = token == from[2] and ends == from[1] and tonumber(from[3]) or 0
    local packed = call('HGET', CLAIMS, token)
    local ids = is_claim(packed) and ids_of(packed) or {}
    local rest = {}
    for i = place + 1, #ids do rest[#rest + 1] = ids[i] end
    local runs = read('HMGET', RUN, rest)
    looks = looks + 1
    place = place + consider(rest, function(i) return runs[i] and sub(runs[i], 1, 16) == token end)
    if is_over() and #token == 16 then return { ends, token, tostring(place) } end
    rank = rank + 1
  end
end

local SHELVES_OF = {
  [COMPLETED] = { done = true, held = true },
  [CANCELLED] = { void = true },
  [DEAD] = { dead = true },
}

local function shelf_names()
  local names, wanted = {}, SHELVES_OF[state]
  for _, name in ipairs(call('ZRANGE', AGES, 0, -1)) do
    if wanted[sub(name, 1, 4)] and (queue == '' or sub(name, 6) == queue) then
      names[#names + 1] = name
    end
  end
  table.sort(names, is_before)
  return names
end

-- The entries of a shelf from the last, each from its end.
local function list_shelf(shelf, goes_on)
  local key = PREFIX .. shelf
  local size = try('ZCARD', key)
  if type(size) ~= 'number' then return nil end
  local rank = (goes_on and rank_of(key, from[2], from[3], true) or size) - 1
  while rank >= 0 do
    local entry = call('ZRANGE', key, rank, rank, 'WITHSCORES')
    local ids, expiry = ids_of_entry(entry[1]), entry[2]
    local left = #ids
    if goes_on and expiry == from[2] and ids[1] == from[3] then left = min(left, tonumber(from[4])) end
    local backwards = {}
    for i = left, 1, -1 do backwards[#backwards + 1] = ids[i] end
    looks = looks + 1
    left = left - consider(backwards)
    if is_over() and ids[1] then return { shelf, expiry, ids[1], tostring(left) } end
    rank = rank - 1
  end
end

local function list_finished()
  for _, shelf in ipairs(shelf_names()) do
    if not from[1] or not is_before(shelf, from[1]) then
      local next_place = list_shelf(shelf, shelf == from[1])
      if next_place then return next_place end
    end
  end
  return {}
end

local bad = {}
local function look_at_quarantined(ids)
  for i, pair in ipairs(read('HMGET', WHENCE, ids)) do
    if #bad >= limit then return i - 1 end
    local of_queue, of_kind = string.match(pair or '', '^([^/]+)/([^/]+)$')
    local fits_ = not of_queue
      or (queue == '' or of_queue == queue) and (kind == '' or of_kind == kind)
    if fits_ and #ids[i] == 16 then bad[#bad + 1] = ids[i] end
  end
  return #ids
end

local next_place
if state == READY then
  next_place = list_ready()
elseif state == SCHEDULED or state == RETRYING then
  next_place = list_by_time(DUE, consider)
elseif state == RUNNING then
  next_place = list_running()
elseif state == QUARANTINED then
  next_place = list_by_time(BAD, look_at_quarantined)
else
  next_place = list_finished()
end
return { now, next_place, concat(bad), unpack(jobs) }
