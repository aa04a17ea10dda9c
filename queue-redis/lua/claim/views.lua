-- What a claim sees of queues that have to do with limit keys.
--
-- A *view* is a queue's jobs of one kind: entries in the order of their scores, read as far as they
-- are needed. Its sources are the index, and the lists of lanes that are parked at keys which the
-- index shows to have room. Each source is read up to its `score`.
--
-- All functions are made when the first such queue is met: making them costs a claim more than a
-- job.
local function make_views()
  local source_page = most == 1 and 4 or LANES_MAX -- entries that are read at once
  local are_short = tonumber(ARGV[5]) > 0 -- the jobs of this worker
  local all, looks = {}, 0

  local function view_of(place, queue, kind)
    local view = all[place]
    if not view then
      local pair = queue .. '/' .. kind
      -- `is_sorted`: its entries are in the order of their scores.
      view = { place = place, pair = pair, queue = queue, kind = kind, entries = {}, is_sorted = true }
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

  -- Parks an entry at a key of its own that has no room: it is met no more.
  local function park(view, entry, name)
    entry.gone = true
    limits().wait_for(limits().get(name), view.pair)
    looks = looks + 1
    if looks >= PARKED_MAX then halted = true end
    if entry.parked ~= name or entry.lane then
      parkings[#parkings + 1] = { view = view, entry = entry, key = name }
    end
  end

  -- Whether an entry can run, as far as its keys go. One that cannot is parked, unless its keys were
  -- filled by its own jobs and these are short: it comes after the others now, and may have room again
  -- when it is met.
  local function has_room(view, entry)
    if entry.gone or entry.full then return false end
    if not entry.keys and not added_keys[view.kind] then return true end
    local name = blocking(view, entry.keys)
    if not name then return true end
    for _, own in ipairs(entry.keys or {}) do
      if own == name then
        park(view, entry, name)
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
      view.is_sorted = false
      view.sources[#view.sources + 1] =
        { name = limits().waits_name(key, view.pair), key = name, at = 0, score = score - 1 }
    end
  end

  -- Reads the next entries of a source.
  local function read_source(view, source)
    local page =
      try('ZRANGE', source.name, source.at, source.at + source_page - 1, 'WITHSCORES')
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
    source.at = source.at + source_page
    source.done = #page < 2 * source_page
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
  local function group_of(of_queue, lanes_most)
    local size = missing == 1 and 1 or lanes_most -- one job needs no shares
    while not halted do
      local able = {}
      for _, view in ipairs(of_queue) do
        if slots[view.kind] > 0 and not is_shut(view) then
          for _, entry in ipairs(view.entries) do
            if not view.shut and has_room(view, entry) then
              able[#able + 1] = entry
              if size == 1 and view.is_sorted then break end -- the others come behind it
            end
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

  -- The most jobs that the keys of an entry let start in one round: `given_at_most` of queue-core.
  local function room_for(view, entry)
    local most_ = math.huge
    for _, list in ipairs({ added_keys[view.kind] or {}, entry.keys or {} }) do
      for _, name in ipairs(list) do most_ = min(most_, limits().left(limits().get(name))) end
    end
    return most_ > 1 and most_ - 1 or most_
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
    entry.full = are_short and blocking_among(entry.keys) ~= nil
    if lane.live <= 0 then
      entry.gone = true
    elseif lane.served then
      view.is_sorted = false
      turn = turn + 1
      local base = lane.priority * 2 ^ 48
      -- One that keeps its turn is written with it: it may have been parked.
      lane.turn = is_turn_over(weight, #ids - before) and turn or entry.score - base
      entry.score = base + lane.turn
    end
    return lane.served or entry.gone
  end

  local function serve_round(of_queue, lanes_most)
    if most > 1 then source_page = lanes_most end
    local group = group_of(of_queue, lanes_most)
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
      if may_serve(kind, from + j) then
        of_queue[#of_queue + 1] = view_of(from + j, queue, kind)
      end
    end
    if #of_queue == 0 then return end
    serve_rounds(queue, from, function(lanes_most) return serve_round(of_queue, lanes_most) end)
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
        for _, entry in ipairs(view.entries) do
          if not is_empty(view, entry) and not has_some then
            if halted then return true end
            has_some = not view.shut and has_room(view, entry)
          end
        end
      until has_some or view.shut or not read_before(view, math.huge, 9)
      return has_some
    end
    local has_some = look()
    -- Whoever waits for jobs is to hear of room for those that were met, too.
    for _, entry in ipairs(has_some and {} or view.entries) do
      local name = not entry.gone and not is_empty(view, entry) and blocking_among(entry.keys)
      if name then park(view, entry, name) end
    end
    halted = was_halted
    if not has_some and view.shut then return is_for_others(view), view.shut end
    return has_some
  end

  return { serve_queue = serve_queue, has_work = has_work }
end

