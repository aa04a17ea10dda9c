-- T3: makes due jobs ready, in the order of their time and id.

local function next_due_ms() return tonumber(call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]) end

-- Moves at most `budget` due jobs to the tails of their lanes and writes that. Answers how many,
-- whether more are due, and when the next job is due. A job that cannot be decoded is quarantined,
-- one whose lane cannot be written is tried again a minute later.
local function promote(budget)
  local first_ms = next_due_ms()
  if not first_ms or first_ms > now then return 0, false, first_ms end
  if budget == 0 then return 0, true, first_ms end
  local ids = call('ZRANGE', DUE, '-inf', now, 'BYSCORE', 'LIMIT', 0, budget + 1)
  local more = #ids > budget
  if more then ids[#ids] = nil end
  local records = read('HMGET', JOBS, ids)
  local atts = call('HLEN', ATT) > 0 and read('HMGET', ATT, ids) or {}
  local moved, parked, count = {}, {}, 0
  for i, id in ipairs(ids) do
    local record = #id == 16 and records[i]
    local class = record and class_of(record)
    local lane = class and lane_of(class)
    if not class then
      moved[#moved + 1] = id
      if record then quarantine(id) end
    elseif not lane.sound then
      parked[#parked + 1], parked[#parked + 2] = now + PARKED_MS, id
    else
      local att = parse_att(atts[i])
      tally(field_of(class, att and att.failures > 0 and RETRYING or SCHEDULED), -1)
      push_tail(lane, id)
      moved[#moved + 1] = id
      count = count + 1
    end
  end
  tally_lanes()
  save_tallies(read_tallies())
  each('ZREM', DUE, moved)
  each('ZADD', DUE, parked)
  save_quarantined()
  save_lanes()
  save_meta()
  return count, more, next_due_ms()
end
