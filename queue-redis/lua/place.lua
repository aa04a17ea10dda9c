-- Finds the place of a job in line.
--
-- KEYS   21 fixed keys
-- ARGV   the id, the most tickets of its lane that are looked at
-- Reply  { now } or, of a ready job, { now, jobs ahead, 1 if there may be more or 0, the turn of its lane }
--
-- Invariant: writes nothing.

local id, most = ARGV[1], tonumber(ARGV[2])
local record = #id == 16 and read('HMGET', JOBS, { id })[1]
local class = record and class_of(record)
if not class or states_of({ id })[1] ~= READY then return { now } end

local lane = PREFIX .. 'lane:' .. class.lane
local tickets = try('LPOS', lane, id, 'COUNT', 0, 'MAXLEN', most)
if tickets.err then return { now } end
local length = call('LLEN', lane)
-- The live ticket is the last one.
local ahead = tickets[#tickets] or min(length, most)

-- Stale tickets of an id are before its live one (lanes.lua).
local gone = PREFIX .. 'gone:' .. class.lane
local has_stale = stale > 0 and try('HGET', gone, 'n')
if type(has_stale) == 'string' and ahead > 0 then
  local before = call('LRANGE', lane, 0, ahead - 1)
  local left = {}
  for i, times in ipairs(read('HMGET', gone, before)) do left[before[i]] = tonumber(times or nil) or 0 end
  for _, ticket in ipairs(before) do
    if left[ticket] > 0 then
      left[ticket] = left[ticket] - 1
      ahead = ahead - 1
    end
  end
end

local function score_in(name) return try('ZSCORE', PREFIX .. name .. class.pair, class.index) end
local score = score_in('lanes:')
if score == false then score = score_in('parked:') end
local turn = type(score) == 'string' and tonumber(score) % 2 ^ 48 or 0
return { now, ahead, #tickets == 0 and length > most and 1 or 0, turn }
