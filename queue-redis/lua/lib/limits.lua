-- Limit keys: who holds them, what is remembered of them, and how much room they have. The rules
-- are those of queue-core's `LimitState`, line by line.
--
-- LIMITS has the settings, by target: version, flags, concurrency, count and period of the rate,
-- burst, failures, window and cool-down of the breaker, floor, weight, max_live; the numbers of
-- what the flags do not name are 0. Flags: 1 concurrency, 2 rate, 4 breaker, 8 adaptive, 16 weight,
-- 32 max_live.
--
-- LIMITED has what is remembered of a key: version, flags, scheduled_us, closed_until_ms; if the
-- breaker is open (flag 1) until_ms and cool-down, and the probe's id (flag 2; how often the
-- cool-down was doubled is in the flags 8, 16 and 32); the number of
-- failures that count, and their times; if the concurrency is reduced (flag 4) how many may run,
-- completions, and when it was reduced; and then, with commas between, each `<queue>/<kind>` of
-- which jobs wait for the key: lanes that are parked at it (lanes.lua), or all, because workers add
-- the key to the kind, which is told by "@" behind it. A key without any of that has no entry.
--
-- REOPEN has the keys that are closed by time alone and for which jobs wait, by the time at which
-- to look again.
-- `hold:<key>` is a set of the ids of the running jobs that hold the key, with or without settings.
-- While it is of a wrong type, as many as may run are taken to do so, and changes go to
-- `mend:<key>` (heal.lua).
--
-- An entry of LIMITED that cannot be read is taken for none. Who waits for the key is found again
-- by the next round of heal.lua, which begins at once when the entry is written.
--
-- While META has no `limits` there are no settings and nothing is remembered.
--
-- All functions are made when the first key is met: making them costs a call more than a job.

local NEVER = TIME_MAX + 1
local LOOKS_MAX = 500 -- keys that one call looks at again
local limit_engine

