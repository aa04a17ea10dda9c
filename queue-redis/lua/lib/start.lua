-- Every script begins with this: the fixed keys and the store's clock.
--
-- The rule of all scripts: validate everything, read everything, then write; no call that can
-- fail comes after the first write, because Redis does not roll back. Keys whose names are found
-- at run time are read with pcall first: one of a wrong type is left alone, not an error.
-- Ids, tokens and payloads are opaque strings; numbers stay below 2^53.

local META, JOBS, COUNT, DUE, IDEM, BODY, LIVE, FIN, RUN, CLAIMS, LEASES, AGES, BAD, WHENCE,
  LIMITED, REOPEN, ATT, HISTORY, RESULT, CANCEL, LOG, LIMITS = unpack(KEYS)
local PREFIX = string.sub(META, 1, -5) -- the name of META ends in "meta"
local call, try = redis.call, redis.pcall
local byte, sub, floor, min, max = string.byte, string.sub, math.floor, math.min, math.max
local concat, pack = table.concat, struct.pack

local TIME_MAX = 2 ^ 48 - 1
local CHUNK = 480 -- arguments per call: unpack has a limit; divisible by 2 and 16
-- Payload and options, or a result, of more bytes than this live in a hash of their own: no pass
-- over records has to read them.
local INLINE_MAX_BYTES = 1024
-- Finished records kept per queue, for completed, cancelled and dead jobs each. A call that adds
-- some leaves up to SLACK more: dropping many at once costs each of them less.
local FINISHED_MAX, SLACK = 10000, 100

local meta = call(
  'HMGET', META, 'schema', 'clock_ms', 'turn', 'fence', 'stale', 'epoch', 'paused', 'loose', 'limits'
)
if meta[1] and meta[1] ~= '1' then
  return redis.error_reply('SCHEMA the store has schema ' .. meta[1] .. ', this program knows 1')
end
local clock_ms = tonumber(meta[2]) or 0
if not (clock_ms >= 0 and clock_ms <= TIME_MAX) then clock_ms = 0 end
local turn = tonumber(meta[3]) or 0
if not (turn >= 0 and turn < 2 ^ 48 and turn % 1 == 0) then turn = 0 end
local fence = tonumber(meta[4]) or 0
if not (fence >= 0 and fence < 2 ^ 53 and fence % 1 == 0) then fence = 0 end
local stale = tonumber(meta[5]) or 0
local paused = meta[7] -- the names of paused queues, a comma before and behind each, or false
local loose = meta[8] -- set if quarantine may have left tickets behind in lanes
-- Set if there may be settings of limits or something to remember of limit keys: without it no key
-- is closed, and nothing of all that is read.
local limited = meta[9]

-- TIME is not frozen inside a script: it is read once. The store's clock never goes back.
local time = call('TIME')
local now_text = time[1] .. sub('00000' .. time[2], -6, -4)
local now = tonumber(now_text)
if now <= clock_ms then now, now_text = clock_ms, meta[2] end

