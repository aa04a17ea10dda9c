-- Plain claims, which are most: nothing is due, expired, damaged or closed by a limit, no body is
-- apart, and of the limit keys that are met nothing is remembered, and nothing set but how many
-- jobs may run at once, which is not reached. Answers nothing if that is not so, before anything is
-- written: the whole script (claim.lua) does it then. Where both can, both do the same.

local function claim_plain()
  local LANES_MAX, TIDY_DUE_MS, REOPEN_LOOKS_MAX, JOBS_MAX = 32, 60000, 16, 2 ^ 52
  local argv, format, ceil = ARGV, string.format, math.ceil
  local token, missing = argv[1], tonumber(argv[3])
  if stale > 0 or loose or missing > CHUNK or call('HGET', CLAIMS, token) then return nil end
  local due_ms = tonumber(call('ZRANGE', DUE, '0', '0', 'WITHSCORES')[2])
  if due_ms and due_ms <= now then return nil end
  local maintain = call('ZCOUNT', LEASES, '-inf', now_text) > 0
    or call('ZCOUNT', AGES, '-inf', now_text) > 0
  local reopening = {} -- keys that are closed by time alone, and when to look at each
  if limited then
    reopening = call('ZRANGE', REOPEN, '0', '15', 'WITHSCORES')
    if reopening[2] and tonumber(reopening[2]) <= now then return nil end
    local notes = call('HMGET', META, 'relook', 'tidied')
    local tidied_ms = notes[2] and tonumber(string.match(notes[2], '^t(%d+)$'))
    if notes[1] then return nil end
    local is_recent = tidied_ms and tidied_ms <= now and tidied_ms + TIDY_DUE_MS > now
    maintain = maintain or not is_recent
  end

  -- Limit keys of which something might be set or remembered, and how many jobs take each.
  local asked, is_asked, taking = {}, {}, {}
  local is_shut = {} -- of those that workers add
  local function ask(keys)
    for key in string.gmatch(keys, '[^,]+') do
      if is_shut[key] then return false end
      if not is_asked[key] then is_asked[key], asked[#asked + 1], taking[key] = true, key, 0 end
    end
    return true
  end

  -- The queues and kinds of which something may be there.
  local views, is_met, queues_end = {}, {}, 5 + argv[5]
  for q = 6, queues_end do
    local is_paused = paused and string.find(paused, ',' .. argv[q] .. ',', 1, true)
    for k = queues_end + 1, #argv, 3 do
      local pair = argv[q] .. '/' .. argv[k]
      if is_met[pair] then return nil end -- one that is named twice
      is_met[pair] = true
      views[#views + 1] = {
        queue = argv[q], kind = k, pair = pair, is_paused = is_paused,
        added = argv[k + 2], taken = 0, lanes = false, is_part = false, read_to = 0,
        added_names = argv[k + 2] ~= '' and split_keys(argv[k + 2]), shut = false,
      }
      if limited then ask(argv[k + 2]) end
    end
  end
  local size = #views
  if size == 0 or size > CHUNK / 2 then return nil end
  local slots = {}
  for k = queues_end + 1, #argv, 3 do
    slots[k] = tonumber(argv[k + 1])
  end

  -- Queues and kinds that a key which the worker adds keeps shut for a time: known to the key, so
  -- that nothing is to be written. Answers nothing if something else is remembered of such a key.
  local function look_at_added()
    local states = {}
    for i, state in ipairs(asked[1] and call('HMGET', LIMITED, unpack(asked)) or {}) do
      states[asked[i]] = state
    end
    for _, view in ipairs(views) do
      for _, name in ipairs(view.added_names or {}) do
        local state = states[name]
        if state then
          -- limits.lua: version, flags (1 is an open breaker), scheduled_us, closed_until_ms.
          if #state < 17 or byte(state) ~= 1 or byte(state, 2) % 2 == 1 then return nil end
          if struct.unpack('>I6', state, 11) <= now or not tells_of(state, view.pair, '@') then
            return nil
          end
          view.shut, is_shut[name] = view.shut or name, true
        end
      end
    end
    return true
  end
  if limited and not look_at_added() then return nil end

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

  -- Reads the next lanes of a queue and kind; answers whether they are plain.
  local function read_lanes(view)
    local lanes = view.lanes or {}
    local first = #lanes
    local from, to = '0', '31'
    if first > 0 then from, to = format('%d', first), format('%d', first + LANES_MAX - 1) end
    local index = try('ZRANGE', PREFIX .. 'lanes:' .. view.pair, from, to, 'WITHSCORES')
    if index.err then return false end
    if first == 0 and not index[1] then
      view.lanes = lanes
      return limited and try('EXISTS', PREFIX .. 'parked:' .. view.pair) == 1
    end
    for i = 1, #index, 2 do
      local member, keys = index[i], false
      local priority = (byte(member) or 0) - 48
      if priority < 0 or priority > 9 then return false end
      if #member > 1 then
        if byte(member, 2) ~= 47 then return false end -- "/"
        keys = sub(member, 3)
        if limited and not ask(keys) then return false end
      end
      lanes[#lanes + 1] = {
        view = view, index = member, priority = priority, keys = keys, names = false, key = false,
        score = tonumber(index[i + 1]), passed = 0, is_empty = false, is_saved = false,
      }
    end
    view.lanes, view.is_part = lanes, #index == 2 * LANES_MAX
    view.read_to = lanes[#lanes].score
    return true
  end

  -- The lanes that take turns now: of the first by score, those of the best priority. Nil if lanes
  -- that have to be read are not plain.
  local function next_group(of_queue)
    while true do
      local able, has_read = {}, false
      for _, view in ipairs(of_queue) do
        for _, lane in ipairs(slots[view.kind] > 0 and view.lanes or {}) do
          if not lane.is_empty then able[#able + 1] = lane end
        end
      end
      if able[2] then table.sort(able, function(a, b) return a.score < b.score end) end
      local priority = able[1] and able[1].priority or 9
      local last = able[LANES_MAX]
      for _, view in ipairs(of_queue) do
        if
          view.is_part and slots[view.kind] > 0 and floor(view.read_to / 2 ^ 48) <= priority
          and not (last and last.score <= view.read_to)
        then
          if not read_lanes(view) then return nil end
          has_read = true
        end
      end
      if not has_read then
        local group = {}
        for i = 1, min(#able, LANES_MAX) do
          if able[i].priority ~= priority then break end
          group[i] = able[i]
        end
        return group
      end
    end
  end

  local ids, count = {}, 0
  local parts = {} -- lane, its first number, its last number, …
  local passed_over = {} -- lanes that had a share, and no slot was left

  -- Takes tickets of a lane; answers whether they are plain.
  local function take(lane, wanted)
    local view, passed = lane.view, lane.passed
    lane.key = lane.key or PREFIX .. 'lane:' .. view.pair .. '/' .. lane.index
    -- One more, to see whether something is left.
    local tickets = try('LRANGE', lane.key, format('%d', passed), format('%d', passed + wanted))
    local taken = min(#tickets, wanted)
    if taken == 0 then return false end
    if lane.keys and not lane.names then
      lane.names = split_keys(lane.keys)
      if not lane.names then return false end
    end
    for i = 1, taken do
      if #tickets[i] ~= 16 then return false end
      ids[count + i] = tickets[i]
    end
    local nth = #parts
    parts[nth + 1], parts[nth + 2], parts[nth + 3] = lane, count + 1, count + taken
    count = count + taken
    if limited then
      for _, key in ipairs(lane.names or {}) do taking[key] = taking[key] + taken end
      for _, key in ipairs(view.added_names or {}) do taking[key] = taking[key] + taken end
    end
    lane.passed, lane.is_empty = passed + taken, #tickets == taken
    view.taken, missing = view.taken + taken, missing - taken
    slots[view.kind] = slots[view.kind] - taken
    return true
  end

  -- Serves the lanes of a queue in rounds; answers whether all was plain.
  local new_turn = turn
  local function serve(of_queue)
    while missing > 0 do
      local group = next_group(of_queue)
      if not group then return false end
      if #group == 0 then return true end
      local share = ceil(missing / #group)
      for _, lane in ipairs(group) do
        local wanted = min(share, missing, slots[lane.view.kind])
        if wanted > 0 then
          if not take(lane, wanted) then return false end
          if not lane.is_empty then
            new_turn = new_turn + 1
            lane.score = lane.priority * 2 ^ 48 + new_turn
          end
        elseif missing > 0 and lane.keys then
          passed_over[#passed_over + 1] = lane
        end
      end
    end
    return true
  end

  local kind_count = (#argv - queues_end) / 3
  for first = 1, size, kind_count do
    local of_queue = {}
    for i = first, first + kind_count - 1 do
      local view = views[i]
      local is_open = not view.is_paused and not view.shut
      if missing > 0 and is_open and slots[view.kind] > 0 and view.ready > 0 then
        if not read_lanes(view) then return nil end
        of_queue[#of_queue + 1] = view
      end
    end
    if of_queue[1] and not serve(of_queue) then return nil end
  end

  local reply = { now, now, 0, 0, -1, 0, '', '', '', '', false, false, {}, false }
  local runs = {}

  -- Meets the records of what was taken; answers whether they are plain.
  local function meet_records()
    local found = call('HMGET', JOBS, unpack(ids))
    local known, heads = {}, {} -- by what follows a record's times: class, and bytes of its head
    local last_times, last_text, last_rest, last_lane, run
    for n = 1, #parts, 3 do
      local lane, keys = parts[n], parts[n].keys
      local view = lane.view
      local short_end, keys_text = NAMES_AT + #view.pair - 2, ''
      if keys then keys_text = pack('>H', #keys) .. keys end
      for i = parts[n + 1], parts[n + 2] do
        local record = found[i]
        if not record then return false end
        local version = byte(record) or 0
        local names_end = version < LASTING and short_end + EXPIRY_BYTES or short_end
        local times, text = sub(record, 1, 17), sub(record, 18, names_end)
        local class = known[text]
        if not class then
          class, heads[text] = shared_class_of(record, 0)
          if not class or class.apart or class.expires_ms <= now then return false end
          known[text] = class
        end
        local head_end = heads[text] + (keys and #keys or 0)
        local rest = head_end > names_end and sub(record, names_end + 1, head_end) or ''
        if times ~= last_times or text ~= last_text or rest ~= last_rest or lane ~= last_lane then
          if
            class.pair ~= view.pair or class.priority ~= lane.priority
            or class.limited ~= (keys ~= false) or version % 2 ~= (keys and 0 or 1)
            or version > LASTING + 1
            or keys and sub(rest, -#keys_text) ~= keys_text
          then
            return false
          end
          run = token .. times .. text .. rest .. view.added
          last_times, last_text, last_rest, last_lane = times, text, rest, lane
        end
        if #record < head_end then return false end
        reply[14 + i] = record
        runs[2 * i - 1], runs[2 * i] = ids[i], run
      end
    end
    return true
  end
  if count > 0 and not meet_records() then return nil end

  -- Whether the keys had room, and have some left.
  local most, have_room
  if limited then
    local bounds
    bounds, have_room = make_room(asked, taking, is_shut)
    for _, view in ipairs(views) do
      local is_left = view.ready > view.taken and not view.is_paused
      if is_left and not view.lanes and not read_lanes(view) then return nil end
    end
    most = bounds()
    if not most then return nil end
    for _, view in ipairs(views) do
      if not view.shut and not have_room(view.added_names or {}, most) then return nil end
    end
    for n = 1, #parts, 3 do
      if not have_room(parts[n].names or {}, most) then return nil end
    end
    -- One without room would have had no share, and the others more.
    for _, lane in ipairs(passed_over) do
      local names = split_keys(lane.keys)
      if not names or not have_room(names, most) then return nil end
    end
  end

  -- What is counted, and who is woken.
  local sums, zeros, started = {}, {}, {} -- field, number, …; fields; queue → jobs
  local to_wake, to_calm = {}, {}
  for i, view in ipairs(views) do
    local left = view.ready - view.taken
    if view.taken > 0 then
      local running = view.running + view.taken
      -- Also if one is no whole number, or none at all.
      if left < 0 or running <= 0 or left % 1 ~= 0 or running % 1 ~= 0 then return nil end
      if left > JOBS_MAX or running > JOBS_MAX then return nil end
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
      is_left = false
      for _, lane in ipairs(view.lanes) do
        if not lane.is_empty and not is_left then
          local names = not lane.keys and {} or split_keys(lane.keys)
          if not names or not have_room(names, most) then return nil end
          is_left = true
        end
      end
      if not is_left and view.is_part then return nil end
      if view.shut then
        table.insert(reply[13], view.pair)
        table.insert(reply[13], view.shut)
      end
    end
    if view.is_counted then
      local list = is_left and to_wake or to_calm
      list[#list + 1] = PREFIX .. 'wake:' .. view.pair
    end
  end

  -- When the first key is to be looked at for which jobs of these queues and kinds wait (look.lua).
  local function next_reopen_ms()
    local names = {}
    for i = 1, #reopening, 2 do names[#names + 1] = reopening[i] end
    for i, bytes in ipairs(names[1] and call('HMGET', LIMITED, unpack(names)) or {}) do
      for _, view in ipairs(views) do
        if bytes and not view.is_paused and tells_of(bytes, view.pair) then
          return tonumber(reopening[2 * i])
        end
      end
    end
    return #names == REOPEN_LOOKS_MAX and tonumber(reopening[#reopening]) or TIME_MAX + 1
  end
  local next_ms = min(due_ms or TIME_MAX + 1, next_reopen_ms())
  local atts = {}
  if count > 0 and call('HLEN', ATT) > 0 then
    for i, att in ipairs(call('HMGET', ATT, unpack(ids))) do
      atts[i] = att and sub(att, 1, 32) or '' -- ATT_BYTES
    end
  end

  -- Writes the lanes that were served, and who holds which key.
  local function save_lanes()
    local places, gone = {}, {} -- view → score, index, …; view → indexes
    local holders = {} -- key → ids
    local function hold(names, from, to)
      local is_held = {}
      for _, key in ipairs(names) do
        if not is_held[key] then
          local list = holders[key] or {}
          holders[key], is_held[key] = list, true
          local length = #list
          for i = from, to do list[length + i - from + 1] = ids[i] end
        end
      end
    end
    for n = 1, #parts, 3 do
      local lane = parts[n]
      local view, names = lane.view, lane.names
      if not lane.is_saved then
        local list = lane.is_empty and gone or places
        list[view] = list[view] or {}
        list = list[view]
        if lane.is_empty then
          call('UNLINK', lane.key, PREFIX .. 'gone:' .. view.pair .. '/' .. lane.index)
        else
          call('LTRIM', lane.key, format('%d', lane.passed), '-1')
          list[#list + 1] = format('%d', lane.score)
        end
        list[#list + 1] = lane.index
      end
      lane.is_saved = true
      if view.added ~= '' then
        names = {}
        local all = (lane.keys and lane.keys .. ',' or '') .. view.added
        for key in string.gmatch(all, '[^,]+') do names[#names + 1] = key end
      end
      if names then hold(names, parts[n + 1], parts[n + 2]) end
    end
    local function each(command, lists)
      for view, list in pairs(lists) do
        for first = 1, #list, CHUNK do
          local last = min(first + CHUNK - 1, #list)
          call(command, PREFIX .. 'lanes:' .. view.pair, unpack(list, first, last))
        end
      end
    end
    each('ZADD', places)
    each('ZREM', gone)
    for key, list in pairs(holders) do
      local added = try('SADD', PREFIX .. 'hold:' .. key, unpack(list))
      if type(added) == 'table' then
        try('SADD', PREFIX .. 'mend:' .. key, unpack(list))
        if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
      end
    end
  end

  if count > 0 then
    -- The first write: it may still fail if RUN has a wrong type.
    if count > 16 and #runs[2] <= 64 then widen(RUN) end
    call('HSET', RUN, unpack(runs))
    reply[3] = max(fence + 1, min(now * 1000, 2 ^ 53 - 2 ^ 40))
    fence, turn = reply[3] + count - 1, new_turn
    local all = concat(ids)
    reply[10] = all
    local claim = pack('>BI6I8HB', 1, now, reply[3], count, #argv[2]) .. argv[2] .. all
    call('HSET', CLAIMS, token, claim)
    call('ZADD', LEASES, format('%d', min(now + argv[4], TIME_MAX)), token)
    if #sums > 0 then call('HSET', COUNT, unpack(sums)) end
    if #zeros > 0 then call('HDEL', COUNT, unpack(zeros)) end
    save_lanes()
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
  reply[4], reply[6], reply[7] = missing == 0 and 1 or 0, maintain and 1 or 0, epoch
  if next_ms <= TIME_MAX then reply[5] = max(next_ms - now, 0) end
  reply[11], reply[13] = atts[1] and atts or false, reply[13][1] and reply[13] or false
  return reply
end

local reply = claim_plain()
if reply then return reply end

