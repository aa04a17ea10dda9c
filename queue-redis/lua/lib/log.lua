-- What a job tells about itself (`log`): version, number of the last line, lines that its attempt
-- has counted so far, that attempt's token, percent (255 for no progress), bytes of the progress
-- text, bytes of whatever a newer program has put behind it, text, that, and then per line its
-- length (2 bytes) and: number, time in ms, attempt, text.

local LOG_VERSION, LOG_BYTES, LINE_BYTES = 1, 34, 14
local LINES_MAX, LOG_MAX_BYTES = 100, 64 * 1024

local function new_log()
  return { last = 0, seen = 0, token = NO_TOKEN, percent = 255, text = '', rest = '', lines = {} }
end

-- A log, or nil if it is not a whole one. Lines stay packed, with their lengths.
local function parse_log(bytes)
  if not bytes or #bytes < LOG_BYTES or byte(bytes) ~= LOG_VERSION then return nil end
  local _, last, seen = struct.unpack('>BI6I6', bytes)
  local percent, text_bytes, rest_bytes = struct.unpack('>BHH', bytes, 30)
  local text_end = LOG_BYTES + text_bytes
  local log = {
    last = last,
    seen = seen,
    token = sub(bytes, 14, 29),
    percent = percent,
    text = sub(bytes, LOG_BYTES + 1, text_end),
    rest = sub(bytes, text_end + 1, text_end + rest_bytes),
    lines = {},
  }
  local at = text_end + rest_bytes + 1
  while at <= #bytes do
    local high, low = byte(bytes, at, at + 1)
    local line_end = low and at + 1 + high * 256 + low
    if not low or high * 256 + low < LINE_BYTES or line_end > #bytes then return nil end
    log.lines[#log.lines + 1] = sub(bytes, at, line_end)
    at = line_end + 1
  end
  return at == #bytes + 1 and log or nil
end

local function pack_log(log)
  return pack('>BI6I6', LOG_VERSION, log.last, log.seen)
    .. log.token
    .. pack('>BHH', log.percent, #log.text, #log.rest)
    .. log.text
    .. log.rest
    .. concat(log.lines)
end

local function number_of(line) return (struct.unpack('>I6', line, 3)) end