local function make_limits()
  local LIMITS, LIMITED, REOPEN = PREFIX .. 'limits', PREFIX .. 'limited', PREFIX .. 'reopen'
  local CHUNK = 512
  local OPENED_MAX = 100 -- queues and kinds that one call tells of a key's room
  local SETTINGS_VERSION, SETTINGS_BYTES = 1, 46
  local STATE_VERSION, STATE_BYTES = 1, 17
  local FORGOTTEN_AFTER_MS, GROWTH_MAX, FAILURES_MAX = 3600000, 16, 100
  local unpack_ = struct.unpack
  local no_settings = {}
  local known, all = {}, {} -- by name, and in the order in which they were met
  local parsed = {} -- settings by their bytes

  local function after(ms, by) return min(ms + by, TIME_MAX) end

  -- Settings, or none if these bytes are not legal ones.
  local function parse_settings(bytes)
    if not bytes or #bytes < SETTINGS_BYTES or byte(bytes) ~= SETTINGS_VERSION then
      return no_settings
    end
    local _, flags, concurrency, count, period_ms, burst, failures, window_ms, cooldown_ms,
      lowest, weight, max_live = unpack_('>BBI4I4I6I4BI6I6I4BI8', bytes)
    local function has(flag) return floor(flags / flag) % 2 == 1 end
    local set = {}
    if has(1) then set.concurrency = concurrency end
    if has(2) then
      set.interval_us = max(math.ceil(period_ms * 1000 / max(count, 1)), 1)
      set.tolerance_us = max(burst - 1, 0) * set.interval_us
    end
    if has(4) then
      set.failures, set.window_ms, set.cooldown_ms = failures, window_ms, cooldown_ms
    end
    if has(8) then set.lowest = lowest end
    if has(16) then set.weight = weight end
    if has(32) then set.max_live = max_live end
    if
      set.concurrency == 0
      or has(2) and (count == 0 or period_ms == 0 or burst == 0)
      or has(4) and (failures == 0 or failures > 100 or window_ms == 0 or cooldown_ms == 0)
      or has(8) and not (lowest > 0 and set.concurrency and lowest <= concurrency)
      or has(16) and not (weight > 0 and weight <= 100)
      or set.max_live == 0
    then
      return no_settings
    end
    return set
  end

  local function settings_of(bytes)
    if not bytes then return no_settings end
    if not parsed[bytes] then parsed[bytes] = parse_settings(bytes) end
    return parsed[bytes]
  end

  -- Reads what is remembered of a key into it; nothing of what is not a whole entry. Answers
  -- whether it is one.
  local function parse_state(key, bytes)
    if #bytes < STATE_BYTES or byte(bytes) ~= STATE_VERSION then return false end
    local _, flags, scheduled_us, closed_ms = unpack_('>BBI8I6', bytes)
    local at, open, failures, reduced = STATE_BYTES, nil, {}, nil
    if flags % 2 == 1 then
      if #bytes < at + 12 then return false end
      open = { growth = 2 ^ (floor(flags / 8) % 8) }
      open.until_ms, open.cooldown_ms = unpack_('>I6I6', bytes, at)
      at = at + 12
      if floor(flags / 2) % 2 == 1 then
        if #bytes < at + 16 then return false end
        open.probe = sub(bytes, at, at + 15)
        at = at + 16
      end
    end
    local count = byte(bytes, at) or 0
    at = at + 1
    if #bytes < at - 1 + 6 * count then return false end
    for i = 1, count do
      failures[i] = unpack_('>I6', bytes, at)
      at = at + 6
    end
    if floor(flags / 4) % 2 == 1 then
      if #bytes < at + 13 then return false end
      reduced = {}
      reduced.allowed, reduced.completions, reduced.reduced_ms = unpack_('>I4I4I6', bytes, at)
      at = at + 14
    end
    for pair, mark in string.gmatch(sub(bytes, at), '([a-z0-9_.-]+/[a-z0-9_.-]+)(@?)') do
      if not key.waits[pair] then key.pairs[#key.pairs + 1] = pair end
      key.waits[pair] = true
      key.has_workers[pair] = mark == '@' or nil
    end
    key.scheduled_us, key.closed_ms = min(scheduled_us, 2 ^ 53), closed_ms
    key.open, key.failures, key.reduced = open, failures, reduced
    return true
  end

  local function pack_state(key)
    local open, reduced = key.open, key.reduced
    if
      key.scheduled_us == 0 and key.closed_ms == 0 and not open and not reduced
      and #key.failures == 0 and #key.pairs == 0
    then
      return nil
    end
    local flags = (open and 1 or 0) + (open and open.probe and 2 or 0) + (reduced and 4 or 0)
    local growth = open and open.growth or 1
    while growth > 1 do growth, flags = growth / 2, flags + 8 end
    local parts = { pack('>BBI8I6', STATE_VERSION, flags, key.scheduled_us, key.closed_ms) }
    if open then
      parts[2] = pack('>I6I6', open.until_ms, open.cooldown_ms) .. (open.probe or '')
    end
    parts[#parts + 1] = string.char(#key.failures)
    for _, at_ms in ipairs(key.failures) do parts[#parts + 1] = pack('>I6', at_ms) end
    if reduced then
      parts[#parts + 1] = pack('>I4I4I6', reduced.allowed, reduced.completions, reduced.reduced_ms)
    end
    for i, pair in ipairs(key.pairs) do
      parts[#parts + 1] = (i > 1 and ',' or '') .. pair .. (key.has_workers[pair] and '@' or '')
    end
    return concat(parts)
  end

  -- Meets keys: reads what is known of those that are new to this call.
  local function load(names)
    local new, fields = {}, {}
    for _, name in ipairs(names) do
      if not known[name] then
        known[name] = {
          name = name, settings = no_settings, pairs = {}, waits = {}, has_workers = {},
          scheduled_us = 0, closed_ms = 0, failures = {}, started = {}, dropped = {},
        }
        all[#all + 1] = known[name]
        new[#new + 1] = name
        fields[#fields + 1] = name
        fields[#fields + 1] = string.match(name, '^[^:]*') .. ':*'
      end
    end
    if not limited or #new == 0 then return end
    local settings, states = read('HMGET', LIMITS, fields), read('HMGET', LIMITED, new)
    for i, name in ipairs(new) do
      local key = known[name]
      local own = settings_of(settings[2 * i - 1])
      key.settings = own ~= no_settings and own or settings_of(settings[2 * i])
      key.bytes = states[i]
      key.is_unread = states[i] and not parse_state(key, states[i])
    end
  end

  local function hold_name(key) return PREFIX .. 'hold:' .. key.name end

  -- How many running jobs hold it; more than may if its set is of a wrong type.
  local function running(key)
    if not key.running then
      local count = try('SCARD', hold_name(key))
      key.is_broken = type(count) ~= 'number'
      key.running = key.is_broken and math.huge or count
    end
    return key.running
  end

  -- Forgets what cannot count any more, whatever the settings are.
  local function tidy(key)
    local open, reduced = key.open, key.reduced
    if key.scheduled_us <= now * 1000 then key.scheduled_us = 0 end
    if key.closed_ms <= now then key.closed_ms = 0 end
    if open and not open.probe and after(open.until_ms, FORGOTTEN_AFTER_MS) <= now then
      key.open = nil
    end
    if reduced and after(reduced.reduced_ms, FORGOTTEN_AFTER_MS) <= now then key.reduced = nil end
    if #key.failures > 0 then
      local kept = {}
      for _, at_ms in ipairs(key.failures) do
        if after(at_ms, FORGOTTEN_AFTER_MS) > now then kept[#kept + 1] = at_ms end
      end
      key.failures = kept
    end
  end

  -- The schedule's next start as it counts now.
  local function next_us(key)
    local set, now_us = key.settings, now * 1000
    local latest = now_us + set.tolerance_us + set.interval_us
    return max(now_us, min(key.scheduled_us, latest))
  end

  -- Other settings may be in force than before: `LimitState::adopt` of queue-core.
  local function adopt(key)
    local set = key.settings
    if set.interval_us then
      key.scheduled_us = min(key.scheduled_us, now * 1000 + set.tolerance_us + set.interval_us)
    end
  end

  -- The end of a cool-down: as if it had begun with these settings, if they make it shorter.
  local function ends_at(set, open)
    return open.until_ms - max(open.cooldown_ms - set.cooldown_ms * open.growth, 0)
  end

  -- When to look again at a key that is closed by time, or NEVER.
  local function look_at(key)
    local at, set = NEVER, key.settings
    if key.closed_ms > now then at = key.closed_ms end
    local open = set.failures and key.open
    if open and ends_at(set, open) > now then at = min(at, ends_at(set, open)) end
    if set.interval_us then
      local ahead_us = next_us(key) - set.tolerance_us
      if ahead_us > now * 1000 then at = min(at, math.ceil(ahead_us / 1000)) end
    end
    if key.reduced and set.lowest and #key.pairs > 0 then
      at = min(at, after(key.reduced.reduced_ms, FORGOTTEN_AFTER_MS))
    end
    return at
  end

  -- How many more jobs may start.
  local function room(key)
    tidy(key)
    local set, most = key.settings, math.huge
    local open = set.failures and key.open
    if key.closed_ms > now then return 0 end
    if open then
      if ends_at(set, open) > now then return 0 end
      -- A probe that does not run, because the store was damaged, holds nobody up.
      local holds = open.probe and try('SISMEMBER', hold_name(key), open.probe)
      key.is_broken = type(holds) == 'table' or key.is_broken
      if holds == 1 or type(holds) == 'table' then return 0 end
      most = 1
    end
    if set.interval_us then
      local ahead_us = now * 1000 + set.tolerance_us - next_us(key)
      if ahead_us < 0 then return 0 end
      most = min(most, floor(ahead_us / set.interval_us) + 1)
    end
    if set.concurrency then
      local allowed = set.concurrency
      if key.reduced and set.lowest then
        allowed = min(max(key.reduced.allowed, set.lowest), allowed)
      end
      most = min(most, max(allowed - running(key), 0))
    end
    return most
  end

  -- How many more jobs this call may start; shrinks as it takes them.
  local function left(key)
    if not key.left then key.left = limited and room(key) or math.huge end
    return key.left
  end

  -- Whether there is room for as many jobs more as this call starts: Claim::spare of queue-core.
  local function is_spare()
    for _, key in ipairs(all) do
      local set, jobs = key.settings, #key.started
      local only_counts = not (set.interval_us or set.failures or set.lowest)
      if jobs > 0 and not (only_counts and left(key) >= jobs) then return false end
    end
    return true
  end

  -- A job of this call starts.
  local function start(key, id) key.started[#key.started + 1] = id end

  local function reduce(key, claimed_ms)
    local set = key.settings
    if not set.lowest then return end
    local reduced = key.reduced
    if reduced and claimed_ms() <= reduced.reduced_ms then return end
    local before = reduced and min(reduced.allowed, set.concurrency) or set.concurrency
    local allowed = max(floor(before / 2), set.lowest)
    key.reduced = { allowed = allowed, completions = 0, reduced_ms = now }
  end

  local function grow(key)
    local reduced = key.reduced
    if not reduced or not key.settings.lowest then return end
    reduced.completions = reduced.completions + 1
    if reduced.completions >= reduced.allowed then
      reduced.allowed, reduced.completions = reduced.allowed + 1, 0
    end
    local most = key.settings.concurrency
    if not most or reduced.allowed >= most then key.reduced = nil end
  end

  local function fail(key)
    local set, failures, count = key.settings, key.failures, 0
    failures[#failures + 1] = now
    for _, at_ms in ipairs(failures) do
      if after(at_ms, set.window_ms) > now then count = count + 1 end
    end
    if count >= set.failures then
      key.failures = {}
      key.open = { until_ms = after(now, set.cooldown_ms), cooldown_ms = set.cooldown_ms, growth = 1 }
    elseif #failures > FAILURES_MAX then
      table.remove(failures, 1)
    end
  end

  local function end_breaker(key, id, has_failed, has_completed)
    local set, open = key.settings, key.open
    if not open then
      if has_failed and set.failures then fail(key) end
    elseif open.probe == id then
      open.probe = nil
      if has_failed and set.failures then
        open.growth = min(open.growth * 2, GROWTH_MAX)
        open.cooldown_ms = set.cooldown_ms * open.growth
        open.until_ms = after(now, open.cooldown_ms)
      elseif has_completed and set.failures then
        key.open = nil
      end
    end
  end

  -- A job lets go of the key: "C" completed, "F" failed, "T" timed out.
  local function let_go_(key, id, ending, claimed_ms)
    tidy(key)
    end_breaker(key, id, ending == 'F' or ending == 'T', ending == 'C')
    if ending == 'T' then reduce(key, claimed_ms) end
    if ending == 'C' then grow(key) end
    key.dropped[#key.dropped + 1] = id
    key.may_open = true
  end

  local function throttle(key, until_ms, claimed_ms)
    tidy(key)
    key.closed_ms = max(key.closed_ms, until_ms)
    reduce(key, claimed_ms)
    key.touched, key.may_open = true, true
  end

  -- Jobs of this `<queue>/<kind>` wait for room at the key, or all of it for workers that add it.
  local function wait_for(key, pair, has_workers)
    if key.waits[pair] and (key.has_workers[pair] or not has_workers) then return end
    if not key.waits[pair] then key.pairs[#key.pairs + 1] = pair end
    key.waits[pair], key.has_workers[pair] = true, has_workers or key.has_workers[pair]
    key.touched = true
  end

  local function waits_name(key, pair) return PREFIX .. 'waits:' .. pair .. ':' .. key.name end

  -- Puts a key with room, or without, where claims meet it; answers whether lanes are parked at it.
  local function show(key, pair, has_room)
    local head = try('ZRANGE', waits_name(key, pair), 0, 0, 'WITHSCORES')
    if head.err then replace_waits(waits_name(key, pair)) end
    if has_room and head[2] then
      try('ZADD', PREFIX .. 'lanes:' .. pair, head[2], '@' .. key.name)
    else
      try('ZREM', PREFIX .. 'lanes:' .. pair, '@' .. key.name)
    end
    return head[2] ~= nil
  end

  -- A key has room: whoever waits for it learns of that, so many in this call, the others in the next
  -- ones if there is still room. Claims find those that are shown without being told of them.
  local function open_up(key)
    local rest, has_workers = {}, {}
    for i, pair in ipairs(key.pairs) do
      if i <= OPENED_MAX then
        show(key, pair, true)
        key.waits[pair] = nil
        wake(pair)
        if key.has_workers[pair] then wake(pair .. '@' .. key.name) end
      else
        rest[#rest + 1], has_workers[pair] = pair, key.has_workers[pair]
      end
    end
    key.pairs, key.has_workers, key.goes_on = rest, has_workers, rest[1] ~= nil
  end

  local function start_all(key)
    local set, ids = key.settings, key.started
    if #ids == 0 then return end
    tidy(key)
    if set.interval_us then key.scheduled_us = next_us(key) + #ids * set.interval_us end
    local open = set.failures and key.open
    if open and ends_at(set, open) <= now then open.probe = ids[1] end
  end

  local function save_holders(key)
    for command, list in pairs({ SADD = key.started, SREM = key.dropped }) do
      for i = 1, #list, CHUNK do
        local last = min(i + CHUNK - 1, #list)
        local done = try(command, hold_name(key), unpack(list, i, last))
        if type(done) == 'table' then
          key.is_broken = true
          try(command, PREFIX .. 'mend:' .. key.name, unpack(list, i, last))
        end
      end
    end
    key.running, key.touched = nil, true
    key.started, key.dropped = {}, {}
  end

  -- Writes everything that changed. The keys that may have room now are looked at.
  local function save()
    local set_args, gone, reopen, is_damaged = {}, {}, {}, false
    for _, key in ipairs(all) do
      if key.started[1] or key.dropped[1] then
        start_all(key)
        save_holders(key)
      end
      if key.touched and (limited or key.closed_ms > 0 or #key.pairs > 0) then
        tidy(key)
        if key.may_open and #key.pairs > 0 and room(key) > 0 then open_up(key) end
        local at = key.goes_on and now or look_at(key)
        key.goes_on = false
        if at < NEVER and #key.pairs > 0 then reopen[#reopen + 1], reopen[#reopen + 2] = at, key.name end
        local bytes = pack_state(key) or false
        if bytes and bytes ~= key.bytes then
          set_args[#set_args + 1], set_args[#set_args + 2] = key.name, bytes
        elseif key.bytes and not bytes then
          gone[#gone + 1] = key.name
        end
        key.bytes = bytes
        is_damaged = is_damaged or key.is_unread or key.is_broken
        key.is_unread = false
      end
      key.touched, key.may_open = false, false
    end
    if is_damaged then call('HDEL', META, 'tidied') end
    if #set_args > 0 and not limited then call('HSET', META, 'limits', 1) end
    each('HSET', LIMITED, set_args)
    if set_args[1] then widen(LIMITED, 16) end
    each('HDEL', LIMITED, gone)
    each('ZADD', REOPEN, reopen)
  end

  -- To be called before the first write of a call that saves keys.
  local function check()
    if #all > 0 then
      call('HLEN', LIMITED)
      call('ZCARD', REOPEN)
    end
  end

  -- Looks at keys whose room may have changed; at first, `heal` does.
  local function look_again(names, heal)
    load(names)
    if heal then heal(names) end
    for _, name in ipairs(names) do
      adopt(known[name])
      known[name].touched, known[name].may_open = true, true
    end
    check()
    each('ZREM', REOPEN, names)
    save()
  end

  -- Ends by hand what would end by itself some time; answers whether there was any of it.
  local function reset(name)
    load({ name })
    local key = known[name]
    tidy(key)
    local was_closed = key.closed_ms > 0 or key.open or key.reduced or #key.failures > 0
    key.closed_ms, key.open, key.reduced, key.failures = 0, nil, nil, {}
    look_again({ name })
    return was_closed
  end

  -- Looks at a page of all keys of which something is remembered; answers where to go on.
  local function look_at_some(cursor, count, heal)
    local page = call('HSCAN', LIMITED, cursor, 'COUNT', count)
    local names = {}
    for i = 1, #page[2], 2 do names[#names + 1] = page[2][i] end
    local before = call('HLEN', LIMITED)
    look_again(names, heal)
    return page[1], before - call('HLEN', LIMITED)
  end

  -- Looks at the keys whose time has come; answers whether there are more of them.
  local function look_at_due()
    local names = call('ZRANGE', REOPEN, '-inf', now, 'BYSCORE', 'LIMIT', 0, LOOKS_MAX + 1)
    local more = #names > LOOKS_MAX
    names[LOOKS_MAX + 1] = nil
    if #names > 0 then look_again(names) end
    return more
  end

  local function get(name) return known[name] end

  return {
    load = load, get = get, left = left, is_spare = is_spare, start = start, let_go = let_go_, throttle = throttle,
    wait_for = wait_for, waits_name = waits_name, show = show, save = save, check = check,
    reset = reset, look_at_some = look_at_some, look_at_due = look_at_due,
    look_again = look_again, settings_of = settings_of,
  }
end

local function limits()
  limit_engine = limit_engine or make_limits()
  return limit_engine
end
