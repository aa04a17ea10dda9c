-- Reads jobs as they stand.
--
-- KEYS   13 fixed keys
-- ARGV   the ids
-- Reply  per id: nil, or { state, record, attempts or "", finished record or "", lease end or -1,
--        worker or "", 1 if a cancel was requested }
--
-- Invariant: writes nothing.

local records = read('HMGET', JOBS, ARGV)
local states = states_of(ARGV)
local atts, fins, runs = read('HMGET', ATT, ARGV), read('HMGET', FIN, ARGV), read('HMGET', RUN, ARGV)
local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ARGV) or {}

local replies = {}
for i = 1, #ARGV do
  if not records[i] then
    replies[i] = false
  else
    local until_ms, worker = -1, ''
    if states[i] == RUNNING then
      local token = sub(runs[i], 1, 16)
      until_ms = tonumber(call('ZSCORE', LEASES, token) or nil) or -1
      local packed = call('HGET', CLAIMS, token)
      if is_claim(packed) then worker = worker_of(packed) end
    end
    replies[i] = {
      states[i], records[i], atts[i] or '', fins[i] or '', until_ms, worker, flags[i] or 0,
    }
  end
end
return replies
