-- Lists the lanes of a queue, blocked or not.
--
-- KEYS   21 fixed keys
-- ARGV   the queue, the most lanes
-- Reply  { now, 1 if there are others or 0, how often its jobs start (starts.lua), kind, index
--        (lanes.lua), jobs, turn, for how many ms the first of them could have run, … }
--
-- Invariant: writes nothing.

local queue, most = ARGV[1], tonumber(ARGV[2])
local FIRST_LOOKS = 8 -- tickets of a lane with stale ones in which its first job is looked for
local counts, reply, more = counters_of(queue), { now, 0, starts_of(queue) }, false
local looks = 4 * most -- at limit keys, and at lanes without jobs, too
local tickets = {} -- the first of each lane, by its place in the reply

-- Says of each lane for how long its first job could have run.
local function add_times()
  local known, of_known = {}, {}
  for _, of_lane in pairs(tickets) do
    for _, id in ipairs(of_lane) do known[#known + 1] = id end
  end
  local records = read('HMGET', JOBS, known)
  for i, id in ipairs(known) do
    local class = records[i] and #id == 16 and class_of(records[i])
    if class then of_known[#of_known + 1], of_known[id] = id, records[i] end
  end
  local states, due_of = states_of(of_known), {}
  for i, att in ipairs(read('HMGET', ATT, of_known)) do
    local id = of_known[i]
    local at = parse_att(att) or new_att(of_known[id])
    if states[i] == READY then due_of[id] = at.due_ms end
  end
  for place, of_lane in pairs(tickets) do
    for _, id in ipairs(of_lane) do
      if due_of[id] then
        reply[place] = max(now - due_of[id], 0)
        break
      end
    end
  end
end

-- Adds the lanes of one index.
local function add(kind, name)
  local pair = queue .. '/' .. kind
  local at = 0
  while true do
    local page = try('ZRANGE', PREFIX .. name .. pair, at, at + CHUNK - 1, 'WITHSCORES')
    if page.err then return end
    looks = looks - #page / 2
    if looks < 0 then
      more = true
      return
    end
    for i = 1, #page, 2 do
      local index = page[i]
      local length = string.find(index, '^%d')
        and try('LLEN', PREFIX .. 'lane:' .. pair .. '/' .. index)
      if type(length) == 'number' then
        local gone = stale > 0 and try('HGET', PREFIX .. 'gone:' .. pair .. '/' .. index, 'n')
        local jobs = length - (type(gone) == 'string' and tonumber(gone) or 0)
        if jobs > 0 and #reply >= 5 * most then
          more = true
          return
        end
        if jobs > 0 then
          reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = kind, index, jobs
          reply[#reply + 1], reply[#reply + 2] = tonumber(page[i + 1]) % 2 ^ 48, 0
          local last = jobs < length and FIRST_LOOKS - 1 or 0
          local first = try('LRANGE', PREFIX .. 'lane:' .. pair .. '/' .. index, 0, last)
          tickets[#reply] = first.err and {} or first
        end
      end
    end
    at = at + CHUNK
    if #page < 2 * CHUNK then return end
  end
end

for i = 1, #counts, 2 do
  local of_queue, kind = string.match(counts[i], '^([^/]+)/([^/]+)/ready$')
  if of_queue == queue and not more then
    add(kind, 'lanes:')
    if not more then add(kind, 'parked:') end
  end
end
add_times()
reply[2] = more and 1 or 0
return reply
