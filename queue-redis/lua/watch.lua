-- Looks at jobs that are being watched.
--
-- KEYS   21 fixed keys
-- ARGV   per job: its id, and the number of the last line that is known
-- Reply  per id: nil, or { state, attempts or "", finished record without its result or "",
--        progress and those lines of the log that are not known, or "" }
--
-- Invariant: writes nothing. The answer ends before the first job with which its logs would have
-- more than ANSWER_MAX_BYTES, but not before the first of all.

local ids, after = {}, {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1], after[#after + 1] = ARGV[i], tonumber(ARGV[i + 1])
end
local known = {}
for i, record in ipairs(read('HMGET', JOBS, ids)) do known[i] = record ~= false end
local states = states_of(ids)
local atts, fins = read('HMGET', ATT, ids), read('HMGET', FIN, ids)
local has_log = call('EXISTS', LOG) == 1

local log_bytes = 0
local function log_of(i)
  local bytes = has_log and call('HGET', LOG, ids[i])
  local log = bytes and parse_log(bytes)
  log_bytes = log_bytes + (bytes and #bytes or 0)
  if not log then return '' end
  local news = {}
  for _, line in ipairs(log.lines) do
    if number_of(line) > after[i] then news[#news + 1] = line end
  end
  log.lines = news
  return pack_log(log)
end

local replies = {}
for i = 1, #ids do
  if not known[i] then
    replies[i] = false
  else
    local log = log_of(i)
    if log_bytes > ANSWER_MAX_BYTES and i > 1 then break end
    local att = atts[i] and sub(atts[i], 1, ATT_BYTES)
    replies[i] = { states[i], att or '', fins[i] and sub(fins[i], 1, 30) or '', log }
  end
end
return replies
