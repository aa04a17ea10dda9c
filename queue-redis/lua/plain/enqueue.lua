-- Plain enqueues, which are most: no job is there, none has an idempotency key or a body that is
-- apart, all are ready at once, nothing is full or damaged. Answers nothing if that is not so,
-- before anything is written: the whole script (enqueue.lua) does it then. Where both can, both do
-- the same.

local function enqueue_plain()
  local ZSET_SMALL, NAMES_FEW = 128, 16 -- `zset-max-listpack-entries`
  local argv, format, byte = ARGV, string.format, byte
  if stale > 0 then return nil end

  -- The lanes, by their keys and in their order; those of one queue and kind in a `set`.
  local lanes, lane_of, groups = {}, {}, {}
  local sets, set_of = {}, {}
  local set, priority, flags
  local at = 2
  for i = 1, tonumber(argv[1]) do
    local first = argv[at]
    if first ~= '' then
      priority, flags = argv[at + 2], argv[at + 5]
      if argv[at + 3] ~= 'n' or not string.find(flags, '^[erp]l?$') then return nil end
      local pair = first .. '/' .. argv[at + 1]
      set = set_of[pair]
      if not set then
        set = {
          pair = pair, queue = first, by = 0, lanes = {}, indexes = {}, places = {}, woken = false,
          has_new = false,
        }
        sets[#sets + 1], set_of[pair] = set, set
      end
      at = at + 6
    elseif not set then
      return nil
    else
      at = at + 1
    end
    local index, keys = priority, false
    if #flags == 2 then
      keys = argv[at]
      index = priority .. '/' .. keys
      at = at + 1
    end
    local key = PREFIX .. 'lane:' .. set.pair .. '/' .. index
    local lane = lane_of[key]
    if not lane then
      lane = {
        key = key, set = set, index = index, keys = keys, by = 0, is_new = false, waits = false,
        base = priority * 2 ^ 48,
      }
      lanes[#lanes + 1], lane_of[key] = lane, lane
      local nth = #set.lanes + 1
      set.lanes[nth], set.indexes[nth] = lane, index
    end
    groups[i] = lane
  end

  -- The runs of jobs of one group; one id after the other; one record after the other.
  local run_text, count = argv[at], 0
  local run_lanes, run_ends, run_count = {}, {}, #run_text / 4
  local in_turn = {} -- lanes in the order of their first jobs
  for i = 1, run_count do
    local high, low, more, length = byte(run_text, 4 * i - 3, 4 * i)
    local lane = groups[high * 256 + low]
    length = more * 256 + length
    count = count + length
    run_lanes[i], run_ends[i] = lane, count
    if lane.by == 0 then in_turn[#in_turn + 1] = lane end
    lane.by = lane.by + length
    lane.set.by = lane.set.by + length
  end
  if count > CHUNK then return nil end
  local found = call('HMGET', JOBS, unpack(argv, at + 1, at + count))
  for i = 1, count do
    if found[i] then return nil end
  end

  -- Calls a function with a part of a list after the other.
  local function in_parts(list, see)
    for first = 1, #list, CHUNK do
      local last = min(first + CHUNK - 1, #list)
      if see(first, unpack(list, first, last)) == nil then return nil end
    end
    return true
  end

  -- Which of these members a sorted set has; nil if it is of a wrong type. Redis looks through a small
  -- one from its start for each member: for many of them it is read as a whole.
  local function members_in(key, ...)
    local size = select('#', ...) > NAMES_FEW and try('ZCARD', key)
    if type(size) == 'number' and size <= ZSET_SMALL then
      local is_there, found = {}, {}
      for _, member in ipairs(call('ZRANGE', key, '0', '-1')) do is_there[member] = true end
      for i, member in ipairs({ ... }) do found[i] = is_there[member] or false end
      return found
    end
    local scores = try('ZMSCORE', key, ...)
    return not scores.err and scores or nil
  end

  -- Where lanes have their places. One that has two is damaged; one that has lost its own, or has
  -- one although it is empty, is mended by what follows.
  for s = 1, #sets do
    local of = sets[s]
    local function see(first, ...)
      local placed, parked = members_in(PREFIX .. 'lanes:' .. of.pair, ...), nil
      if limited then parked = members_in(PREFIX .. 'parked:' .. of.pair, ...) end
      if not placed or limited and not parked then return nil end
      for i = 1, #placed do
        local lane = of.lanes[first + i - 1]
        lane.waits = lane.keys and parked and parked[i] and true
        lane.is_new = not placed[i] and not lane.waits
        if placed[i] and lane.waits then return nil end
        of.has_new = of.has_new or lane.is_new and lane.keys
      end
      return true
    end
    if not in_parts(of.indexes, see) then return nil end
    -- Lanes may still be parked, and shown, when nothing is set or remembered any more.
    local may_be_parked = not limited and of.has_new
    if may_be_parked and try('EXISTS', PREFIX .. 'parked:' .. of.pair) == 1 then return nil end
  end

  -- Live jobs per limit key, and what may keep new ones from coming in.
  local keys, keyed = {}, {}
  for i = 1, #lanes do
    local lane = lanes[i]
    if lane.keys then
      for key in string.gmatch(lane.keys, '[^,]+') do
        local jobs = keyed[key]
        if not jobs then keys[#keys + 1] = key end
        keyed[key] = (jobs or 0) + lane.by
      end
    end
  end

  -- A new lane may have to wait with others for a key (lanes.lua); settings may say how many live
  -- jobs a queue or a key may have.
  local function is_admitted()
    local new, pairs_of, targets, met = {}, {}, { 'queue:*' }, {}
    for i = 1, #lanes do
      local lane = lanes[i]
      for key in string.gmatch(lane.is_new and lane.keys or '', '[^,]+') do
        new[#new + 1] = key
        pairs_of[#new] = lane.set.pair
      end
    end
    local function has_none_waiting(first, ...)
      local states = try('HMGET', LIMITED, ...)
      if states.err then return nil end
      for i, state in ipairs(states) do
        if state and string.find(state, pairs_of[first + i - 1], 1, true) then return nil end
      end
      return true
    end
    for i = 1, #sets do targets[#targets + 1] = 'queue:' .. sets[i].queue end
    for i = 1, #keys do
      local class = string.match(keys[i], '^[^:]*')
      if not met[class] then met[class], targets[#targets + 1] = true, class .. ':*' end
      targets[#targets + 1] = keys[i]
    end
    local function has_no_bound(_, ...)
      for _, settings in ipairs(call('HMGET', LIMITS, ...)) do
        if settings and floor((byte(settings, 2) or 255) / 32) % 2 == 1 then return nil end
      end
      return true
    end
    return in_parts(new, has_none_waiting) and in_parts(targets, has_no_bound)
  end
  if limited and not is_admitted() then return nil end

  -- Anything else is damage: less, a fraction, infinity, or no number at all.
  local function is_count(sum) return sum > 0 and sum < 2 ^ 52 and sum % 1 == 0 end

  -- What is counted. Lua writes a number as a text slowly: each one once.
  local texts = {}
  local function text(number)
    local known = texts[number]
    if not known then
      known = format('%d', number)
      texts[number] = known
    end
    return known
  end
  local fields, by, live_of = {}, {}, {}
  for i = 1, #sets do
    local of = sets[i]
    fields[i], by[i] = of.pair .. '/ready', of.by
    live_of[of.queue] = (live_of[of.queue] or 0) + of.by
  end
  for queue, jobs in pairs(live_of) do fields[#fields + 1], by[#by + 1] = 'live:' .. queue, jobs end
  local counts, sums = call('HMGET', COUNT, unpack(fields)), {}
  for i = 1, #fields do
    local sum = (tonumber(counts[i] or nil) or 0) + by[i]
    if not is_count(sum) then return nil end
    sums[2 * i - 1], sums[2 * i] = fields[i], text(sum)
  end
  local key_sums = {}
  local function add_keys(first, ...)
    for i, have in ipairs(call('HMGET', LIVE, ...)) do
      local key = keys[first + i - 1]
      local sum = (have and tonumber(have) or 0) + keyed[key]
      if not is_count(sum) then return nil end
      local size = #key_sums
      key_sums[size + 1], key_sums[size + 2] = key, text(sum)
    end
    return true
  end
  if not in_parts(keys, add_keys) then return nil end

  -- Before each record: its version (class.lua) and its times.
  local times = pack('>I6I6', now, now)
  local lasting, expiring = '\3' .. times, '\1' .. times
  local keyed_lasting, keyed_expiring = '\4' .. times, '\2' .. times
  local written, seen, offset, n = {}, {}, at + count, 0
  for i = 1, run_count do
    local keyed = run_lanes[i].keys
    local long, short = keyed and keyed_expiring or expiring, keyed and keyed_lasting or lasting
    while n < run_ends[i] do
      n = n + 1
      local id = argv[at + n]
      if seen[id] then return nil end
      seen[id] = true
      local record = argv[offset + n]
      local head = byte(record, 22) % 2 == 1 and long or short -- its flags
      written[2 * n - 1], written[2 * n] = id, head .. record
    end
  end

  -- Only a lane of a wrong type can fail from here on: what was written is taken back.
  n = 0
  for i = 1, run_count do
    local last = run_ends[i]
    local pushed = try('RPUSH', run_lanes[i].key, unpack(argv, at + n + 1, at + last))
    if type(pushed) == 'table' then
      for j = i - 1, 1, -1 do
        local length = run_ends[j] - (run_ends[j - 1] or 0)
        call('LTRIM', run_lanes[j].key, '0', format('%d', -length - 1))
      end
      return nil
    end
    -- One that has lost its jobs, and not its place.
    if pushed == last - n and not run_lanes[i].waits then run_lanes[i].is_new = true end
    n = last
  end
  call('HSET', COUNT, unpack(sums))
  if #keys > NAMES_FEW then widen(LIVE) end
  in_parts(key_sums, function(_, ...) return call('HSET', LIVE, ...) end)
  call('HSET', JOBS, unpack(written))
  for i = 1, #in_turn do
    local lane = in_turn[i]
    local of = lane.set
    if lane.is_new then
      turn = turn + 1
      local places = of.places
      local size = #places
      places[size + 1], places[size + 2] = format('%d', lane.base + turn), lane.index
    end
    of.woken = of.woken or not lane.waits
  end
  for i = 1, #sets do
    local of = sets[i]
    local index = PREFIX .. 'lanes:' .. of.pair
    in_parts(of.places, function(_, ...) return call('ZADD', index, ...) end)
    local is_paused = paused and string.find(paused, ',' .. of.queue .. ',', 1, true)
    local key = PREFIX .. 'wake:' .. of.pair
    if of.woken and not is_paused and try('LLEN', key) == 0 then try('RPUSH', key, 'w') end
  end
  save_meta()
  return string.rep('R', count)
end

local reply = enqueue_plain()
if reply then return reply end

