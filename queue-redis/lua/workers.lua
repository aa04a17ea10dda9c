-- Reads what workers have said about themselves.
--
-- KEYS   21 fixed keys
-- ARGV   the most workers
-- Reply  per worker that is believed to be there: what it said, for how many ms it still is
--
-- Invariant: writes nothing.

local alive = call(
  'ZRANGE', PREFIX .. 'alive', '(' .. string.format('%.0f', now), '+inf', 'BYSCORE',
  'LIMIT', 0, ARGV[1], 'WITHSCORES'
)
local names, replies = {}, {}
for i = 1, #alive, 2 do names[#names + 1] = alive[i] end
for i, words in ipairs(read('HMGET', PREFIX .. 'workers', names)) do
  if words then
    replies[#replies + 1], replies[#replies + 2] = words, tonumber(alive[2 * i]) - now
  end
end
return replies
