-- T4: leases jobs that the worker can run, after making due ones ready (T3).
--
-- KEYS   18 fixed keys
-- ARGV   claim token, worker, the most jobs, lease in ms, number of queues, the queues,
--        then per kind: kind, slots
-- Reply  { now_ms, claimed_ms, first fence, more, next due ms or -1, maintain, epoch,
--          ids that cannot be decoded (joined), places in the claim of a repeat, ids (joined),
--          attempts, bodies, record, record, … }; attempts is empty or one per job ("" for none),
--          without errors; bodies are those that are apart: number of the job from 1, body, …
--
-- Invariant: each job that leaves its lane has `run` → token, and the token has its lease, its
-- list of ids and the number of jobs left. A token that holds jobs gets these and no others. The
-- answer's bodies are at most ANSWER_MAX_BYTES or one, so that it arrives, and so does a repeat.
-- Paused queues are passed over.

local LANES_MAX, BURIED_MAX, STALE_MAX, PROMOTED_MAX = 32, 500, 500, 500
local token, worker, most, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function maintain_needed()
  local function reached(key)
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    return first[2] and tonumber(first[2]) <= now
  end
  return (reached(LEASES) or reached(AGES)) and 1 or 0
end

-- The bodies of these jobs, as the answer has them.
local function read_bodies(ids, numbers)
  local bodies = {}
  for i, body in ipairs(read('HMGET', BODY, ids)) do
    bodies[2 * i - 1], bodies[2 * i] = numbers[i], body or ''
  end
  return bodies
end

local function answer(
  claimed_ms, first_fence, more, due_ms, maintain, offsets, ids, records, bodies
)
  local next_due = due_ms and max(due_ms - now, 0) or -1
  if next_due == 0 then maintain = 1 end
  local atts = {}
  if #ids > 0 and call('HLEN', ATT) > 0 then
    for i, att in ipairs(read('HMGET', ATT, ids)) do
      atts[i] = att and sub(att, 1, ATT_BYTES) or ''
    end
  end
  local reply = {
    now, claimed_ms, first_fence, more and 1 or 0, next_due, maintain, meta[6] or '',
    concat(new_bad), concat(offsets, ','), concat(ids), atts,
    bodies,
  }
  for i = 1, #records do reply[12 + i] = records[i] end
  return reply
end

