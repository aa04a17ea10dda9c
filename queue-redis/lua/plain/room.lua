-- How much room limit keys have, as far as plain claims can tell: nothing is remembered of them but
-- when the next job may start, and nothing is set but how many jobs may run at once, how many may
-- start in a time, and a breaker.

-- What tells of keys, of which `taking` says how many jobs take each, and `is_shut` which are known to
-- be closed. Made only if something may be set or remembered.
local function make_room(taking, is_shut)
  -- What is found in a hash of so many fields, in parts.
  local function found_in(hash, fields)
    if #fields <= CHUNK then return call('HMGET', hash, unpack(fields)) end
    local found = {}
    for first = 1, #fields, CHUNK do
      local part = call('HMGET', hash, unpack(fields, first, min(first + CHUNK - 1, #fields)))
      for i = 1, #part do found[first + i - 1] = part[i] end
    end
    return found
  end

  -- How many jobs settings let run at once, and how many microseconds are between two starts and in
  -- a burst; false if there is more to be minded. Settings that are not legal are none (limits.lua).
  local NO_BOUND = 2 ^ 32
  local known, intervals, bursts = {}, {}, {} -- by the settings' bytes
  local function bound_in(bytes)
    local flags = byte(bytes, 2)
    if byte(bytes) ~= 1 or #bytes < 46 then return false end
    local function has(flag) return floor(flags / flag) % 2 == 1 end
    local _, concurrency, starts, period_ms, burst, failures, window_ms, cooldown_ms, lowest, _, max_live =
      struct.unpack('>HI4I4I6I4BI6I6I4BI8', bytes)
    if
      has(16) -- a weight
      or has(1) and concurrency == 0
      or has(2) and (starts == 0 or period_ms == 0 or burst == 0)
      or has(4) and (failures == 0 or failures > 100 or window_ms == 0 or cooldown_ms == 0)
      or has(8) and not (lowest > 0 and has(1) and lowest <= concurrency)
      or has(32) and max_live == 0
    then
      return false
    end
    if has(2) then
      intervals[bytes] = max(math.ceil(period_ms * 1000 / starts), 1)
      bursts[bytes] = (burst - 1) * intervals[bytes]
    end
    return has(1) and concurrency or NO_BOUND
  end

  -- Of keys with a rate: when the next job may start, how many may now, and the time between two.
  local next_us, startable, interval_of = {}, {}, {}
  local function meet_rate(key, bytes, state)
    local interval, burst, now_us = intervals[bytes], bursts[bytes], now * 1000
    local scheduled_us = 0
    if state then
      -- version, no flags, scheduled_us, closed_until_ms, no failures, nobody waits (limits.lua)
      local head, closed_ms, failures
      if #state ~= 17 then return false end
      head, scheduled_us, closed_ms, failures = struct.unpack('>HI8I6B', state)
      if head ~= 256 or closed_ms > now or failures > 0 then return false end
    end
    next_us[key] = max(now_us, min(scheduled_us, now_us + burst + interval))
    startable[key] = floor((now_us + burst - next_us[key]) / interval) + 1
    interval_of[key] = interval
    return true
  end

  local most = {} -- how many jobs may run at once
  local all_set, set_of_class = nil, {} -- all settings, if they are few; settings of classes
  local is_any_remembered
  local free = {} -- how many more could run before this claim took any, of those that were looked at
  local only_counts = {} -- whether nothing else of a key is limited, by the settings' bytes
  local is_spare_key = {}

  -- Reads what is set and remembered of keys; answers whether all of it is as above.
  local function meet_keys(names)
    if not names[1] then return true end
    if is_any_remembered == nil then
      is_any_remembered = call('HLEN', LIMITED) > 0
      if call('HLEN', LIMITS) <= SETTINGS_FEW then
        all_set = {}
        local pairs_ = call('HGETALL', LIMITS)
        for i = 1, #pairs_, 2 do all_set[pairs_[i]] = pairs_[i + 1] end
      end
    end
    local states, set, targets, classes = {}, {}, {}, {}
    if is_any_remembered then states = found_in(LIMITED, names) end
    for i = 1, #names do
      local class = string.match(names[i], '^[^:]*')
      targets[i], classes[i] = names[i], class
      if set_of_class[class] == nil then
        local name = class .. ':*'
        set_of_class[class] = all_set and (all_set[name] or false) or not all_set and call('HGET', LIMITS, name)
      end
    end
    if not all_set then set = found_in(LIMITS, targets) end
    for i = 1, #names do
      local key = names[i]
      local bytes = set[i] or all_set and all_set[key] or set_of_class[classes[i]]
      is_spare_key[key] = true
      if bytes then
        local bound = known[bytes]
        if bound == nil then
          bound = bound_in(bytes)
          known[bytes] = bound
        end
        if not bound then return false end
        if only_counts[bytes] == nil then
          only_counts[bytes] = floor(byte(bytes, 2) / 2) % 8 == 0 -- no rate, no breaker, not adaptive
        end
        if bound < NO_BOUND then most[key] = bound end
        is_spare_key[key] = only_counts[bytes]
      end
      if not is_shut[key] then
        if bytes and intervals[bytes] then
          if not meet_rate(key, bytes, states[i]) then return false end
        elseif states[i] then
          return false
        end
      end
    end
    return true
  end

  -- How many more jobs may start that need these keys, which were met; less than 0 if that cannot be
  -- told.
  local function room_for(names)
    local room = math.huge
    for i = 1, #names do
      local key = names[i]
      local bound = most[key]
      if bound then
        local left = free[key]
        if not left then
          local running = try('SCARD', PREFIX .. 'hold:' .. key)
          left = type(running) == 'number' and bound - running or -1
          free[key] = left
        end
        left = left - taking[key]
        if left < room then room = left end
      end
      local starts = startable[key]
      if starts and starts - taking[key] < room then room = starts - taking[key] end
    end
    return room
  end

  -- Whether there is room for as many jobs more of each key as are taken, and nothing but their count
  -- is limited: Claim::spare of queue-core.
  local function is_spare()
    for key, jobs in pairs(taking) do
      if jobs > 0 then
        if not is_spare_key[key] or most[key] and free[key] < 2 * jobs then return false end
      end
    end
    return true
  end

  -- Writes when the next jobs may start.
  local function save_rates()
    local states = {}
    for key, interval in pairs(interval_of) do
      if taking[key] > 0 then
        local scheduled_us = next_us[key] + taking[key] * interval
        states[#states + 1] = key
        states[#states + 1] = pack('>HI8I6B', 256, scheduled_us, 0, 0)
      end
    end
    for first = 1, #states, CHUNK do
      call('HSET', LIMITED, unpack(states, first, min(first + CHUNK - 1, #states)))
    end
    if states[1] then widen(LIMITED, 16) end
  end

  return meet_keys, room_for, is_spare, save_rates
end

