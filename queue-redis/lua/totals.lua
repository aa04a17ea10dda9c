-- Compares counters with the sizes of what they count, for the audit.
--
-- KEYS   21 fixed keys
-- ARGV   "sums" and the lanes that are known; or "pairs" and queues with kinds, as in the
--        counters; or "shelves", the most entries of one to be counted, and names of shelves
-- Reply  of "sums": { how many jobs run, wait, have finished, are quarantined; of the finished and
--        the quarantined ones how many are to be counted, or nil if that is not known; how many
--        stale tickets lanes have, how many are noted; the counters };
--        of "pairs": per pair how many jobs are ready by its lanes or nil if one is damaged, how
--        many by its counter, the type of its index and what it has of lanes without limit keys,
--        and those lanes that are there: priority, type, type of its stale tickets, …;
--        of "shelves": per shelf its type, its soonest expiry, what `ages` says, how many records
--        it has or nil if it has too many entries, and how many its counter says
--
-- Invariant: writes nothing; what it compares is of one instant.

local QUARANTINED_MAX = 500
local LANES_MAX = 499 -- of one index: of a pair with more, the ready jobs are not counted at one instant
local what = ARGV[1]

local function type_of(key) return call('TYPE', key).ok end

-- Of quarantined jobs, how many have finished, and how many are counted; nil if they are many.
local function uncounted(size)
  if size > QUARANTINED_MAX then return false, false end
  local ids, ended, counted = call('ZRANGE', BAD, 0, QUARANTINED_MAX - 1), 0, 0
  for i, fin in ipairs(read('HMGET', FIN, ids)) do
    if fin then ended = ended + 1 end
  end
  for i, pair in ipairs(read('HMGET', WHENCE, ids)) do
    if pair and pair ~= '' then counted = counted + 1 end
  end
  return ended, counted
end

local function sums()
  local total, seen = 0, {}
  local function count(lane)
    if not seen[lane] then
      seen[lane] = true
      local noted = try('HGET', PREFIX .. 'gone:' .. lane, 'n')
      total = total + (type(noted) == 'string' and tonumber(noted) or 0)
    end
  end
  for i = 2, #ARGV do count(ARGV[i]) end
  local counts = counters()
  for i = 1, #counts, 2 do
    local pair = string.match(counts[i], '^([^/]+/[^/]+)/ready$')
    for _, index in ipairs(pair and { 'lanes:', 'parked:' } or {}) do
      local members = try('ZRANGE', PREFIX .. index .. pair, 0, LANES_MAX - 1)
      for _, member in ipairs(members.err and {} or members) do
        if string.find(member, '^%d') then count(pair .. '/' .. member) end
      end
    end
  end
  local sizes = { call('HLEN', RUN), call('ZCARD', DUE), call('HLEN', FIN), call('ZCARD', BAD) }
  local ended, counted = uncounted(sizes[4])
  return {
    sizes[1], sizes[2], sizes[3], sizes[4], ended and sizes[3] - ended, counted, total,
    call('HGET', META, 'stale') or '', counts,
  }
end

local function look_at_pair(pair)
  local live, lanes_ = 0, {}
  for priority = 0, 9 do
    local name = pair .. '/' .. priority
    local list, gone = PREFIX .. 'lane:' .. name, PREFIX .. 'gone:' .. name
    local kind, gone_kind = type_of(list), type_of(gone)
    if kind ~= 'none' or gone_kind ~= 'none' then
      local length = kind == 'list' and call('LLEN', list) or 0
      local noted = gone_kind == 'hash' and call('HGET', gone, 'n') or ''
      for _, value in ipairs({ tostring(priority), kind, gone_kind }) do
        lanes_[#lanes_ + 1] = value
      end
      local is_sound = (kind == 'list' or kind == 'none')
        and (gone_kind == 'hash' or gone_kind == 'none')
      if live and is_sound then
        live = live + length - (tonumber(noted) or 0)
      else
        live = false
      end
    end
  end
  for _, name in ipairs({ 'lanes:', 'parked:' }) do
    local members = try('ZRANGE', PREFIX .. name .. pair, 0, LANES_MAX)
    if #members > LANES_MAX then live = false end
    for _, member in ipairs((members.err or not live) and {} or members) do
      if string.find(member, '^%d/') then
        local length = try('LLEN', PREFIX .. 'lane:' .. pair .. '/' .. member)
        local noted = try('HGET', PREFIX .. 'gone:' .. pair .. '/' .. member, 'n')
        local is_sound = type(length) == 'number' and type(noted) ~= 'table'
        live = live and is_sound and live + length - (tonumber(noted or nil) or 0)
      end
    end
  end
  local index = PREFIX .. 'lanes:' .. pair
  local kind = type_of(index)
  local content = {}
  for priority = 0, 9 do
    local score = kind == 'zset' and call('ZSCORE', index, tostring(priority))
    if score then content[#content + 1], content[#content + 2] = tostring(priority), score end
  end
  return { live, call('HGET', COUNT, pair .. '/ready') or '', kind, content, lanes_ }
end

local function look_at_shelf(shelf, most)
  local key = PREFIX .. shelf
  local kind = type_of(key)
  local soonest, records = '', 0
  if kind == 'zset' then
    soonest = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or ''
    records = false
    if call('ZCARD', key) <= most then
      local bytes = 0
      for _, entry in ipairs(call('ZRANGE', key, 0, -1)) do
        bytes = bytes + read_entry(entry)
      end
      records = bytes / 16
    end
  end
  local noted_ms, counted = call('ZSCORE', AGES, shelf) or '', call('HGET', COUNT, shelf) or ''
  return { kind, soonest, noted_ms, records, counted }
end

if what == 'sums' then return sums() end
local replies = {}
if what == 'pairs' then
  for i = 2, #ARGV do replies[i - 1] = look_at_pair(ARGV[i]) end
else
  for i = 3, #ARGV do replies[i - 2] = look_at_shelf(ARGV[i], tonumber(ARGV[2])) end
end
return replies
