-- Writes what a claim has taken, and answers.

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
spare = not limit_engine or limits().is_spare()
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
  if try('HINCRBY', span, queue, count) == count then
    try('EXPIRE', span, 90)
    try('HSET', span, '@' .. queue, now % 30000 .. ' ' .. count) -- starts.lua
  end
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
