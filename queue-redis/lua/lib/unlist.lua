-- Takes waiting jobs out of their indexes, at a cost that does not depend on how many wait.
--
-- A ready job leaves its ticket behind, counted in `gone:<lane>`; where they pile up some are taken
-- out (compact.lua).

local undue = {}
local emptied = {} -- pairs that lost a waiting job
local keeps_wake = {} -- pairs that another part of the script has just woken
local out_of_reach = {} -- key of a lane, id, …
local gone_counts = {} -- lane → how often each of its new stale tickets is stale already

local function unlist_ready(id, class)
  local lane = lane_of(class)
  lane.by = lane.by - 1
  emptied[class.pair] = true
  if not lane.sound then
    out_of_reach[#out_of_reach + 1], out_of_reach[#out_of_reach + 2] = lane.key, id
    return
  end
  lane.live = lane.live - 1
  lane.gone = lane.gone + 1
  lane.changed = true
  lane.cancelled = lane.cancelled or {}
  lane.cancelled[#lane.cancelled + 1] = id
  stale = stale + 1
end

local function unlist(id, class, state)
  if state == READY then
    unlist_ready(id, class)
  else
    undue[#undue + 1] = id
    tally(field_of(class, state), -1)
    emptied[class.pair] = true
  end
end

-- To be called before the first write.
local function check_unlisted()
  for _, lane in pairs(lanes) do
    if lane.cancelled and lane.live > 0 then
      local key = PREFIX .. 'gone:' .. lane.name
      -- Of a wrong type it was not looked at because no lane had stale tickets: nothing is lost.
      lane.replaces_gone = type(try('HLEN', key)) ~= 'number'
      gone_counts[lane] = lane.replaces_gone and {} or read('HMGET', key, lane.cancelled)
    end
  end
end

-- To be called before `save_lanes`.
local function save_unlisted()
  each('ZREM', DUE, undue)
  for lane, have in pairs(gone_counts) do
    local pairs_ = { 'n', lane.gone }
    for i, id in ipairs(lane.cancelled) do
      pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = id, (tonumber(have[i] or nil) or 0) + 1
    end
    local key = PREFIX .. 'gone:' .. lane.name
    if lane.replaces_gone then call('UNLINK', key) end
    each('HSET', key, pairs_)
  end
  -- A lane whose other keys have a wrong type cannot count a stale ticket, which would come back
  -- to life with the lane. Only such a damaged lane pays with its length.
  for i = 1, #out_of_reach, 2 do try('LREM', out_of_reach[i], 1, out_of_reach[i + 1]) end
end

-- To be called after `save_lanes`; `counts` is what `read_tallies` answered.
local function tidy_unlisted(counts)
  for lane in pairs(gone_counts) do compact_lane(lane) end
  for pair in pairs(emptied) do
    local ready = counts[pair .. '/ready'] or tonumber(call('HGET', COUNT, pair .. '/ready') or nil)
    if (ready or 0) <= 0 and not keeps_wake[pair] then try('DEL', PREFIX .. 'wake:' .. pair) end
  end
end
