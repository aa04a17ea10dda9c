-- More of what scripts read of records (class.lua).

local STATE_NAMES = {
  [0] = 'scheduled', 'ready', 'running', 'retrying', 'completed', 'dead', 'cancelled',
  'quarantined',
}

-- The counter of a class's jobs in a state.
local function field_of(class, state)
  local field = class[state]
  if not field then
    field = class.pair .. '/' .. STATE_NAMES[state]
    class[state] = field
  end
  return field
end

local function payload_bytes(bytes)
  local a, b, c, d = byte(bytes, 14, 17)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

-- The idempotency key, or nil; RUN has it in the same place.
local function key_of(head, class)
  local high, low = byte(head, 18, 19)
  local length = high * 256 + low
  if length == 0 then return nil end
  local from = class.names_end + 1
  return sub(head, from, from + length - 1)
end

-- The end of the time for which a job holds its key at least; only of a class with such a time.
local function hold_end_ms(record, class)
  local high, low = byte(record, 18, 19)
  local at = class.names_end + 1 + high * 256 + low
  return min(struct.unpack('>I6', record, 2) + struct.unpack('>I6', record, at), TIME_MAX)
end

-- The shelf where a record waits for the end of its retention, and that end.
local function retention_of(class, state, finished_ms)
  local shelf, kept_s = 'done:', class.completed_s
  if state == DEAD then
    shelf, kept_s = 'dead:', class.dead_s
  elseif state == CANCELLED then
    shelf = 'void:'
  end
  return shelf .. class.queue, min(finished_ms + kept_s * 1000, TIME_MAX)
end

-- Attempts (`att`): version, failures, stalls, snoozes, due_ms, the token of the last settlement,
-- bytes of the last error, that error, and whatever a newer program has put behind it.
local ATT_VERSION, ATT_BYTES = 1, 32

local function parse_att(bytes)
  if not bytes or #bytes < ATT_BYTES or byte(bytes) ~= ATT_VERSION then return nil end
  local _, failures, stalls, snoozes, due_ms = struct.unpack('>BHBI4I6', bytes)
  local high, low = byte(bytes, 31, ATT_BYTES)
  local error_end = ATT_BYTES + high * 256 + low
  return {
    failures = failures,
    stalls = stalls,
    snoozes = snoozes,
    due_ms = due_ms,
    token = sub(bytes, 15, 30),
    error = sub(bytes, ATT_BYTES + 1, error_end),
    rest = sub(bytes, error_end + 1),
  }
end

-- The attempts of a job that has none noted yet; `record` may be missing or damaged.
local function new_att(record)
  local due_ms = record and #record >= 13 and struct.unpack('>I6', record, 8) or now
  return {
    failures = 0,
    stalls = 0,
    snoozes = 0,
    due_ms = due_ms,
    token = NO_TOKEN,
    error = '',
    rest = '',
  }
end

local function pack_att(att)
  local counts = pack('>BHBI4I6', ATT_VERSION, att.failures, att.stalls, att.snoozes, att.due_ms)
  return counts .. att.token .. pack('>H', #att.error) .. att.error .. att.rest
end
