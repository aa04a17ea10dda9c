-- Reads what is stored of quarantined jobs.
--
-- KEYS   21 fixed keys
-- ARGV   the ids
-- Reply  per id: nil if the store does not know it, the state if it is not quarantined, or
--        { record, body, attempts, finished record, result, history, log }, each nil if not there
--
-- Invariant: writes nothing. The answer ends before the first job with which it would have more
-- than ANSWER_MAX_BYTES, but not before the first of all.

local PARTS = { JOBS, BODY, ATT, FIN, RESULT, HISTORY, LOG }
local known = read('HMGET', JOBS, ARGV)
local states = states_of(ARGV)
local replies, bytes = {}, 0
for i, id in ipairs(ARGV) do
  if not known[i] then
    replies[i] = false
  elseif states[i] ~= QUARANTINED then
    replies[i] = states[i]
  else
    for _, key in ipairs(PARTS) do bytes = bytes + call('HSTRLEN', key, id) end
    if bytes > ANSWER_MAX_BYTES and i > 1 then break end
    local parts = {}
    for n, key in ipairs(PARTS) do parts[n] = call('HGET', key, id) end
    replies[i] = parts
  end
end
return replies
