-- A look at completed records that have to go because there are too many.

-- Answers how many of these records of one shelf each counter counts, and adds their idempotency keys
-- and who should have them to two lists; or nothing if one of them is not plain.
local function look_at_old(shelf, ids, expiries, count, keys, owners)
  local records, ends = call('HMGET', JOBS, unpack(ids)), call('HMGET', FIN, unpack(ids))
  local jobs_of = {}
  local class, version, counter, ending, expiry -- of the record before
  for i = 1, count do
    local record, fin = records[i] and whole_record(records[i]), ends[i] and whole_end(ends[i])
    if not record or not fin or #fin < 30 or #record < 35 then return nil end
    local key_high, key_low, _, queue_bytes, kind_bytes = byte(record, 18, 22)
    local its_version, key_bytes, flags = byte(record), key_high * 256 + key_low, byte(record, 35)
    local names_end = (its_version < 3 and 41 or 35) + queue_bytes + kind_bytes
    local its_class, its_ending = sub(record, 20, names_end), sub(fin, 1, 8)
    if its_class ~= class or its_version ~= version then
      class, version, ending = its_class, its_version, nil
      local kind_from = names_end - kind_bytes + 1
      local queue = sub(record, kind_from - queue_bytes, kind_from - 1)
      local pair = queue .. '/' .. sub(record, kind_from, names_end)
      if 'done:' .. queue ~= shelf or not string.find(pair, '^[a-z0-9_.-]+/[a-z0-9_.-]+$') then
        return nil
      end
      -- Flags: 1 expires, 2 its body is apart, 16 it has limit keys (class.lua).
      if version < 1 or version > 4 or byte(record, 23) > 9 or flags % 4 > 1 or flags > 31 then
        return nil
      end
      if (flags >= 16) ~= (version % 2 == 0) or flags % 2 == 1 and version > 2 then return nil end
      counter = pair .. '/completed'
    end
    if its_ending ~= ending or expiries[i] ~= expiry then
      ending, expiry = its_ending, expiries[i]
      local state, reason, finished_ms = struct.unpack('>BBI6', fin)
      local expiry_ms = min(finished_ms + struct.unpack('>I4', record, 27) * 1000, TIME_MAX)
      -- 4 is COMPLETED.
      if state ~= 4 or reason ~= 0 or expiry_ms ~= tonumber(expiry) then return nil end
    end
    local head_end = names_end + key_bytes + (floor(flags / 8) % 2 == 1 and 6 or 0)
    if version % 2 == 0 then
      local high, low = byte(record, head_end + 1, head_end + 2)
      if not low then return nil end
      head_end = head_end + 2 + high * 256 + low
    end
    if #record < head_end then return nil end
    if key_bytes > 0 then
      keys[#keys + 1] = sub(record, names_end + 1, names_end + key_bytes)
      owners[#keys] = ids[i]
    end
    jobs_of[counter] = (jobs_of[counter] or 0) + 1
  end
  return jobs_of
end

