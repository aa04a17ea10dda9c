-- Plain enqueues, which are most: no job is there, none has an idempotency key or a body that is
-- apart, all are ready at once, nothing is full or damaged. Answers nothing if that is not so,
-- before anything is written: the whole script (enqueue.lua) does it then. Where both can, both do
-- the same.

local function enqueue_plain()
  local argv = ARGV
  local groups, group_count, at = {}, tonumber(argv[1]), 2
  local lanes, by_name = {}, {}
  local pairs_, queues = {}, {} -- by name: jobs that they get
  if stale > 0 then return nil end
  for i = 1, group_count do
    local flags = argv[at + 5]
    if argv[at + 3] ~= 'n' or not string.find(flags, '^[erp]l?$') then return nil end
    local pair, index, keys = argv[at] .. '/' .. argv[at + 1], argv[at + 2], nil
    if #flags == 2 then
      keys = argv[at + 6]
      index = index .. '/' .. keys
    end
    local name = pair .. '/' .. index
    local lane = by_name[name]
    if not lane then
      local key = PREFIX .. 'lane:' .. name
      local length = try('LLEN', key)
      if type(length) ~= 'number' then return nil end
      lane = {
        key = key, pair = pair, queue = argv[at], index = index, keys = keys, length = length,
        base = argv[at + 2] * 2 ^ 48,
      }
      by_name[name] = lane
      lanes[#lanes + 1] = lane
    end
    groups[i] = lane
    at = at + (keys and 7 or 6)
  end

  -- The runs of jobs of one group; one id after the other; one record after the other.
  local runs, count = {}, 0
  for group, length in string.gmatch(argv[at], '(%d+):(%d+)') do
    local lane = groups[tonumber(group)]
    local first = count + 1
    count = count + length
    runs[#runs + 1] = { lane = lane, first = first, last = count }
    lane.by = (lane.by or 0) + length
  end
  if count > CHUNK then return nil end
  local found = call('HMGET', JOBS, unpack(argv, at + 1, at + count))
  for i = 1, count do
    if found[i] then return nil end
  end

  -- The lanes' places.
  local of_pair = {} -- pair → lanes
  local keyed = {} -- limit key → jobs that carry it
  for i = 1, #lanes do
    local lane = lanes[i]
    local pair, queue, by = lane.pair, lane.queue, lane.by
    if not of_pair[pair] then of_pair[pair] = { {}, {} } end
    table.insert(of_pair[pair][1], lane)
    table.insert(of_pair[pair][2], lane.index)
    pairs_[pair], queues[queue] = (pairs_[pair] or 0) + by, (queues[queue] or 0) + by
    if lane.keys then
      for key in string.gmatch(lane.keys, '[^,]+') do keyed[key] = (keyed[key] or 0) + by end
    end
  end
  for pair, of in pairs(of_pair) do
    local scores = try('ZMSCORE', PREFIX .. 'lanes:' .. pair, unpack(of[2]))
    local parked = {}
    if limited then parked = try('ZMSCORE', PREFIX .. 'parked:' .. pair, unpack(of[2])) end
    if scores.err or parked.err then return nil end
    for i, lane in ipairs(of[1]) do
      lane.is_new = lane.length == 0
      lane.waits = parked[i] and lane.keys
      if limited and lane.keys and lane.is_new then return nil end -- its key may have no room
      -- One that has lost its place, or has two, is damaged.
      local places = (scores[i] and 1 or 0) + (lane.waits and 1 or 0)
      if places ~= (lane.length == 0 and 0 or 1) then return nil end
    end
  end

  -- A new lane may have to wait with others for a key (lanes.lua).
  if limited then
    local asked, pairs_of = {}, {}
    for i = 1, #lanes do
      local lane = lanes[i]
      if lane.is_new and lane.keys then
        for key in string.gmatch(lane.keys, '[^,]+') do
          asked[#asked + 1] = key
          pairs_of[#asked] = lane.pair
        end
      end
    end
    for first = 1, #asked, CHUNK do
      local states = call('HMGET', LIMITED, unpack(asked, first, min(first + CHUNK - 1, #asked)))
      for i = 1, #states do
        if states[i] and string.find(states[i], pairs_of[first + i - 1], 1, true) then return nil end
      end
    end
  end

  -- What is counted.
  local fields, by, key_list = {}, {}, {}
  for pair, jobs in pairs(pairs_) do fields[#fields + 1], by[#by + 1] = pair .. '/ready', jobs end
  for queue, jobs in pairs(queues) do fields[#fields + 1], by[#by + 1] = 'live:' .. queue, jobs end
  local counts, sums = call('HMGET', COUNT, unpack(fields)), {}
  for i = 1, #fields do
    local sum = (tonumber(counts[i] or nil) or 0) + by[i]
    if sum <= 0 then return nil end
    sums[2 * i - 1], sums[2 * i] = fields[i], sum
  end
  for key in pairs(keyed) do key_list[#key_list + 1] = key end
  local key_sums = {}
  for first = 1, #key_list, CHUNK do
    local have = call('HMGET', LIVE, unpack(key_list, first, min(first + CHUNK - 1, #key_list)))
    for i = 1, #have do
      local key = key_list[first + i - 1]
      local sum = (tonumber(have[i] or nil) or 0) + keyed[key]
      if sum <= 0 then return nil end
      key_sums[#key_sums + 1], key_sums[#key_sums + 2] = key, sum
    end
  end
  if limited then
    -- Whether settings say how many live jobs a queue or a key may have.
    local targets = { 'queue:*' }
    for queue in pairs(queues) do targets[#targets + 1] = 'queue:' .. queue end
    for _, key in ipairs(key_list) do
      targets[#targets + 1], targets[#targets + 2] = key, string.match(key, '^[^:]*') .. ':*'
    end
    for first = 1, #targets, CHUNK do
      local set = call('HMGET', LIMITS, unpack(targets, first, min(first + CHUNK - 1, #targets)))
      for i = 1, #set do
        if set[i] and floor((byte(set[i], 2) or 255) / 32) % 2 == 1 then return nil end
      end
    end
  end

  local times = pack('>I6I6', now, now)
  local plain_times, keyed_times = '\1' .. times, '\2' .. times -- VERSION and LIMITED_VERSION
  local written, seen, offset = {}, {}, at + count
  for i = 1, #runs do
    local run = runs[i]
    local head = run.lane.keys and keyed_times or plain_times
    for n = run.first, run.last do
      local id = argv[at + n]
      if seen[id] then return nil end
      seen[id] = true
      written[2 * n - 1], written[2 * n] = id, head .. argv[offset + n]
    end
  end
  -- Nothing fails from here on.
  call('HSET', COUNT, unpack(sums))
  for first = 1, #key_sums, CHUNK do
    call('HSET', LIVE, unpack(key_sums, first, min(first + CHUNK - 1, #key_sums)))
  end
  call('HSET', JOBS, unpack(written))
  local places, woken = {}, {} -- pair → score, index, …
  for i = 1, #runs do
    local run = runs[i]
    local lane = run.lane
    call('RPUSH', lane.key, unpack(argv, at + run.first, at + run.last))
    if lane.is_new then
      lane.is_new = false
      turn = turn + 1
      local list = places[lane.pair] or {}
      places[lane.pair] = list
      list[#list + 1], list[#list + 2] = lane.base + turn, lane.index
    end
    if not lane.waits then woken[lane.pair] = lane.queue end
  end
  for pair, list in pairs(places) do
    for first = 1, #list, CHUNK do
      call('ZADD', PREFIX .. 'lanes:' .. pair, unpack(list, first, min(first + CHUNK - 1, #list)))
    end
  end
  for pair, queue in pairs(woken) do
    local is_paused = paused and string.find(paused, ',' .. queue .. ',', 1, true)
    local key = PREFIX .. 'wake:' .. pair
    if not is_paused and try('LLEN', key) == 0 then try('RPUSH', key, 'w') end
  end
  save_meta()
  return { string.rep('R', count) }
end

local reply = enqueue_plain()
if reply then return reply end

