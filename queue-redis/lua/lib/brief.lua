-- The brief forms of records and ends, which most jobs have: an eighth less memory, and fewer bytes for
-- Lua to hash. `read` answers the whole forms instead (class.lua, finish.lua), so that only scripts of
-- the hot path need to know the brief ones.
--
-- A brief record is of a job that was due when it came, without idempotency key and time to expire, with
-- the usual settings (USUAL) and options, and with its payload in the record:
--
--   1      version, 5 or with limit keys 6    2-7    enqueued_ms, which is due_ms, too
--   8-9    payload bytes
--   10     128 if its record is kept as long as usual when it has completed, else it is not kept at
--          all; 16 times the codec; and the priority
--   11     queue bytes, 0 for the queue "default"        12    kind bytes
--   13..   queue, kind, the limit keys as in others, payload
--
-- A brief end is of a job that has completed without a result in less than 2^24 ms: 20 (16, and 4 for
-- COMPLETED), finished_ms, elapsed_ms (3 bytes), and the first 4 bytes of the settling token.

-- A record as class.lua describes it. One that cannot be decoded stays as it is.
local function whole_record(bytes)
  local version = byte(bytes)
  if version ~= 5 and version ~= 6 then return bytes end
  local mixed, queue_bytes, kind_bytes = byte(bytes, 10, 12)
  if not kind_bytes then return bytes end
  local head_end, flags = 12 + queue_bytes + kind_bytes, '\0'
  if version == 6 then
    local high, low = byte(bytes, head_end + 1, head_end + 2)
    if not low then return bytes end
    head_end, flags = head_end + 2 + high * 256 + low, '\16'
  end
  if #bytes < head_end then return bytes end
  local its_times, kept, queue = sub(bytes, 2, 7), 11 * floor(mixed / 128), ''
  if queue_bytes == 0 then queue = 'default' end
  -- The byte behind the payload is that of the usual options.
  return string.char(version - 2) .. its_times .. its_times .. '\0\0' .. sub(bytes, 8, 9)
    .. '\0\0' .. string.char(floor(mixed / 16) % 8, queue_bytes + #queue, kind_bytes, mixed % 16)
    .. sub(USUAL, kept + 1, kept + 11) .. flags .. queue .. sub(bytes, 13) .. '\128'
end

-- The end of a job that is finished now; `settled` is elapsed_ms and token.
local function packed_end(state, reason, settled, result)
  if state == 4 and reason == 0 and result == '' and sub(settled, 1, 3) == '\0\0\0' then
    return pack('>BI6', 20, now) .. sub(settled, 4, 10)
  end
  return pack('>BBI6', state, reason, now) .. settled .. result
end

-- An end as finish.lua describes it; of its token there are the first bytes, and zeros.
local function whole_end(bytes)
  if #bytes ~= 14 or byte(bytes) ~= 20 then return bytes end
  return '\4\0' .. sub(bytes, 2, 7) .. '\0\0\0' .. sub(bytes, 8) .. string.rep('\0', 12)
end
