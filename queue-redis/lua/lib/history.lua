-- Attempts that failed or whose lease expired (`history`): version, then per attempt its length
-- (2 bytes) and: number, ended_ms, elapsed_ms, end (0 failed, 1 lease expired), worker bytes,
-- worker, error. The last HISTORY_MAX are kept.

local HISTORY_VERSION, HISTORY_MAX = 1, 20
local NO_TIME = pack('>I6', 0)

local noted, noted_entries = {}, {}

-- Notes an attempt that has ended now. `elapsed` is 6 bytes, or nil if its lease expired.
local function note(id, number, worker, elapsed, error)
  local entry = pack('>HI6', min(number, 65535), now)
    .. (elapsed or NO_TIME)
    .. string.char(elapsed and 0 or 1, #worker)
    .. worker
    .. error
  noted[#noted + 1], noted_entries[#noted_entries + 1] = id, pack('>H', #entry) .. entry
end

-- Where each entry of a history begins; nil if it is not a whole one.
local function entries_of(bytes)
  if byte(bytes) ~= HISTORY_VERSION then return nil end
  local starts, at = {}, 2
  while at <= #bytes do
    local high, low = byte(bytes, at, at + 1)
    if not low then return nil end
    starts[#starts + 1] = at
    at = at + 2 + high * 256 + low
  end
  return at == #bytes + 1 and starts or nil
end

-- The histories that change, as `id, bytes, …`: to be read before the first write.
local function read_history()
  local changed = {}
  for i, have in ipairs(read('HMGET', HISTORY, noted)) do
    local starts = have and entries_of(have)
    if not starts then
      have = string.char(HISTORY_VERSION)
    elseif #starts >= HISTORY_MAX then
      have = sub(have, 1, 1) .. sub(have, starts[#starts - HISTORY_MAX + 2])
    end
    changed[2 * i - 1], changed[2 * i] = noted[i], have .. noted_entries[i]
  end
  noted, noted_entries = {}, {}
  return changed
end