local packed = call('HGET', CLAIMS, token)
if is_claim(packed) then
  local _, claimed_ms, first_fence = struct.unpack('>BI6I8', packed)
  local all = ids_of(packed)
  local offsets, ids = {}, {}
  for i, run in ipairs(read('HMGET', RUN, all)) do
    if run and sub(run, 1, 16) == token then
      offsets[#offsets + 1], ids[#ids + 1] = i - 1, all[i]
    end
  end
  local records = read('HMGET', JOBS, ids)
  local body_ids, numbers = {}, {}
  for i, record in ipairs(records) do
    local class = record and class_of(record, 0)
    if class and class.apart then body_ids[#body_ids + 1], numbers[#numbers + 1] = ids[i], i end
  end
  local bodies = read_bodies(body_ids, numbers)
  local due_ms = next_due_ms()
  -- Nobody was there to renew it: its answer was lost.
  local ends = tonumber(call('ZSCORE', LEASES, token) or 0)
  call('ZADD', LEASES, max(ends, min(now + lease_ms, TIME_MAX)), token)
  save_meta()
  local maintain = maintain_needed()
  return answer(
    claimed_ms, first_fence, false, due_ms, maintain, offsets, ids, records, bodies
  )
end

-- Neither a new claim nor the burial of an expired job changes this.
local maintain = maintain_needed()
local _, more, due_ms = promote(PROMOTED_MAX)

local queues, slots, kinds = {}, {}, {}
for i = 1, tonumber(ARGV[5]) do queues[i] = ARGV[5 + i] end
for i = 6 + #queues, #ARGV, 2 do
  kinds[#kinds + 1] = ARGV[i]
  slots[ARGV[i]] = tonumber(ARGV[i + 1])
end
local fields = {}
for _, queue in ipairs(queues) do
  for _, kind in ipairs(kinds) do fields[#fields + 1] = queue .. '/' .. kind .. '/ready' end
end
local counted = read('HMGET', COUNT, fields)

local missing, buried, skipped, halted = most, 0, 0, false
local ids, records, runs = {}, {}, {}
local body_bytes, body_ids, body_numbers = 0, {}, {} -- of the taken jobs whose bodies are apart
local barren = {} -- pairs whose counted jobs are in no lane that can be read
local taken_ids = {} -- of lanes that are not trusted

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
  while taken < wanted and lane.live > 0 and not halted do
    local tickets = call('LRANGE', lane.key, lane.passed, lane.passed + wanted - taken - 1)
    if #tickets == 0 then
      lane.live = 0 -- the list is shorter than its counters say
      lane.changed = true
      break
    end
    local gone = lane.gone > 0 and read('HMGET', PREFIX .. 'gone:' .. lane.name, tickets) or {}
    local found = read('HMGET', JOBS, tickets)
    local elsewhere = misplaced(tickets)
    for i, id in ipairs(tickets) do
      if halted then break end
      local record = #id == 16 and found[i]
      local class, head_bytes
      if record then class, head_bytes = class_of(record, 0) end
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
          if record then quarantine(id, lane.pair) end
        elseif elsewhere[i] or loose and taken_ids[id] then
          skipped = skipped + 1
        elseif class.expires_ms <= now then
          finish(id, record, 0, class, DEAD, EXPIRED)
          buried = buried + 1
          if buried >= BURIED_MAX then halted = true end
        else
          taken = taken + 1
          if loose then taken_ids[id] = true end
          local count = #ids + 1
          ids[count], records[count] = id, record
          runs[2 * count - 1], runs[2 * count] = id, token .. sub(record, 1, head_bytes)
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

local function open_lane(open, pair, kind, priority, score)
  local lane =
    lane_of({ lane = pair .. '/' .. priority, pair = pair, priority = priority, indexed = score })
  if not lane.sound or lane.live <= 0 then return end
  lane.kind, lane.score, lane.dropped = kind, tonumber(score), {}
  lane.started = 0
  open[#open + 1] = lane
  barren[pair] = nil
end

local recounted = {} -- field → ready jobs

-- A counter that is no number is counted again; it would hide its lanes.
local function recount(field, pair)
  local live = 0
  for _, lane in pairs(lanes) do
    if lane.pair == pair then live = live + max(lane.live, 0) end
  end
  if live > 0 then call('HSET', COUNT, field, live) else call('HDEL', COUNT, field) end
  recounted[field] = live
end

-- The non-empty lanes of a queue's kinds that the worker can run.
local function open_queue(queue, from)
  local open = {}
  for i, kind in ipairs(kinds) do
    local pair = queue .. '/' .. kind
    local count = counted[from + i]
    if slots[kind] > 0 and count and (tonumber(count) or 1) > 0 then
      barren[pair] = true
      local index = try('ZRANGE', PREFIX .. 'lanes:' .. pair, 0, -1, 'WITHSCORES')
      for j = 1, index.err and 0 or #index, 2 do
        if string.find(index[j], '^%d$') then
          open_lane(open, pair, kind, index[j], index[j + 1])
        end
      end
      if barren[pair] and not index.err then
        -- Lanes that their index does not know any more are looked for.
        for priority = 0, 9 do
          open_lane(open, pair, kind, tostring(priority), priority * 2 ^ 48 + turn)
        end
      end
      if not tonumber(count) then recount(fields[from + i], pair) end
    end
  end
  return open
end

-- The lanes that take turns now: of the first by (priority, turn), those of the best priority.
local function group_of(open)
  local able = {}
  for _, lane in ipairs(open) do
    if lane.live > 0 and slots[lane.kind] > 0 then able[#able + 1] = lane end
  end
  table.sort(able, function(a, b) return a.score < b.score end)
  local group = {}
  for i = 1, min(#able, LANES_MAX) do
    if able[i].priority ~= able[1].priority then break end
    group[i] = able[i]
  end
  return group
end

local function serve_round(open)
  local group = group_of(open)
  local share = math.ceil(missing / max(#group, 1))
  local served = false
  for _, lane in ipairs(group) do
    lane.served = false
    take(lane, lane.kind, min(share, missing, slots[lane.kind]))
    if lane.served then
      served = true
      if lane.live > 0 then
        turn = turn + 1
        lane.turn = turn
        lane.score = lane.priority * 2 ^ 48 + turn
      end
    end
  end
  return served
end

for i, queue in ipairs(queues) do
  if missing > 0 and not halted and not is_paused(queue) then
    local open = open_queue(queue, (i - 1) * #kinds)
    while missing > 0 and not halted and serve_round(open) do end
  end
end

for _, lane in pairs(lanes) do
  if lane.started and lane.started > 0 then tally(lane.pair .. '/running', lane.started) end
end
tally_lanes()
local counts = read_tallies()
check_finish(counts)
local bodies = read_bodies(body_ids, body_numbers)
local first_fence = 0
if #ids > 0 then
  each('HSET', RUN, runs) -- the first write: it may still fail if RUN has a wrong type
  first_fence = max(fence + 1, min(now * 1000, 2 ^ 53 - 2 ^ 40))
  fence = first_fence + #ids - 1
  call('HSET', CLAIMS, token, pack_claim(first_fence, worker, ids))
  call('ZADD', LEASES, min(now + lease_ms, TIME_MAX), token)
end
save_tallies(counts)
for _, lane in pairs(lanes) do
  -- Stale tickets that were passed; a lane without live jobs is removed with all of them.
  if lane.live > 0 and lane.dropped and next(lane.dropped) then
    local key = PREFIX .. 'gone:' .. lane.name
    for id, times in pairs(lane.dropped) do
      stale = stale - times
      if try('HINCRBY', key, id, -times) == 0 then try('HDEL', key, id) end
    end
    if lane.gone > 0 then try('HSET', key, 'n', lane.gone) else try('UNLINK', key) end
  elseif lane.live <= 0 and lane.dropped then
    for _, times in pairs(lane.dropped) do stale = stale - times end
  end
end
save_quarantined()
save_finished()
save_lanes()
trim_shelves(counts)
-- Another worker may take what is left; a pair without jobs that a claim can reach keeps no
-- wake-up, or its workers would wake each other for nothing.
for i, field in ipairs(fields) do
  if counted[i] then
    local pair = sub(field, 1, -7)
    local ready = counts[field] or recounted[field] or tonumber(counted[i]) or 0
    if ready > 0 and not barren[pair] and not is_paused(pair:match('^[^/]*')) then
      wake(pair)
    else
      try('DEL', PREFIX .. 'wake:' .. pair)
    end
  end
end
save_meta()

more = more or halted or missing == 0
return answer(now, first_fence, more, due_ms, maintain, {}, ids, records, bodies)
