-- How much room limit keys have, as far as plain claims can tell: nothing is remembered of them, and
-- nothing is set but how many jobs may run at once.

-- What tells of the keys in `asked`, of which `taking` says how many jobs take each, and `is_shut`
-- which are known to be closed. Made only if something may be set or remembered.
local function make_room(asked, taking, is_shut)
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

  -- How many jobs settings let run at once, or false if there is more to be minded. Settings that
  -- are not legal are none (limits.lua).
  local NO_BOUND = 2 ^ 32
  local known = {}
  local function bound_in(bytes)
    local flags = byte(bytes, 2)
    if byte(bytes) ~= 1 or #bytes < 46 then return false end
    local function has(flag) return floor(flags / flag) % 2 == 1 end
    local _, concurrency, _, _, _, failures, window_ms, cooldown_ms, lowest, _, max_live =
      struct.unpack('>HI4I4I6I4BI6I6I4BI8', bytes)
    if
      has(2) or has(16) -- a rate, a weight
      or has(4) and (failures == 0 or failures > 100 or window_ms == 0 or cooldown_ms == 0)
      or has(8) and not (lowest > 0 and has(1) and lowest <= concurrency)
      or has(32) and max_live == 0
    then
      return false
    end
    return has(1) and concurrency or NO_BOUND
  end

  -- How many jobs may run at once with each key that was asked for, if that is all that is set; nil
  -- if there is more to be minded.
  local function bounds()
    if not asked[1] then return {} end
    for i, state in ipairs(found_in(LIMITED, asked)) do
      if state and not is_shut[asked[i]] then return nil end
    end
    local targets, class_at, most = {}, {}, {}
    for i = 1, #asked do targets[i] = asked[i] end
    for i = 1, #asked do
      local class = string.match(asked[i], '^[^:]*')
      if not class_at[class] then
        class_at[class] = #targets + 1
        targets[#targets + 1] = class .. ':*'
      end
    end
    local set = found_in(LIMITS, targets)
    for i, key in ipairs(asked) do
      local bytes = set[i] or set[class_at[string.match(key, '^[^:]*')]]
      if bytes then
        local found = known[bytes]
        if found == nil then
          found = bound_in(bytes)
          known[bytes] = found
        end
        if not found then return nil end
        if found < NO_BOUND then most[key] = found end
      end
    end
    return most
  end

  -- Whether keys have more room than what was taken.
  local function have_room(names, most)
    for _, key in ipairs(names) do
      if most[key] then
        local running = try('SCARD', PREFIX .. 'hold:' .. key)
        if type(running) ~= 'number' or running + taking[key] >= most[key] then return false end
        most[key] = nil -- looked at
      end
    end
    return true
  end

  return bounds, have_room
end

