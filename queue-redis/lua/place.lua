-- Finds the place of a job in line.
--
-- KEYS   21 fixed keys
-- ARGV   the id, the most jobs of its lane that are looked at, the most lanes
-- Reply  { now } or, of a ready job, { now, jobs ahead, lanes ahead, lanes of its priority, 1 if
--        there may be more or 0, starts of its queue in this span, and in the one before }
--
-- Invariant: writes nothing. Cancelled jobs whose tickets are left may be counted.

local id, jobs_max, lanes_max = ARGV[1], ARGV[2], tonumber(ARGV[3])
local record = #id == 16 and read('HMGET', JOBS, { id })[1]
local class = record and class_of(record)
if not class or states_of({ id })[1] ~= READY then return { now } end

local lane = PREFIX .. 'lane:' .. class.lane
local tickets = try('LPOS', lane, id, 'COUNT', 0, 'MAXLEN', jobs_max)
if tickets.err then return { now } end
local length = call('LLEN', lane)
local more = #tickets == 0 and length > tonumber(jobs_max)
-- The live ticket is the last one.
local ahead = tickets[#tickets] or min(length, tonumber(jobs_max))

local function score_in(name) return try('ZSCORE', PREFIX .. name .. class.pair, class.index) end
local score = score_in('lanes:')
if score == false then score = score_in('parked:') end
local own = type(score) == 'string' and tonumber(score) or class.priority * 2 ^ 48

local lanes_ahead, equals, looks = 0, 0, 0
local function count(pair)
  for _, name in ipairs({ 'lanes:', 'parked:' }) do
    local room = max(lanes_max - looks, 0)
    local page = try('ZRANGE', PREFIX .. name .. pair, 0, room, 'WITHSCORES')
    for i = 1, page.err and 0 or #page, 2 do
      local at = tonumber(page[i + 1])
      if string.find(page[i], '^%d') then
        looks = looks + 1
        if looks > lanes_max then
          more = true
          return
        end
        if at < own then lanes_ahead = lanes_ahead + 1 end
        if floor(at / 2 ^ 48) == class.priority then equals = equals + 1 end
      end
    end
  end
end

local counts = call('HGETALL', COUNT)
for i = 1, #counts, 2 do
  local pair = string.match(counts[i], '^([^/]+/[^/]+)/ready$')
  if pair and string.match(pair, '^[^/]*') == class.queue then count(pair) end
end

local function starts(span)
  local name = PREFIX .. 'starts:' .. string.format('%.0f', floor(now / 30000) - span)
  return tonumber(try('HGET', name, class.queue) or nil) or 0
end
return { now, ahead, lanes_ahead, equals, more and 1 or 0, starts(0), starts(1) }
