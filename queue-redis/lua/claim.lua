-- T4: leases jobs that the worker can run, after making due ones ready (T3).
--
-- KEYS   the first of the fixed keys and one that is never there
-- ARGV   claim token, worker, the most jobs, lease in ms, number of queues, the queues,
--        then per kind: kind, slots, the limit keys that the worker adds (with commas between)
-- Reply  { now_ms, claimed_ms, first fence, more, next due ms or -1, maintain, epoch,
--          ids that cannot be decoded (joined), places in the claim of a repeat, ids (joined),
--          attempts, bodies, shut, expired, record, record, … }, where a list without elements is
--          nothing; attempts is none or one per job ("" for none), without errors; bodies are those that are apart: number of the job from 1,
--          body, …; shut is "<queue>/<kind>", key, … of jobs that wait for a key that the worker
--          adds; expired is "<queue>/<kind>", count, … of the jobs that this call has made dead
--
-- Invariant: each job that leaves its lane has `run` → token, and the token has its lease, its
-- list of ids and the number of jobs left. A token that holds jobs gets these and no others. The
-- answer's bodies are at most ANSWER_MAX_BYTES or one, so that it arrives, and so does a repeat.
-- Paused queues are passed over. A lane that is found without room leaves the index for one of the
-- keys that have none: no claim meets it again until that key has room.

local LANES_MAX, BURIED_MAX, STALE_MAX, PROMOTED_MAX = 16, 500, 500, 500
local PARKED_MAX = 128 -- lanes that one call parks
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

local att_count
local function has_atts()
  att_count = att_count or call('HLEN', ATT)
  return att_count > 0
end

local shut = {} -- see the reply
local expired_of -- by queue and kind, once this call has made jobs dead

local function answer(
  claimed_ms, first_fence, more, due_ms, room_ms, maintain, offsets, ids, records, bodies
)
  if due_ms and due_ms <= now or is_tidy_due then maintain = 1 end
  local next_ms = min(due_ms or TIME_MAX + 1, room_ms or TIME_MAX + 1)
  local next_due = next_ms <= TIME_MAX and max(next_ms - now, 0) or -1
  local atts = {}
  if #ids > 0 and has_atts() then
    for i, att in ipairs(read('HMGET', ATT, ids)) do
      atts[i] = att and sub(att, 1, ATT_BYTES) or ''
    end
  end
  local reply = {
    now, claimed_ms, first_fence, more and 1 or 0, next_due, maintain, epoch,
    concat(new_bad), concat(offsets, ','), concat(ids), atts[1] and atts or false,
    bodies[1] and bodies or false, shut[1] and shut or false, expired_of and {} or false,
  }
  for pair, count in pairs(expired_of or {}) do
    table.insert(reply[14], pair)
    table.insert(reply[14], count)
  end
  for i = 1, #records do reply[14 + i] = records[i] end
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
    local class = record and class_of(record)
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
    claimed_ms, first_fence, false, due_ms, next_reopen_ms(), maintain, offsets, ids, records, bodies
  )
end

-- Neither a new claim nor the burial of an expired job changes this.
local maintain = maintain_needed()
local _, more, due_ms = promote(PROMOTED_MAX)
local more_keys = look_at_keys()

local queues, slots, kinds, added_keys = {}, {}, {}, {}
for i = 1, tonumber(ARGV[5]) do queues[i] = ARGV[5 + i] end
for i = 6 + #queues, #ARGV, 3 do
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
    local found = read('HMGET', JOBS, tickets)
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
          ids[count], records[count] = id, record
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

