-- Keys that a script does not declare are named here (keys.rs). Those of short calls are done by now.
if not LIMITS then
  JOBS, DUE, IDEM, BODY = PREFIX .. 'jobs', PREFIX .. 'due', PREFIX .. 'idem', PREFIX .. 'body'
  LIVE, FIN, RUN, CLAIMS = PREFIX .. 'live', PREFIX .. 'fin', PREFIX .. 'run', PREFIX .. 'claims'
  LEASES, AGES, BAD = PREFIX .. 'leases', PREFIX .. 'ages', PREFIX .. 'bad'
  WHENCE, LIMITED, REOPEN = PREFIX .. 'whence', PREFIX .. 'limited', PREFIX .. 'reopen'
  ATT, HISTORY, RESULT = PREFIX .. 'att', PREFIX .. 'history', PREFIX .. 'result'
  CANCEL, LOG, LIMITS = PREFIX .. 'cancel', PREFIX .. 'log', PREFIX .. 'limits'
end

local stale = tonumber(meta[4]) or 0
local paused = meta[5] -- the names of paused queues, a comma before and behind each, or false
local turn = tonumber(meta[6]) or 0
if not (turn >= 0 and turn < 2 ^ 48 and turn % 1 == 0) then turn = 0 end
local fence = tonumber(meta[7]) or 0
if not (fence >= 0 and fence < 2 ^ 53 and fence % 1 == 0) then fence = 0 end
local loose = meta[8] -- set if quarantine may have left tickets behind in lanes
local epoch = meta[9] or ''
-- Which of the keys may be there that most stores do not have: an "a" for ATT, "c" for CANCEL, "d" for
-- DUE, "h" for HISTORY, "l" for LOG. What is not named need not be asked for. If that has been lost,
-- all may be there, until maintenance has looked (rare.lua).
local rare = meta[10] or 'acdhl'
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
-- each field that is read or written. A long one, even if it goes at once, ends that for this key. To be
-- told so is worth it once it has more than a few.
local function widen(hash, few)
  local size = call('HLEN', hash)
  if size > 512 or few and size <= few then return end
  local long = string.rep('-', 65)
  call('HSET', hash, long, '1')
  call('HDEL', hash, long)
end

