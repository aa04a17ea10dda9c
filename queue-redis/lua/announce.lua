-- Takes down what a worker says about itself.
--
-- KEYS   21 fixed keys
-- ARGV   the worker's name and number, what it says, for how many ms that is believed (0 to forget
--        it), the most workers that are remembered
-- Reply  nil
--
-- Invariant: `workers` has an entry for each member of `alive`. Those whose time is over go, a
-- bounded number a call, and the ones whose time is over first make room for others.

local GONE_MAX = 100
local who, words, believed_ms, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local WORKERS, ALIVE = PREFIX .. 'workers', PREFIX .. 'alive'

call('HLEN', WORKERS)
local count = call('ZCARD', ALIVE)
local gone = call('ZRANGE', ALIVE, '-inf', now, 'BYSCORE', 'LIMIT', 0, GONE_MAX)
if believed_ms == 0 then
  gone[#gone + 1] = who
elseif count - #gone >= most and not call('ZSCORE', ALIVE, who) then
  gone[#gone + 1] = call('ZRANGE', ALIVE, #gone, #gone)[1]
end
each('ZREM', ALIVE, gone)
each('HDEL', WORKERS, gone)
if believed_ms > 0 then
  call('HSET', WORKERS, who, words)
  call('ZADD', ALIVE, min(now + believed_ms, TIME_MAX), who)
end
save_meta()
