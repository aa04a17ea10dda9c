-- Looks at a page of a lane, counted from its tail, or at all its stale tickets, for the audit.
--
-- KEYS   21 fixed keys
-- ARGV   "page", the lane, how many tickets behind the page, the most in it, and 1 to look at their
--        jobs too or 0; or "stale", the lane, and the most that are told
-- Reply  as that of dump.lua. `others` has the lane's list with the page's tickets and their stale
--        ones, or all stale ones and their noted sum; instead of a cursor it has the length of the
--        lane, or "large" if it has more stale tickets, and instead of bytes the noted sum
--
-- Invariant: writes nothing and reads no more tickets than it was asked for. What leaves the lane
-- at its head does not move the page.

local lane = ARGV[2]
local key, gone_key = PREFIX .. 'lane:' .. lane, PREFIX .. 'gone:' .. lane
local length = try('LLEN', key)
if type(length) ~= 'number' then length = 0 end
local noted = tonumber(try('HGET', gone_key, 'n') or nil) or 0

if ARGV[1] == 'stale' then
  local fields = try('HLEN', gone_key)
  if type(fields) ~= 'number' then return answer(tostring(length), 0) end
  if fields > tonumber(ARGV[3]) then return answer('large', noted) end
  if fields > 0 then add('others', gone_key, 'hash', call('HGETALL', gone_key)) end
  return answer(tostring(length), noted)
end

local behind, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local tickets = length > 0 and call('LRANGE', key, -behind - most, -behind - 1) or {}
add('others', key, 'list', tickets)
if ARGV[5] == '1' then
  local ids, all, seen = {}, {}, {}
  for _, ticket in ipairs(tickets) do
    if not seen[ticket] then
      seen[ticket] = true
      all[#all + 1] = ticket
      if #ticket == 16 then ids[#ids + 1] = ticket end
    end
  end
  if noted > 0 then look_at_stale(lane, all) end
  look_at(ids)
end
return answer(tostring(length), noted)
