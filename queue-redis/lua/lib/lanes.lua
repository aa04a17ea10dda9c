-- Lanes of ready jobs, planned in memory and written once by `save_lanes`.
--
-- A lane is a list of tickets (ids). A job that is cancelled while ready leaves its ticket behind:
-- `gone:<lane>` counts those, per id and all together (field "n"), and `stale` in META counts them
-- over all lanes, so that nothing is looked up while there are none. A stale ticket is always
-- ahead of a live one of the same id. A lane without live jobs is removed with all it holds.
--
-- A lane is called `<queue>/<kind>/<index>`; the index is the priority, and for jobs with limit
-- keys `<priority>/<keys>`. Its place is in `lanes:<queue>/<kind>` or, while it is *parked* at a key
-- of its own that has no room, in `parked:<queue>/<kind>` and `waits:<queue>/<kind>:<key>`, always
-- with priority * 2^48 + turn. A key with room at which lanes are parked is in `lanes:…` itself, as
-- "@" and the key, with the score of the first of them (or less): claims thus meet everything that
-- may run in the order of turns, and nothing that may not.

-- A ready job whose lane cannot be written waits this long in `due`, and then tries again.
local PARKED_MS = 60000

local lanes = {}

-- The lane of a class; `sound` is false if one of its keys has a wrong type.
local function lane_of(class)
  local name = class.lane
  local lane = lanes[name]
  if lane then return lane end
  local key = PREFIX .. 'lane:' .. name
  local length = try('LLEN', key)
  -- A claim has read the index already.
  local score = class.indexed or try('ZSCORE', PREFIX .. 'lanes:' .. class.pair, class.index)
  local parked = class.parked
  if class.keys and score == false then
    score = try('ZSCORE', PREFIX .. 'parked:' .. class.pair, class.index)
    parked = score and true
  end
  local gone = stale > 0 and try('HGET', PREFIX .. 'gone:' .. name, 'n') or '0'
  local sound = type(length) == 'number' and type(score) ~= 'table' and type(gone) ~= 'table'
  gone = sound and tonumber(gone) or 0
  lane = {
    name = name,
    key = key,
    pair = class.pair,
    ready = class.pair .. '/ready',
    priority = class.priority,
    index = class.index,
    keys = class.keys,
    parked = parked, -- where: its key, or true if that is not known
    sound = sound,
    indexed = score,
    live = sound and length - gone or 0,
    gone = gone,
    passed = 0, -- tickets at the head that are used up
    by = 0, -- how many ready jobs more than before
    head = {},
    tail = {},
  }
  lanes[name] = lane
  return lane
end

local function push(lane, ids, id)
  -- A lane that has lost its place in the index gets one.
  if lane.live <= 0 or not (lane.indexed or lane.turn) then
    turn = turn + 1
    lane.turn = turn
  end
  lane.live = lane.live + 1
  lane.by = lane.by + 1
  lane.changed = true
  lane.pushed = true
  ids[#ids + 1] = id
end

local function push_head(lane, id) push(lane, lane.head, id) end
local function push_tail(lane, id) push(lane, lane.tail, id) end

local function tally_lanes()
  for _, lane in pairs(lanes) do
    if lane.by ~= 0 then tally(lane.ready, lane.by) end
  end
end

-- Writes the place of a lane with limit keys: `park_at` is the key at which it is parked now, and
-- `parked` the one before, or true if that is not known.
local function save_place(lane)
  local pair, index, is_gone = lane.pair, lane.index, lane.live <= 0
  local lanes_key, parked_key = PREFIX .. 'lanes:' .. pair, PREFIX .. 'parked:' .. pair
  local is_moved = is_gone or lane.park_at ~= lane.parked and (lane.park_at or lane.turn)
  if lane.parked and is_moved then
    for _, key in ipairs(lane.parked == true and lane.keys or { lane.parked }) do
      local waits = PREFIX .. 'waits:' .. pair .. ':' .. key
      if try('ZREM', waits, index) == 1 and try('EXISTS', waits) == 0 then
        try('ZREM', lanes_key, '@' .. key)
      end
    end
    try('ZREM', parked_key, index)
  end
  if is_gone or lane.park_at and not lane.parked then try('ZREM', lanes_key, index) end
  if is_gone then return end
  local score = lane.turn and lane.priority * 2 ^ 48 + lane.turn or tonumber(lane.indexed)
  if lane.park_at then
    local waits = PREFIX .. 'waits:' .. pair .. ':' .. lane.park_at
    if type(try('ZADD', waits, score, index)) == 'table' then
      replace_waits(waits)
      try('ZADD', waits, score, index)
    end
    if type(try('ZADD', parked_key, score, index)) == 'table' then
      try('UNLINK', parked_key) -- of a wrong type: those that wait are found by their keys
      try('ZADD', parked_key, score, index)
    end
  elseif lane.turn then
    call('ZADD', lanes_key, score, index)
  end
end

local function save_lane(lane)
  local index = PREFIX .. 'lanes:' .. lane.pair
  if lane.live <= 0 then
    call('UNLINK', lane.key, PREFIX .. 'gone:' .. lane.name)
    if not lane.keys then call('ZREM', index, lane.index) end
    stale = stale - lane.gone
  else
    if lane.passed > 0 then call('LTRIM', lane.key, lane.passed, -1) end
    each('RPUSH', lane.key, lane.tail)
    each('LPUSH', lane.key, lane.head)
    if lane.turn and not lane.keys then
      call('ZADD', index, lane.priority * 2 ^ 48 + lane.turn, lane.index)
    end
  end
  if lane.keys then save_place(lane) end
end

-- New lanes of keys that are known to have no room are parked at once, and nobody is woken for
-- them: lanes of the same queue and kind wait there, and claims are not shown the key. Whoever gives
-- it room looks at all that wait.
local function park_new()
  local names, new = {}, {}
  for _, lane in pairs(lanes) do
    if lane.keys and lane.pushed and lane.turn and not lane.indexed and lane.live > 0 then
      new[#new + 1] = lane
      for _, key in ipairs(lane.keys) do names[#names + 1] = key end
    end
  end
  local states = {}
  for i = 1, #names, CHUNK do
    local last = min(i + CHUNK - 1, #names)
    for j, bytes in ipairs(try('HMGET', PREFIX .. 'limited', unpack(names, i, last))) do
      states[names[i + j - 1]] = bytes
    end
  end
  for _, lane in ipairs(new) do
    for _, key in ipairs(lane.keys) do
      if
        states[key] and tells_of(states[key], lane.pair)
        and try('ZSCORE', PREFIX .. 'lanes:' .. lane.pair, '@' .. key) == false
        and try('EXISTS', PREFIX .. 'waits:' .. lane.pair .. ':' .. key) == 1
      then
        lane.park_at = key
        break
      end
    end
  end
end

-- Writes every lane that changed and wakes workers for those that got jobs.
local function save_lanes()
  local woken = {}
  if limited then park_new() end
  for _, lane in pairs(lanes) do
    if lane.changed then
      save_lane(lane)
      local may_run = not lane.park_at and (lane.turn or not lane.parked)
      if lane.pushed and lane.live > 0 and may_run and not woken[lane.pair] then
        woken[lane.pair] = true
        wake(lane.pair)
      end
    end
  end
  lanes = {}
end
