-- Plain claims, which are most: nothing is due, expired, damaged or closed by a limit, no body is
-- apart, and each index has to be read once. Answers nothing if that is not so, before anything is
-- written: the whole script (claim.lua) does it then. Where both can, both do the same.

local function claim_plain()
  local LANES_MAX, TIDY_DUE_MS = 32, 60000
  local argv, format = ARGV, string.format
  local token, missing = argv[1], tonumber(argv[3])
  if stale > 0 or loose or missing > CHUNK or call('HGET', CLAIMS, token) then return nil end
  local due_ms = tonumber(call('ZRANGE', DUE, '0', '0', 'WITHSCORES')[2])
  if due_ms and due_ms <= now then return nil end
  local maintain = call('ZCOUNT', LEASES, '-inf', now_text) > 0
    or call('ZCOUNT', AGES, '-inf', now_text) > 0
  if limited then
    if call('EXISTS', REOPEN) == 1 then return nil end
    local notes = call('HMGET', META, 'relook', 'tidied')
    local tidied_ms = notes[2] and tonumber(string.match(notes[2], '^t(%d+)$'))
    if notes[1] then return nil end
    local is_recent = tidied_ms and tidied_ms <= now and tidied_ms + TIDY_DUE_MS > now
    maintain = maintain or not is_recent
  end

  -- The queues and kinds of which something may be there.
  local views, queues_end = {}, 5 + argv[5]
  for q = 6, queues_end do
    local is_paused = paused and string.find(paused, ',' .. argv[q] .. ',', 1, true)
    for k = queues_end + 1, #argv, 3 do
      views[#views + 1] = {
        queue = argv[q], kind = k, pair = argv[q] .. '/' .. argv[k], is_paused = is_paused,
        added = argv[k + 2], taken = 0,
      }
    end
  end
  local size = #views
  local slots = {}
  for k = queues_end + 1, #argv, 3 do
    slots[k] = tonumber(argv[k + 1])
    if limited and argv[k + 2] ~= '' then return nil end
  end
  if size == 0 or size > CHUNK / 2 then return nil end
  local fields = {}
  for i = 1, size do
    local pair = views[i].pair
    fields[i], fields[size + i] = pair .. '/ready', pair .. '/running'
  end
  local counted = call('HMGET', COUNT, unpack(fields))
  for i = 1, size do
    local view, ready = views[i], counted[i]
    view.ready, view.running = tonumber(ready or 0), tonumber(counted[size + i] or 0)
    view.is_counted = ready
    if not view.ready or not view.running then return nil end
  end

  -- The lanes of a queue and kind, or nil if they are not plain.
  local function open(view)
    local index = try('ZRANGE', PREFIX .. 'lanes:' .. view.pair, '0', '31', 'WITHSCORES')
    if index.err then return nil end
    if not index[1] and not (limited and try('EXISTS', PREFIX .. 'parked:' .. view.pair) == 1) then
      return nil
    end
    local lanes = {}
    for i = 1, #index, 2 do
      local member = index[i]
      local priority, keys = byte(member) - 48, nil
      if priority < 0 or priority > 9 then return nil end
      if #member > 1 then
        keys = byte(member, 2) == 47 and split_keys(sub(member, 3)) -- "/"
        if limited or not keys then return nil end
      end
      lanes[#lanes + 1] = {
        view = view, index = member, priority = priority, keys = keys,
        score = tonumber(index[i + 1]), passed = 0,
      }
    end
    view.lanes, view.is_part = lanes, #lanes == LANES_MAX
    return lanes
  end

  local ids, runs, count = {}, {}, 0
  local reply = { now, now, 0, 0, -1, 0, '', '', '', '', '', '', {}, {} }
  local parts = {} -- lane, its first number, its last number, …

  -- Takes jobs of a lane; answers whether they are plain.
  local function take(lane, wanted)
    local view = lane.view
    lane.name = view.pair .. '/' .. lane.index
    lane.key = PREFIX .. 'lane:' .. lane.name
    -- One more, to see whether something is left.
    local tickets = try('LRANGE', lane.key, lane.passed, lane.passed + wanted)
    local taken = min(#tickets, wanted)
    if taken == 0 then return false end
    local found = call('HMGET', JOBS, unpack(tickets, 1, taken))
    local names_end, version = NAMES_AT + #view.pair - 2, lane.keys and '\2' or '\1'
    local keys_text = lane.keys and pack('>H', #lane.index - 2) .. sub(lane.index, 3) or ''
    -- What is before the class and the key's length, those, and what is behind the names.
    local last_times, last_text, last_rest, run
    local first, known = count + 1, {}
    for i = 1, taken do
      local id, record = tickets[i], found[i]
      if not record or #id ~= 16 then return false end
      local times, text = sub(record, 1, 17), sub(record, 18, names_end)
      local head_end = known[text]
      if not head_end then
        local class, head_bytes = class_of(record, 0)
        if not class or class.lane ~= lane.name or class.apart or class.expires_ms <= now then
          return false
        end
        known[text], head_end = head_bytes, head_bytes
      end
      local rest = head_end > names_end and sub(record, names_end + 1, head_end) or ''
      if times ~= last_times or text ~= last_text or rest ~= last_rest then
        if sub(times, 1, 1) ~= version or sub(rest, -#keys_text) ~= keys_text and lane.keys then
          return false
        end
        run = token .. times .. text .. rest .. view.added
        last_times, last_text, last_rest = times, text, rest
      end
      count = count + 1
      ids[count], reply[14 + count] = id, record
      runs[2 * count - 1], runs[2 * count] = id, run
    end
    parts[#parts + 1], parts[#parts + 2], parts[#parts + 3] = lane, first, count
    lane.passed, lane.is_empty = lane.passed + taken, #tickets == taken
    view.taken, missing = view.taken + taken, missing - taken
    slots[view.kind] = slots[view.kind] - taken
    return true
  end

  -- Serves the lanes of a queue in rounds; answers whether all was plain.
  local new_turn, served_views = turn, {}
  local function serve(lanes)
    local is_first = true
    while missing > 0 do
      local able = {}
      for _, lane in ipairs(lanes) do
        if not lane.is_empty and slots[lane.view.kind] > 0 then
          -- Lanes that were not read come before those that have been served.
          if lane.view.is_part and not is_first then return false end
          able[#able + 1] = lane
        end
      end
      if #able == 0 then return true end
      if #able > 1 then table.sort(able, function(a, b) return a.score < b.score end) end
      local group = 1
      while group < LANES_MAX and able[group + 1] and able[group + 1].priority == able[1].priority do
        group = group + 1
      end
      local share = math.ceil(missing / group)
      for i = 1, group do
        local lane = able[i]
        local wanted = min(share, missing, slots[lane.view.kind])
        if wanted > 0 then
          if not take(lane, wanted) then return false end
          if not lane.is_empty then
            new_turn = new_turn + 1
            lane.score = lane.priority * 2 ^ 48 + new_turn
          end
        end
      end
      is_first = false
    end
    return true
  end

  local kind_count = (#argv - queues_end) / 3
  for first = 1, #views, kind_count do
    local lanes = {}
    for i = first, first + kind_count - 1 do
      local view = views[i]
      if missing > 0 and not view.is_paused and slots[view.kind] > 0 and view.ready > 0 then
        local opened = open(view)
        if not opened then return nil end
        for _, lane in ipairs(opened) do lanes[#lanes + 1] = lane end
      end
    end
    if #lanes > 0 and not serve(lanes) then return nil end
    -- More lanes than were read may have to be served.
    for i = first, first + kind_count - 1 do
      if missing > 0 and views[i].is_part and slots[views[i].kind] > 0 then return nil end
    end
  end

  -- What is counted, and who is woken.
  local sums, zeros, started = {}, {}, {} -- field, number, …; fields; queue → jobs
  local to_wake, to_calm = {}, {}
  for i, view in ipairs(views) do
    local left = view.ready - view.taken
    if view.taken > 0 then
      local running = view.running + view.taken
      if left < 0 or running <= 0 then return nil end
      sums[#sums + 1], sums[#sums + 2] = fields[size + i], format('%d', running)
      if left > 0 then
        sums[#sums + 1], sums[#sums + 2] = fields[i], format('%d', left)
      else
        zeros[#zeros + 1] = fields[i]
      end
      started[view.queue] = (started[view.queue] or 0) + view.taken
    end
    local is_left = left > 0 and not view.is_paused
    if is_left and limited then
      if not view.lanes and not open(view) then return nil end
      is_left = false
      for _, lane in ipairs(view.lanes) do is_left = is_left or not lane.is_empty end
    end
    if view.is_counted then
      local list = is_left and to_wake or to_calm
      list[#list + 1] = PREFIX .. 'wake:' .. view.pair
    end
  end
  local atts = {}
  if count > 0 and call('HLEN', ATT) > 0 then
    for i, att in ipairs(call('HMGET', ATT, unpack(ids))) do
      atts[i] = att and sub(att, 1, 32) or '' -- ATT_BYTES
    end
  end

  if count > 0 then
    call('HSET', RUN, unpack(runs)) -- it may still fail if RUN has a wrong type
    reply[3] = max(fence + 1, min(now * 1000, 2 ^ 53 - 2 ^ 40))
    fence, turn = reply[3] + count - 1, new_turn
    local all = concat(ids)
    reply[10] = all
    local claim = pack('>BI6I8HB', 1, now, reply[3], count, #argv[2]) .. argv[2] .. all
    call('HSET', CLAIMS, token, claim)
    call('ZADD', LEASES, format('%d', min(now + argv[4], TIME_MAX)), token)
    if #sums > 0 then call('HSET', COUNT, unpack(sums)) end
    if #zeros > 0 then call('HDEL', COUNT, unpack(zeros)) end
    local places, gone, holders = {}, {}, {} -- view → score, index, …; view → indexes; key → ids
    for n = 1, #parts, 3 do
      local lane, from, to = parts[n], parts[n + 1], parts[n + 2]
      local view = lane.view
      if not lane.is_saved then
        local list = lane.is_empty and gone or places
        list[view] = list[view] or {}
        list = list[view]
        if lane.is_empty then
          call('UNLINK', lane.key, PREFIX .. 'gone:' .. lane.name)
        else
          call('LTRIM', lane.key, lane.passed, '-1')
          list[#list + 1] = format('%.0f', lane.score)
        end
        list[#list + 1] = lane.index
      end
      lane.is_saved = true
      if lane.keys or view.added ~= '' then
        local text = (lane.keys and sub(lane.index, 3) .. ',' or '') .. view.added
        local is_held = {}
        for key in string.gmatch(text, '[^,]+') do
          local list = holders[key] or {}
          holders[key] = list
          if not is_held[key] then
            local length = #list
            for i = from, to do list[length + i - from + 1] = ids[i] end
          end
          is_held[key] = true
        end
      end
    end
    for view, list in pairs(places) do call('ZADD', PREFIX .. 'lanes:' .. view.pair, unpack(list)) end
    for view, list in pairs(gone) do call('ZREM', PREFIX .. 'lanes:' .. view.pair, unpack(list)) end
    for key, list in pairs(holders) do try('SADD', PREFIX .. 'hold:' .. key, unpack(list)) end
    local span = PREFIX .. 'starts:' .. format('%d', floor(now / 30000))
    for queue, jobs in pairs(started) do
      -- A hint for those who find the queue full: it goes by itself.
      if try('HINCRBY', span, queue, jobs) == jobs then try('EXPIRE', span, '90') end
    end
  end
  for _, key in ipairs(to_wake) do
    if try('LLEN', key) == 0 then try('RPUSH', key, 'w') end
  end
  for _, key in ipairs(to_calm) do try('DEL', key) end
  save_meta()
  reply[4], reply[6], reply[7] = missing == 0 and 1 or 0, maintain and 1 or 0, meta[6] or ''
  if due_ms then reply[5] = due_ms - now end
  reply[11], reply[12] = atts, {}
  return reply
end

local reply = claim_plain()
if reply then return reply end

