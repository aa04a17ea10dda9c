-- Every script begins with this: the fixed keys and the store's clock.
--
-- The rule of all scripts: validate everything, read everything, then write; no call that can
-- fail comes after the first write, because Redis does not roll back. Keys whose names are found
-- at run time are read with pcall first: one of a wrong type is left alone, not an error.
-- Ids, tokens and payloads are opaque strings; numbers stay below 2^53.

local META, JOBS, ATT, FIN, RUN, CLAIMS, LEASES, CANCEL, DUE, IDEM, COUNT, AGES, BAD, BODY, RESULT,
  HISTORY, LOG, WHENCE, LIMITS, LIMITED, REOPEN, LIVE = unpack(KEYS)
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

local old_turn, old_fence, old_stale = turn, fence, stale

-- Writes what changed of the store's numbers, in one call.
local function save_meta()
  local numbers = {}
  if now ~= clock_ms then
    numbers[1], numbers[2] = 'clock_ms', now_text
    clock_ms = now
  end
  local count = #numbers
  if turn ~= old_turn then
    numbers[count + 1], numbers[count + 2] = 'turn', string.format('%d', turn)
    count, old_turn = count + 2, turn
  end
  if fence ~= old_fence then
    numbers[count + 1], numbers[count + 2] = 'fence', string.format('%d', fence)
    count, old_fence = count + 2, fence
  end
  if stale ~= old_stale then
    numbers[count + 1], numbers[count + 2] = 'stale', stale
    count, old_stale = count + 2, stale
  end
  if count > 0 then call('HSET', META, unpack(numbers)) end
end

-- Redis keeps a hash of up to 512 short fields and values as one run of bytes, and looks through it for
-- each field that is read or written. A long one, even if it goes at once, ends that for this key.
local function widen(hash)
  if call('HLEN', hash) > 512 then return end
  local long = string.rep('-', 65)
  call('HSET', hash, long, '1')
  call('HDEL', hash, long)
end

