-- What scripts read of a packed record (queue-redis/src/record.rs): its head, which is everything
-- but the payload and the options. Those, the *body*, follow the head, or are in BODY if they are
-- large. Jobs of one queue, kind and settings share their *class*, parsed once a call.
--
-- What RUN has of a job is the same head, with the token of its claim and the version in the place of
-- the first 17 bytes, so that the running jobs of a lane have the same; and behind it limit keys.
--
--   1      version              2-7   enqueued_ms          8-13  due_ms
--   14-17  payload bytes        18-19 key bytes            20    codec
--   21     queue bytes          22    kind bytes           23    priority
--   24-25  max_attempts         26    max_stalls           27-30 retention completed s
--   31-34  retention dead s     35    flags                36-41 expires_ms, in versions 1 and 2
--   42..   queue, kind, key, the time for which the key is held at least (6 bytes, by its flag),
--          the limit keys (by their flag: 2 bytes length, then the keys, sorted, with commas
--          between), then payload and options unless they are apart
--
-- Flags: 1 expires, 2 its body is apart, 4 its key is held until it is completed, 8 its key is held
-- for a time at least, 16 it has limit keys. Without 4 and 8 the key is held as long as the record
-- is kept.
--
-- Versions: 1 and 2 are of jobs that expire, 3 and 4 of those that do not and have nothing in that
-- place: the names begin at 36. Those of jobs with limit keys are even: a program that does not know
-- limit keys must not run them.

local EXPIRING, LASTING = 1, 3 -- one more with limit keys
local CLASS_AT, NAMES_AT, EXPIRY_BYTES, HOLD_BYTES = 21, 36, 6, 6
local IN_RUN = 17 -- where RUN has the version

local classes = {}

-- The keys in a text, or nil if it is not one of 1 to 4 limit keys. `%l`, `%u` and `%d` are those of
-- ASCII, and far faster than ranges.
local split_keys
do
  local KEY = '[%l%d_.-]+:[%l%d%u_.:@+-]+'
  local ONE, TWO = '^' .. KEY .. '$', '^(' .. KEY .. '),(' .. KEY .. ')$'
  local is_legal = {}
  function split_keys(text)
    local first, second = string.match(text, TWO) -- most have two
    if first then return { first, second } end
    local keys, count, from = {}, 0, 1
    repeat
      local comma = string.find(text, ',', from, true)
      local key = sub(text, from, comma and comma - 1)
      if not is_legal[key] then
        if not string.find(key, ONE) then return nil end
        is_legal[key] = true
      end
      count = count + 1
      keys[count] = key
      from = comma and comma + 1
    until not from
    if count <= 4 then return keys end
  end
end

local function parse_class(text, version, queue_bytes, kind_bytes)
  local skip, expires_ms = NAMES_AT - CLASS_AT, 0
  if version < LASTING then skip = skip + EXPIRY_BYTES end
  if #text ~= skip + queue_bytes + kind_bytes then return false end
  local _, _, priority, max_attempts, max_stalls, completed_s, dead_s, flags =
    struct.unpack('>BBBHBI4I4B', text)
  if version < LASTING then
    expires_ms = struct.unpack('>I6', text, skip - EXPIRY_BYTES + 1)
  elseif flags % 2 == 1 then
    return false
  end
  local queue = sub(text, skip + 1, skip + queue_bytes)
  local kind = sub(text, skip + queue_bytes + 1)
  local legal = '^[a-z0-9_.-]+$'
  if priority > 9 or not string.find(queue, legal) or not string.find(kind, legal) then
    return false
  end
  local pair = queue .. '/' .. kind
  local class = {
    queue = queue,
    pair = pair,
    lane = pair .. '/' .. priority,
    priority = priority,
    max_attempts = max_attempts,
    max_stalls = max_stalls,
    completed_s = completed_s,
    dead_s = dead_s,
    expires_ms = flags % 2 == 1 and expires_ms or TIME_MAX + 1,
    apart = floor(flags / 2) % 2 == 1,
    live_hold = floor(flags / 4) % 2 == 1,
    at_least = floor(flags / 8) % 2 == 1,
    limited = floor(flags / 16) % 2 == 1,
    names_end = CLASS_AT - 1 + #text,
    index = priority, -- what the lane is called in `lanes:<queue>/<kind>`
  }
  -- Those with limit keys have all but a few of its fields from it.
  if class.limited then class.variants, class.meta = {}, { __index = class } end
  return class
end

-- What the classes of records share that differ in their limit keys only, for a record that has its
-- version at `version_at`; and how many bytes its head has without those keys. Nil if it cannot be
-- decoded.
local function shared_class_of(bytes, version_at)
  local key_high, key_low, _, queue_bytes, kind_bytes = byte(bytes, 18, 22)
  local version = byte(bytes, version_at)
  if not kind_bytes or version < EXPIRING or version > LASTING + 1 then return nil end
  local names_end = NAMES_AT - 1 + queue_bytes + kind_bytes
  if version < LASTING then names_end = names_end + EXPIRY_BYTES end
  local text = sub(bytes, CLASS_AT, names_end)
  local class = classes[text]
  if class == nil then
    class = parse_class(text, version, queue_bytes, kind_bytes)
    classes[text] = class
  end
  if not class or class.limited ~= (version % 2 == 0) then return nil end
  local head_bytes = names_end + key_high * 256 + key_low
  if class.at_least then head_bytes = head_bytes + HOLD_BYTES end
  if class.limited then head_bytes = head_bytes + 2 end
  return class, head_bytes
end

-- The class of a record, or with IN_RUN of what RUN has of it, and how many bytes its head has; or nil
-- if it cannot be decoded.
local function class_of(bytes, version_at)
  local class, head_bytes = shared_class_of(bytes, version_at or 1)
  if class and class.limited then
    local high, low = byte(bytes, head_bytes - 1, head_bytes)
    if not low then return nil end
    local from = head_bytes + 1
    head_bytes = head_bytes + high * 256 + low
    local names = sub(bytes, from, head_bytes)
    local variant = class.variants[names]
    if variant == nil then
      local keys = split_keys(names)
      local index = class.priority .. '/' .. names
      variant = keys
        and setmetatable({ keys = keys, index = index, lane = class.pair .. '/' .. index }, class.meta)
      variant = variant or false
      class.variants[names] = variant
      if keys then classes[#classes + 1] = variant end
    end
    class = variant
  end
  if class and #bytes >= head_bytes then return class, head_bytes end
end
