-- Where lanes with limit keys are, and what is known of their keys, for the audit.

local zsets = {} -- key without its prefix → its members and scores as far as they are looked at
local asked_keys, asked_list, looked = {}, {}, {}

local function ask_key(key)
  if not asked_keys[key] then
    asked_keys[key] = true
    asked_list[#asked_list + 1] = key
  end
end

-- Notes a member's score in a sorted set; answers whether it is there.
local function note_member(name, member)
  local score = try('ZSCORE', PREFIX .. name, member)
  if type(score) ~= 'string' then return false end
  local list = zsets[name] or {}
  zsets[name] = list
  list[#list + 1], list[#list + 2] = member, score
  return true
end

-- Notes whether a lane is there and where it stands.
local function look_at_place(pair, index)
  local lane = pair .. '/' .. index
  if looked[lane] then return end
  looked[lane] = true
  if call('TYPE', PREFIX .. 'lane:' .. lane).ok == 'list' then
    add('others', PREFIX .. 'lane:' .. lane, 'list', {})
  end
  note_member('lanes:' .. pair, index)
  note_member('parked:' .. pair, index)
  local keys = string.match(index, '^%d/(.+)$')
  for _, key in ipairs(keys and split_keys(keys) or {}) do
    if note_member('waits:' .. pair .. ':' .. key, index) then
      ask_key(key)
      local shown = '@' .. key
      if not looked[pair .. shown] then note_member('lanes:' .. pair, shown) end
      looked[pair .. shown] = true
    end
  end
end

-- A key that the index shows, and the first lane that waits there.
local function look_at_shown(pair, key)
  local shown = '@' .. key
  if not looked[pair .. shown] then note_member('lanes:' .. pair, shown) end
  looked[pair .. shown] = true
  ask_key(key)
  local head = try('ZRANGE', PREFIX .. 'waits:' .. pair .. ':' .. key, 0, 0)
  if head[1] then look_at_place(pair, head[1]) end
end

-- Notes what is set and remembered of these keys.
local function look_at_keys_of(keys)
  local fields, settings, states, reopen = {}, {}, {}, {}
  for _, key in ipairs(keys) do
    fields[#fields + 1], fields[#fields + 2] = key, string.match(key, '^[^:]*') .. ':*'
    local running = try('SCARD', PREFIX .. 'hold:' .. key)
    add('running', key, type(running) == 'number' and running or 0)
  end
  for i, bytes in ipairs(read('HMGET', LIMITS, fields)) do
    if bytes then settings[#settings + 1], settings[#settings + 2] = fields[i], bytes end
  end
  for i, bytes in ipairs(read('HMGET', LIMITED, keys)) do
    if bytes then states[#states + 1], states[#states + 2] = keys[i], bytes end
  end
  for i, at in ipairs(read('ZMSCORE', REOPEN, keys)) do
    if at then reopen[#reopen + 1], reopen[#reopen + 2] = keys[i], at end
  end
  found.limits = { settings, states, reopen, limited or '', call('HGET', META, 'relook') or '' }
end

local function tell_places()
  for name, content in pairs(zsets) do add('others', PREFIX .. name, 'zset', content) end
  look_at_keys_of(asked_list)
end
