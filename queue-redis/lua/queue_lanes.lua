-- Lists the lanes of a queue, blocked or not.
--
-- KEYS   22 fixed keys
-- ARGV   the queue, the most lanes
-- Reply  { 1 if there are others or 0, kind, index (lanes.lua), jobs, … }
--
-- Invariant: writes nothing.

local queue, most = ARGV[1], tonumber(ARGV[2])
local counts, reply, more = call('HGETALL', COUNT), { 0 }, false
local looks = 4 * most -- at limit keys, and at lanes without jobs, too

-- Adds the lanes of one index.
local function add(kind, name)
  local pair = queue .. '/' .. kind
  local at = 0
  while true do
    local page = try('ZRANGE', PREFIX .. name .. pair, at, at + CHUNK - 1)
    if page.err then return end
    looks = looks - #page
    if looks < 0 then
      more = true
      return
    end
    for _, index in ipairs(page) do
      local length = string.find(index, '^%d')
        and try('LLEN', PREFIX .. 'lane:' .. pair .. '/' .. index)
      if type(length) == 'number' then
        local gone = stale > 0 and try('HGET', PREFIX .. 'gone:' .. pair .. '/' .. index, 'n')
        local jobs = length - (type(gone) == 'string' and tonumber(gone) or 0)
        if jobs > 0 and #reply >= 3 * most then
          more = true
          return
        end
        if jobs > 0 then
          reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = kind, index, jobs
        end
      end
    end
    at = at + CHUNK
    if #page < CHUNK then return end
  end
end

for i = 1, #counts, 2 do
  local of_queue, kind = string.match(counts[i], '^([^/]+)/([^/]+)/ready$')
  if of_queue == queue and not more then
    add(kind, 'lanes:')
    if not more then add(kind, 'parked:') end
  end
end
reply[1] = more and 1 or 0
return reply
