-- Looks at limit keys.
--
-- KEYS   22 fixed keys
-- ARGV   the most holders that are named, then the keys
-- Reply  { now, per key { its settings or "", those of its class or "", what is remembered of it or
--        "" (limits.lua), how many running jobs hold it, the first of their ids (joined), how many
--        live jobs carry it or are in its queue } }
--
-- Invariant: writes nothing.

local SORTED_MAX = 1000 -- of more holders some are named, not the first
local named, names, fields = tonumber(ARGV[1]), {}, {}
for i = 2, #ARGV do
  names[i - 1] = ARGV[i]
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], string.match(ARGV[i], '^[^:]*') .. ':*'
end
local settings, states = read('HMGET', LIMITS, fields), read('HMGET', LIMITED, names)
local lives = read('HMGET', LIVE, names)
local reply = { now }
for i, name in ipairs(names) do
  local hold = PREFIX .. 'hold:' .. name
  local running = try('SCARD', hold)
  running = type(running) == 'number' and running or 0
  local members = running <= SORTED_MAX and try('SMEMBERS', hold) or try('SRANDMEMBER', hold, named)
  local holders = {}
  for _, id in ipairs(members.err and {} or members) do
    if #id == 16 then holders[#holders + 1] = id end
  end
  sort_ids(holders)
  local live = lives[i]
  if sub(name, 1, 6) == 'queue:' then live = call('HGET', COUNT, 'live:' .. sub(name, 7)) end
  reply[i + 1] = {
    settings[2 * i - 1] or '', settings[2 * i] or '', states[i] or '',
    running, concat(holders, '', 1, min(named, #holders)),
    tonumber(live or nil) or 0,
  }
end
return reply
