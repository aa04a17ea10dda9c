-- Looks at limit keys.
--
-- KEYS   21 fixed keys
-- ARGV   the most holders that are named, the most that are looked at for strays, then the keys
-- Reply  { now, per key { its settings or "", those of its class or "", what is remembered of it or
--        "" (limits.lua), how many running jobs hold it, the first of their ids (joined), how many
--        live jobs carry it or are in its queue, how many of the holders that were looked at are no
--        running jobs } }
--
-- Invariant: writes nothing.

local SORTED_MAX = 1000 -- of more holders some are named, not the first
local named, looks, names, fields = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, {}
for i = 3, #ARGV do
  names[i - 2] = ARGV[i]
  fields[#fields + 1], fields[#fields + 2] = ARGV[i], string.match(ARGV[i], '^[^:]*') .. ':*'
end
-- How many of the holders, or of some if there are many, do not run.
local function strays(hold, running)
  local holders = running <= looks and try('SMEMBERS', hold) or try('SRANDMEMBER', hold, looks)
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
    tonumber(live or nil) or 0, strays(hold, running),
  }
end
return reply
