-- T5: extends claims and tells which of their jobs somebody asked to cancel.
--
-- KEYS   21 fixed keys
-- ARGV   lease in ms, then the claim tokens
-- Reply  per token: nil if it holds no jobs, else the joined ids of its jobs to be cancelled
--
-- Invariant: a lease is never created and never gets shorter.

local until_ms = min(now + tonumber(ARGV[1]), TIME_MAX)
local tokens = {}
for i = 2, #ARGV do tokens[i - 1] = ARGV[i] end
local ends = read('ZMSCORE', LEASES, tokens)
local asked = call('SCARD', CANCEL) > 0
local claims = asked and read('HMGET', CLAIMS, tokens) or {}

-- The ids of a claim that it still holds and that have a cancel request.
local function cancelled(token, packed)
  if not is_claim(packed) then return '' end
  local ids, flagged = ids_of(packed), {}
  for i, flag in ipairs(read('SMISMEMBER', CANCEL, ids)) do
    if flag == 1 then flagged[#flagged + 1] = ids[i] end
  end
  local held = {}
  for i, run in ipairs(read('HMGET', RUN, flagged)) do
    if run and sub(run, 1, 16) == token then held[#held + 1] = flagged[i] end
  end
  return concat(held)
end

local replies, extended = {}, {}
for i, token in ipairs(tokens) do
  if ends[i] then
    replies[i] = asked and cancelled(token, claims[i]) or ''
    if tonumber(ends[i]) < until_ms then
      extended[#extended + 1], extended[#extended + 2] = until_ms, token
    end
  else
    replies[i] = false
  end
end

each('ZADD', LEASES, extended)
save_meta()
return replies
