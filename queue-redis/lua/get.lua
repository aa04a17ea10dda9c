-- Reads jobs as they stand.
--
-- KEYS   21 fixed keys
-- ARGV   the ids
-- Reply  per id: nil, or { state, record, body or "" if it is not apart, attempts or "", finished
--        record or "", result or "" if it is not apart, lease end or -1, worker or "", 1 if a
--        cancel was requested, history or "", progress and log or "" }
--
-- Invariant: writes nothing. The answer ends before the first job with which its bodies,
-- results, histories and logs would have more than ANSWER_MAX_BYTES, but not before the first of all.

local records, stored = read('HMGET', JOBS, ARGV)
local states = states_of(ARGV)
local atts, fins, runs = read('HMGET', ATT, ARGV), read('HMGET', FIN, ARGV), read('HMGET', RUN, ARGV)
local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ARGV) or {}

local large_bytes = 0
local has_history, has_log = call('EXISTS', HISTORY) == 1, call('EXISTS', LOG) == 1

-- The body and the result of a job as far as they are apart, or nil if they do not fit any more.
local function large_of(id, record, fin, is_first)
  local class = class_of(record)
  local has_body, has_result = class and class.apart, fin and has_result_apart(fin)
  if has_body then large_bytes = large_bytes + call('HSTRLEN', BODY, id) end
  if has_result then large_bytes = large_bytes + call('HSTRLEN', RESULT, id) end
  if has_history then large_bytes = large_bytes + call('HSTRLEN', HISTORY, id) end
  if has_log then large_bytes = large_bytes + call('HSTRLEN', LOG, id) end
  if large_bytes > ANSWER_MAX_BYTES and not is_first then return nil end
  return has_body and call('HGET', BODY, id) or '', has_result and call('HGET', RESULT, id) or ''
end

local replies = {}
for i = 1, #ARGV do
  if not records[i] then
    replies[i] = false
  else
    local body, result = large_of(ARGV[i], records[i], fins[i], i == 1)
    if not body then break end
    local until_ms, worker = -1, ''
    if states[i] == RUNNING then
      local token = sub(runs[i], 1, 16)
      until_ms = tonumber(call('ZSCORE', LEASES, token) or nil) or -1
      local packed = call('HGET', CLAIMS, token)
      if is_claim(packed) then worker = worker_of(packed) end
    end
    replies[i] = {
      states[i], stored[i], body, atts[i] or '', fins[i] or '', result, until_ms, worker,
      flags[i] or 0, has_history and call('HGET', HISTORY, ARGV[i]) or '',
      has_log and call('HGET', LOG, ARGV[i]) or '',
    }
  end
end
return replies
