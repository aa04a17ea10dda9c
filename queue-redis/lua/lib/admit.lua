-- How many live jobs a queue and a limit key may have: `max_live` of the settings (limits.lua).

-- A function that names what is full for a job of a class, or nil, and one that counts a job of a
-- class that comes (1) or goes (-1). Made only if there may be settings.
local function make_admission()
  local known = {}

  local function max_live_of(bytes)
    if not bytes or #bytes < 46 or byte(bytes) ~= 1 then return nil end
    if floor(byte(bytes, 2) / 32) % 2 == 0 then return nil end
    local most = struct.unpack('>I8', bytes, 39)
    return most > 0 and most or nil
  end

  -- The settings in force for a key, and how many live jobs it has.
  local function meet(name, key, field)
    if not known[name] then
      local class_ = string.match(name, '^[^:]*') .. ':*'
      local set = call('HMGET', LIMITS, name, class_)
      -- The settings of a key count as a whole, also where they do not say anything.
      local most = max_live_of(set[1] or set[2])
      known[name] = { most = most, live = most and tonumber(call('HGET', key, field) or nil) or 0 }
    end
    return known[name]
  end

  -- What a class counts for, the queue first.
  local function all_of(class)
    local list = { { 'queue:' .. class.queue, COUNT, 'live:' .. class.queue } }
    for _, name in ipairs(class.keys or {}) do list[#list + 1] = { name, LIVE, name } end
    return list
  end

  local function count(class, by)
    for _, one in ipairs(all_of(class)) do
      local limit = meet(unpack(one))
      limit.live = limit.live + by
    end
  end

  -- `replaced` is the class of a job that leaves in the same step.
  local function full(class, replaced)
    if replaced then count(replaced, -1) end
    local name
    for _, one in ipairs(all_of(class)) do
      local limit = meet(unpack(one))
      if not name and limit.most and limit.live >= limit.most then name = one[1] end
    end
    if replaced then count(replaced, 1) end
    if not name then return nil end
    return concat({ now, name, starts_of(class.queue) }, ' ')
  end

  return full, count
end