-- What a claim sees of queues that have to do with limit keys.
--
-- A *view* is a queue's jobs of one kind: entries in the order of their scores, read as far as they
-- are needed. Its sources are the index, and the lists of lanes that are parked at keys which the
-- index shows to have room. Each source is read up to its `score`.
--
-- All functions are made when the first such queue is met: making them costs a claim more than a
-- job.
local function make_views()
  local SOURCE_PAGE = most == 1 and 4 or LANES_MAX -- entries that are read at once
  local all, looks = {}, 0

  local function view_of(place, queue, kind)
    local view = all[place]
    if not view then
      local pair = queue .. '/' .. kind
      view = { place = place, pair = pair, queue = queue, kind = kind, entries = {} }
      view.sources = { { name = PREFIX .. 'lanes:' .. pair, at = 0, score = -1 } }
      all[place] = view
    end
    return view
  end

  -- A key that has no room. Those that this call has not met are passed over: it meets all keys of an
  -- entry unless one that it knows keeps the entry from running anyway.
  local function blocking_among(keys)
    for _, name in ipairs(keys or {}) do
      local key = limits().get(name)
      if key and limits().left(key) <= 0 then return name end
    end
  end

  -- A key that an entry needs and that has no room; the worker's own first.
  local function blocking(view, keys)
    return blocking_among(added_keys[view.kind]) or blocking_among(keys)
  end

  -- Notes the key that the worker adds and that keeps the view from running.
  local function shut_by(view, name)
    limits().wait_for(limits().get(name), view.pair, true)
    view.shut = name
  end

  -- Whether the keys that the worker adds have no room: nothing of the view can run then.
  local function is_shut(view)
    local name = not view.shut and blocking_among(added_keys[view.kind])
    if name then shut_by(view, name) end
    return view.shut
  end

  -- Whether an entry can run, as far as its keys go. One that cannot is parked and met no more.
  local function has_room(view, entry)
    if entry.gone then return false end
    if not entry.keys and not added_keys[view.kind] then return true end
    local name = blocking(view, entry.keys)
    if not name then return true end
    for _, own in ipairs(entry.keys or {}) do
      if own == name then
        entry.gone = true
        limits().wait_for(limits().get(name), view.pair)
        looks = looks + 1
        if looks >= PARKED_MAX then halted = true end
        if entry.parked ~= name or entry.lane then
          parkings[#parkings + 1] = { view = view, entry = entry, key = name }
        end
        return false
      end
    end
    shut_by(view, name)
    return false
  end

  -- The settings' weight of an entry.
  local function weight_of(entry)
    local weight = 1
    for _, name in ipairs(limited and entry.keys or {}) do
      weight = max(weight, limits().get(name).settings.weight or 1)
    end
    return weight
  end

  -- Answers the keys that are to be met to see whether the entry can run.
  local function add_entry(view, source, member, score)
    local priority, keys = string.match(member, '^(%d)/(.+)$')
    keys = keys and split_keys(keys)
    if not keys and not string.find(member, '^%d$') then return end
    view.entries[#view.entries + 1] = {
      view = view, index = member, priority = tonumber(priority or member), keys = keys,
      score = score, indexed = score, parked = source.key,
    }
    if keys and not blocking_among(keys) then return keys end
  end

  -- A key that has room, or has had it: where lanes are parked.
  local function add_source(view, name, score)
    limits().load({ name })
    local key = limits().get(name)
    shown[#shown + 1] = { view = view, key = key }
    if limits().left(key) <= 0 then
      limits().wait_for(key, view.pair)
    else
      view.sources[#view.sources + 1] =
        { name = limits().waits_name(key, view.pair), key = name, at = 0, score = score - 1 }
    end
  end

  -- Reads the next entries of a source.
  local function read_source(view, source)
    local page =
      try('ZRANGE', source.name, source.at, source.at + SOURCE_PAGE - 1, 'WITHSCORES')
    if page.err then
      page = {}
      view.broken = true
    end
    local names = {}
    for i = 1, #page, 2 do
      local member, score = page[i], tonumber(page[i + 1])
      source.score = score
      if byte(member) == 64 and not source.key then -- "@"
        add_source(view, sub(member, 2), score)
      else
        for _, name in ipairs(add_entry(view, source, member, score) or {}) do
          names[#names + 1] = name
        end
      end
    end
    if #names > 0 then limits().load(names) end
    source.at = source.at + SOURCE_PAGE
    source.done = #page < 2 * SOURCE_PAGE
  end

  -- Lanes without keys that their index does not know any more are looked for, if it knows none.
  local function look_for_lost(view)
    view.searched = true
    if view.broken or #view.entries > 0 or try('EXISTS', PREFIX .. 'parked:' .. view.pair) == 1 then
      return
    end
    for priority = 0, 9 do
      local index = tostring(priority)
      if try('EXISTS', PREFIX .. 'lane:' .. view.pair .. '/' .. index) == 1 then
        add_entry(view, {}, index, priority * 2 ^ 48 + turn)
      end
    end
  end

  -- Reads on where there may be an entry before `score`; answers whether it did.
  local function read_before(view, score, priority)
    local first, at
    for i, source in ipairs(view.sources) do
      -- Those that wait for a key which this call has filled go on waiting.
      local is_open = not source.key or limits().left(limits().get(source.key)) > 0
      if is_open and (not first or source.score < first.score) then first, at = source, i end
    end
    if first and first.score < score and floor(first.score / 2 ^ 48) <= priority then
      read_source(view, first)
      if first.done then table.remove(view.sources, at) end
      return true
    end
    if not view.searched and #view.entries == 0 then
      look_for_lost(view)
      return #view.entries > 0
    end
    return false
  end

  -- The lane of an entry, or nil if it holds no jobs that can be read.
  local function lane_at(view, entry)
    if entry.lane then return entry.lane end
    entry.lane = open_lane({
      lane = view.pair .. '/' .. entry.index, pair = view.pair, priority = entry.priority,
      index = entry.index, keys = entry.keys, indexed = entry.indexed, parked = entry.parked,
    })
    if not entry.lane then entry.gone = true end
    return entry.lane
  end

  -- The entries that take turns now: of the first with room, by score, those of the best priority.
  local function group_of(of_queue)
    local size = missing == 1 and 1 or LANES_MAX -- one job needs no shares
    while not halted do
      local able = {}
      for _, view in ipairs(of_queue) do
        if slots[view.kind] > 0 and not is_shut(view) then
          for _, entry in ipairs(view.entries) do
            if not view.shut and has_room(view, entry) then able[#able + 1] = entry end
          end
        end
      end
      table.sort(able, function(a, b) return a.score < b.score end)
      local last, best = able[size], able[1]
      local has_read = false
      for _, view in ipairs(of_queue) do
        if slots[view.kind] > 0 and not view.shut then
          local horizon = last and last.score or math.huge
          has_read = read_before(view, horizon, best and best.priority or 9) or has_read
        end
      end
      if not has_read then
        local group = {}
        for i = 1, min(#able, size) do
          if able[i].priority ~= best.priority then break end
          group[i] = able[i]
        end
        return group
      end
    end
    return {}
  end

  -- Notes which keys the jobs that a lane has just given hold.
  local function hold(view, entry, from)
    if #ids < from then return end
    local is_held = {}
    for _, list in ipairs({ added_keys[view.kind] or {}, entry.keys or {} }) do
      for _, name in ipairs(list) do
        local key = limits().get(name)
        if not is_held[name] then
          key.left = limits().left(key) - (#ids - from + 1)
          for i = from, #ids do limits().start(key, ids[i]) end
        end
        is_held[name] = true
      end
    end
  end

  -- The most jobs that the keys of an entry let start.
  local function room_for(view, entry)
    local most_ = math.huge
    for _, list in ipairs({ added_keys[view.kind] or {}, entry.keys or {} }) do
      for _, name in ipairs(list) do most_ = min(most_, limits().left(limits().get(name))) end
    end
    return most_
  end

  -- `is_turn_over` of queue-core: whether a lane that has given so many jobs gets a new turn.
  local function is_turn_over(weight, given)
    if given == 0 or given >= weight then return true end
    local prime = 65521
    local first = (turn % prime * 31337 + 7) % prime
    local second = (first * first + first * 11) % prime
    return (second * 40503 + 12345) % prime * weight < prime * given
  end

  local function serve(entry, share, weight)
    local view = entry.view
    local wanted = min(share, missing, slots[view.kind], room_for(view, entry))
    local lane = wanted > 0 and lane_at(view, entry)
    if not lane then return wanted > 0 end
    lane.served = false
    local before = #ids
    take(lane, view.kind, wanted)
    hold(view, entry, before + 1)
    if lane.live <= 0 then
      entry.gone = true
    elseif lane.served then
      turn = turn + 1
      local base = lane.priority * 2 ^ 48
      -- One that keeps its turn is written with it: it may have been parked.
      lane.turn = is_turn_over(weight, #ids - before) and turn or entry.score - base
      entry.score = base + lane.turn
    end
    return lane.served or entry.gone
  end

  local function serve_round(of_queue)
    local group = group_of(of_queue)
    local shared, all_weights, served = missing, 0, false
    local weights = {}
    for i, entry in ipairs(group) do
      weights[i] = weight_of(entry)
      all_weights = all_weights + weights[i]
    end
    for i, entry in ipairs(group) do
      served = serve(entry, math.ceil(shared * weights[i] / all_weights), weights[i]) or served
    end
    return served
  end

  local function serve_queue(queue, from)
    local of_queue = {}
    for j, kind in ipairs(kinds) do
      local count = counted[from + j]
      if slots[kind] > 0 and count and (tonumber(count) or 1) > 0 then
        of_queue[#of_queue + 1] = view_of(from + j, queue, kind)
      end
    end
    while missing > 0 and not halted and #of_queue > 0 and serve_round(of_queue) do end
  end

  local function is_empty(view, entry)
    local lane = entry.lane or lanes[view.pair .. '/' .. entry.index]
    return lane and (not lane.sound or lane.live <= 0)
  end

  -- Whether workers that do not add the key of a shut view may find something there.
  local function is_for_others(view)
    if #view.entries == 0 then read_before(view, math.huge, 9) end
    for _, entry in ipairs(view.entries) do
      if not entry.gone and not is_empty(view, entry) and not blocking_among(entry.keys) then
        return true
      end
    end
    for _, source in ipairs(view.sources) do
      if not source.key or limits().left(limits().get(source.key)) > 0 then return true end
    end
    return false
  end

  -- Whether something is left of a queue and kind that has room, and the key that the worker adds
  -- if that is what keeps it from running. As above, what has no room is parked.
  local function has_work(place, queue, kind)
    local view, was_halted = view_of(place, queue, kind), halted
    local function look()
      local has_some = false
      if is_shut(view) then return false end
      repeat
        -- All that are known: when those without room have some is to be named.
        for _, entry in ipairs(view.entries) do
          if not is_empty(view, entry) then
            if halted then return true end
            has_some = not view.shut and has_room(view, entry) or has_some
          end
        end
      until has_some or view.shut or not read_before(view, math.huge, 9)
      return has_some
    end
    local has_some = look()
    halted = was_halted
    if not has_some and view.shut then return is_for_others(view), view.shut end
    return has_some
  end

  return { serve_queue = serve_queue, has_work = has_work }
end

local views -- made for the first queue that has something to do with limit keys

-- The lanes without limit keys of a queue's kinds that the worker can run; or nil if there are
-- others, or the worker adds keys. `barren` has pairs whose counted jobs are in no lane that can
-- be read.
local barren = {}
local function open_queue(queue, from)
  local open = {}
  for i, kind in ipairs(kinds) do
    local pair = queue .. '/' .. kind
    local count = counted[from + i]
    if slots[kind] > 0 and count and (tonumber(count) or 1) > 0 then
      local index = try('ZRANGE', PREFIX .. 'lanes:' .. pair, 0, LANES_MAX - 1, 'WITHSCORES')
      if added_keys[kind] or limited and not index[1] then return nil end
      barren[pair] = true
      for j = 1, index.err and 0 or #index, 2 do
        local member = index[j]
        if #member > 1 then return nil end
        local entry = {
          lane = pair .. '/' .. member, pair = pair, priority = member, index = member,
          indexed = index[j + 1],
        }
        local lane = string.find(member, '^%d$') and open_lane(entry)
        if lane then
          lane.kind, barren[pair] = kind, nil
          open[#open + 1] = lane
        end
      end
      if barren[pair] and not index.err then
        -- Lanes that their index does not know any more are looked for.
        for priority = 0, 9 do
          local member = tostring(priority)
          local lane = open_lane({
            lane = pair .. '/' .. member, pair = pair, priority = member, index = member,
            indexed = priority * 2 ^ 48 + turn,
          })
          if lane then
            lane.kind, barren[pair] = kind, nil
            open[#open + 1] = lane
          end
        end
      end
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
    local from, before = (i - 1) * #kinds, #ids
    local open = open_queue(queue, from)
    if open then
      while missing > 0 and not halted and serve_round(open) do end
    else
      for _, kind in ipairs(kinds) do barren[queue .. '/' .. kind] = nil end
      views = views or make_views()
      views.serve_queue(queue, from)
    end
    if #ids > before then started_of[queue] = #ids - before end
  end
end

for _, lane in pairs(lanes) do
  if lane.started and lane.started > 0 then tally(lane.pair .. '/running', lane.started) end
end
tally_lanes()
local counts = read_tallies()
-- A counter that is no number is counted again; it would hide its lanes.
for i, field in ipairs(fields) do
  if counted[i] and not tonumber(counted[i]) then
    local pair, live = sub(field, 1, -7), 0
    for _, list in ipairs({ 'lanes:', 'parked:' }) do
      local index = try('ZRANGE', PREFIX .. list .. pair, 0, -1)
      for _, member in ipairs(index.err and {} or index) do
        local lane = lanes[pair .. '/' .. member]
        local length = lane and lane.live or try('LLEN', PREFIX .. 'lane:' .. pair .. '/' .. member)
        live = live + (type(length) == 'number' and max(length, 0) or 0)
      end
    end
    counts[field] = live
  end
end

-- Another worker may take what is left; pairs without jobs that a claim can reach keep no wake-up,
-- or their workers would wake each other for nothing.
local to_wake, to_calm = {}, {}
for i, field in ipairs(fields) do
  if counted[i] then
    local pair = sub(field, 1, -7)
    local queue, kind = string.match(pair, '^(.*)/(.*)$')
    local count = counts[field] or tonumber(counted[i]) or 0
    local is_left = count > 0 and not barren[pair] and not is_paused(queue)
    if is_left and (limited or views or added_keys[kind]) then
      views = views or make_views()
      local name
      is_left, name = views.has_work(i, queue, kind)
      if name then shut[#shut + 1], shut[#shut + 2] = pair, name end
    end
    local list = is_left and to_wake or to_calm
    list[#list + 1] = pair
  end
end

-- A lane that was served and is parked now goes there at once.
for _, parking in ipairs(parkings) do
  local lane = parking.entry.lane
  if lane then
    lane.park_at = lane.live > 0 and parking.key or nil
    lane.changed = true
    parking.entry = nil
  end
end

-- Entries that are parked as they are, without having been served: those that move alike move
-- together.
local function save_parkings()
  local moves = {}
  for _, parking in ipairs(parkings) do
    local entry = parking.entry
    if entry then
      local pair, from = parking.view.pair, entry.parked or ''
      local name = pair .. ' ' .. from .. ' ' .. parking.key
      local move = moves[name]
      if not move then
        move = { pair = pair, from = from, to = parking.key, members = {}, places = {} }
        moves[name], moves[#moves + 1] = move, move
      end
      local nth = #move.members + 1
      move.members[nth] = entry.index
      move.places[2 * nth - 1] = string.format('%d', entry.score)
      move.places[2 * nth] = entry.index
    end
  end
  for _, move in ipairs(moves) do
    local lanes_key, parked_key = PREFIX .. 'lanes:' .. move.pair, PREFIX .. 'parked:' .. move.pair
    local waits = PREFIX .. 'waits:' .. move.pair .. ':'
    each('ZREM', move.from == '' and lanes_key or waits .. move.from, move.members)
    if move.from ~= '' and try('EXISTS', waits .. move.from) == 0 then
      try('ZREM', lanes_key, '@' .. move.from)
    end
    for _, key in ipairs({ waits .. move.to, parked_key }) do
      if type(try('ZCARD', key)) == 'table' then
        -- Of a wrong type: those that wait at a key are found by the next round of heal.lua.
        if key == parked_key then try('UNLINK', key) else replace_waits(key) end
      end
      each('ZADD', key, move.places)
    end
  end
end

check_finish(counts)
if limit_engine then limits().check() end
local bodies = read_bodies(body_ids, body_numbers)
local first_fence = 0
if #ids > 0 then
  has_atts() -- it fails if ATT has a wrong type
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
save_parkings()
if limit_engine then
  local engine = limits()
  for _, one in ipairs(shown) do
    local has_room = engine.left(one.key) > 0
    local has_lanes = engine.show(one.key, one.view.pair, has_room)
    if has_lanes and not has_room then engine.wait_for(one.key, one.view.pair) end
  end
  engine.save()
end
for queue, count in pairs(started_of) do
  local span = PREFIX .. 'starts:' .. string.format('%.0f', floor(now / 30000))
  -- A hint for those who find the queue full: it goes by itself.
  if try('HINCRBY', span, queue, count) == count then try('EXPIRE', span, 90) end
end
trim_shelves(counts)
for _, pair in ipairs(to_wake) do wake(pair) end
for _, pair in ipairs(to_calm) do try('DEL', PREFIX .. 'wake:' .. pair) end
save_meta()

more = more or halted or missing == 0 or more_keys
local served = {}
for i, queue in ipairs(queues) do
  for j, kind in ipairs(kinds) do
    local field = fields[(i - 1) * #kinds + j]
    if not is_paused(queue) then served[#served + 1] = sub(field, 1, -7) end
  end
end
return answer(
  now, first_fence, more, due_ms, next_reopen_of(served), maintain, {}, ids, records, bodies
)
