-- What a claim has taken so far, and taking tickets from lanes.

local queues, slots, kinds, added_keys = {}, {}, {}, {}
for i = 1, tonumber(ARGV[6]) do queues[i] = ARGV[6 + i] end
for i = 7 + #queues, #ARGV - 1, 3 do
  local kind = ARGV[i]
  kinds[#kinds + 1] = kind
  slots[kind] = tonumber(ARGV[i + 1])
  if ARGV[i + 2] ~= '' then
    added_keys[kind] = split_keys(ARGV[i + 2])
    limits().load(added_keys[kind])
  end
end
local fields = {}
for _, queue in ipairs(queues) do
  for _, kind in ipairs(kinds) do fields[#fields + 1] = queue .. '/' .. kind .. '/ready' end
end
local counted = read('HMGET', COUNT, fields)

local missing, buried, skipped, halted = most, 0, 0, false
local ids, records, runs = {}, {}, {}
local started_of = {} -- queue → jobs that start
local body_bytes, body_ids, body_numbers = 0, {}, {} -- of the taken jobs whose bodies are apart
local taken_ids = {} -- of lanes that are not trusted
local parkings, shown = {}, {} -- entries to be parked; views and keys whose place may change

-- Whether a kind has slots, and ready jobs in a queue; their counter is at `place`.
local function may_serve(kind, place)
  local count = counted[place]
  return slots[kind] > 0 and count and (tonumber(count) or 1) > 0
end

-- Serves the lanes of a queue, round after round, until nothing is missing or none can serve. The
-- counters of its kinds are behind the place `from`.
local function serve_rounds(queue, from, serve_round)
  local names = {}
  for i, kind in ipairs(kinds) do
    if may_serve(kind, from + i) then names[#names + 1] = queue .. '/' .. kind end
  end
  local turn_jobs, lanes_most = turn_for(missing, names), 0
  repeat
    lanes_most = lanes_for(missing, turn_jobs, lanes_most)
  until missing <= 0 or halted or not serve_round(lanes_most)
end

-- Which of these tickets are of jobs that are elsewhere. Looked up only while there are stale tickets,
-- or where a damaged job may have left one: those are not trusted.
local function misplaced(tickets)
  if stale == 0 and not loose then return {} end
  local places = {}
  for _, key in ipairs({ FIN, RUN }) do
    for i, found in ipairs(read('HMGET', key, tickets)) do
      places[i] = places[i] or found
    end
  end
  for _, key in ipairs({ DUE, BAD }) do
    for i, found in ipairs(read('ZMSCORE', key, tickets)) do
      places[i] = places[i] or found
    end
  end
  return places
end

-- Whether a ticket is of a job that was cancelled; it is used up then.
local function is_passed(lane, id, times)
  local dropped = lane.dropped[id] or 0
  if (tonumber(times) or 0) <= dropped then return false end
  lane.dropped[id] = dropped + 1
  lane.gone = lane.gone - 1
  return true
end

local function has_no_room_for(record)
  return #ids > 0 and body_bytes + payload_bytes(record) > ANSWER_MAX_BYTES
end

-- Reads the next tickets of a lane and takes, buries or passes each; answers how many it took.
local function take(lane, kind, wanted)
  local taken = 0
  local added = added_keys[kind] and concat(added_keys[kind], ',') or ''
  while taken < wanted and lane.live > 0 and not halted do
    local tickets = call('LRANGE', lane.key, lane.passed, lane.passed + wanted - taken - 1)
    if #tickets == 0 then
      lane.live = 0 -- the list is shorter than its counters say
      lane.changed = true
      break
    end
    local gone = lane.gone > 0 and read('HMGET', PREFIX .. 'gone:' .. lane.name, tickets) or {}
    local found, stored = read('HMGET', JOBS, tickets)
    local elsewhere = misplaced(tickets)
    for i, id in ipairs(tickets) do
      if halted then break end
      local record = #id == 16 and found[i]
      local class, head_bytes
      if record then class, head_bytes = class_of(record) end
      if gone[i] and is_passed(lane, id, gone[i]) then
        skipped = skipped + 1
        if skipped >= STALE_MAX then halted = true end
      elseif class and class.apart and class.expires_ms > now and has_no_room_for(record) then
        halted = true
        break
      else
        lane.live = lane.live - 1
        lane.served = true
        lane.by = lane.by - 1
        if not class then
          if record then
            quarantine(id, lane.pair)
            tally_keys(lane.keys or {}, -1)
          end
        elseif elsewhere[i] or loose and taken_ids[id] then
          skipped = skipped + 1
        elseif class.expires_ms <= now then
          finish(id, record, class, DEAD, EXPIRED)
          buried = buried + 1
          expired_of = expired_of or {}
          expired_of[class.pair] = (expired_of[class.pair] or 0) + 1
          if buried >= BURIED_MAX then halted = true end
        else
          taken = taken + 1
          if loose then taken_ids[id] = true end
          local count = #ids + 1
          ids[count], records[count] = id, stored[i]
          runs[2 * count - 1], runs[2 * count] = id, token .. sub(record, 1, 1) .. sub(record, 18, head_bytes) .. added
          lane.started = lane.started + 1
          if class.apart then
            body_bytes = body_bytes + payload_bytes(record)
            body_ids[#body_ids + 1], body_numbers[#body_numbers + 1] = id, count
          end
        end
      end
      lane.changed = true
      lane.passed = lane.passed + 1
    end
  end
  missing = missing - taken
  slots[kind] = slots[kind] - taken
  return taken
end

-- What the lane of an index's entry holds, or nil if that cannot be read.
local function open_lane(entry)
  local lane = lane_of(entry)
  if not lane.sound or lane.live <= 0 then
    -- One with limit keys that is not there is forgotten.
    lane.changed = lane.changed or lane.sound and lane.keys ~= nil
    return nil
  end
  lane.score, lane.dropped, lane.started = tonumber(entry.indexed), {}, 0
  return lane
end

