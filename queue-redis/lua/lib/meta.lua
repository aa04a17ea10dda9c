-- Keys that a script does not create need not be declared (keys.rs). Those of short calls have been
-- read by now.
if not LIMITS then
  if not FIN then
    FIN, RUN, CLAIMS, LEASES = PREFIX .. 'fin', PREFIX .. 'run', PREFIX .. 'claims', PREFIX .. 'leases'
    AGES, BAD, WHENCE = PREFIX .. 'ages', PREFIX .. 'bad', PREFIX .. 'whence'
    LIMITED, REOPEN = PREFIX .. 'limited', PREFIX .. 'reopen'
  end
  if not ATT then
    ATT, HISTORY, RESULT = PREFIX .. 'att', PREFIX .. 'history', PREFIX .. 'result'
  end
  CANCEL, LOG, LIMITS = PREFIX .. 'cancel', PREFIX .. 'log', PREFIX .. 'limits'
end

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

