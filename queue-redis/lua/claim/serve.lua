-- Serves the queues of a claim, one after the other.

local views -- made for the first queue that has something to do with limit keys

-- The lanes without limit keys of a queue's kinds that the worker can run; or nil if there are
-- others, or the worker adds keys. `barren` has pairs whose counted jobs are in no lane that can
-- be read.
local barren = {}
local function open_queue(queue, from)
  local open = {}
  for i, kind in ipairs(kinds) do
    local pair = queue .. '/' .. kind
    if may_serve(kind, from + i) then
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
local function group_of(open, lanes_most)
  local able = {}
  for _, lane in ipairs(open) do
    if lane.live > 0 and slots[lane.kind] > 0 then able[#able + 1] = lane end
  end
  table.sort(able, function(a, b) return a.score < b.score end)
  local group = {}
  for i = 1, min(#able, lanes_most) do
    if able[i].priority ~= able[1].priority then break end
    group[i] = able[i]
  end
  return group
end

local function serve_round(open, lanes_most)
  local group = group_of(open, lanes_most)
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
      serve_rounds(queue, from, function(lanes_most) return serve_round(open, lanes_most) end)
    else
      for _, kind in ipairs(kinds) do barren[queue .. '/' .. kind] = nil end
      views = views or make_views()
      views.serve_queue(queue, from)
    end
    if #ids > before then started_of[queue] = #ids - before end
  end
end

