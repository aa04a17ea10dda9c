-- Looks at limit keys.
--
-- KEYS   22 fixed keys
-- ARGV   the most holders that are named, the most that are looked at for strays, then the keys
-- Reply  { now, per key { its settings or "", those of its class or "", what is remembered of it or
--        "" (limits.lua), how many running jobs hold it, the first of their ids (joined), how many
--        live jobs carry it or are in its queue, how many of the holders that were looked at are no
--        running jobs } }
--
-- Invariant: writes nothing.

local named, looks, names, fields = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, {}
for i = 3, #ARGV do
  names[i - 2] = ARGV[i]
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], string.match(ARGV[i], '^[^:]*') .. ':*'
end
-- How many of the first holders do not run.
local function strays(hold)
  local holders = try('ZRANGE', hold, 0, looks - 1)
  local count = 0
  for _, run in ipairs(read('HMGET', RUN, holders.err and {} or holders)) do
    if not run then count = count + 1 end
  end
  return count
end

local settings, states = read('HMGET', LIMITS, fields), read('HMGET', LIMITED, names)
local lives = read('HMGET', LIVE, names)
local reply = { now }
for i, name in ipairs(names) do
  local hold = PREFIX .. 'hold:' .. name
  local holders = try('ZRANGE', hold, 0, named - 1)
  local running = try('ZCARD', hold)
  local live = lives[i]
  if sub(name, 1, 6) == 'queue:' then live = call('HGET', COUNT, 'live:' .. sub(name, 7)) end
  reply[i + 1] = {
    settings[2 * i - 1] or '', settings[2 * i] or '', states[i] or '',
    type(running) == 'number' and running or 0, concat(holders.err and {} or holders),
    tonumber(live or nil) or 0, strays(hold),
  }
end
return reply
