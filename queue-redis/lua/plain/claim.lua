-- Plain claims, which are most: nothing is due, expired, damaged or closed by a limit, no body is
-- apart, and the limit keys that are met have room (room.lua). Answers
-- nothing if that is not so, before anything is written: the whole script (claim.lua) does it then.
-- Where both can, both do the same.

local function claim_plain()
  local TIDY_DUE_MS, REOPEN_LOOKS_MAX, JOBS_MAX = 60000, 16, 2 ^ 52
  local argv, format, find, ceil = ARGV, string.format, string.find, math.ceil
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

  -- Limit keys of which something might be set or remembered, and how many jobs take each. Those in
  -- `asked` have yet to be met.
  local asked, taking = {}, {}
  local is_shut = {} -- of those that workers add
  local meet_keys, room_for, is_spare, save_rates
  if limited then meet_keys, room_for, is_spare, save_rates = make_room(taking, is_shut) end
  local function ask(names)
    for i = 1, #names do
      local key = names[i]
      if is_shut[key] then return false end
      if not taking[key] then asked[#asked + 1], taking[key] = key, 0 end
    end
    return true
  end
  local function meet_asked()
    local names = asked
    asked = {}
    return meet_keys(names)
  end

  -- The queues and kinds of which something may be there; without limits, those that have a counter.
  local queues_end = 6 + argv[6]
  local kind_count, fields, is_met = (#argv - 1 - queues_end) / 3, {}, {}
  local size = 0
  for q = 7, queues_end do
    for k = queues_end + 1, #argv - 1, 3 do
      local pair = argv[q] .. '/' .. argv[k]
      if is_met[pair] then return nil end -- one that is named twice
      is_met[pair], size = true, size + 1
      fields[size] = pair .. '/ready'
    end
  end
  if size == 0 or size > CHUNK / 2 then return nil end
  local counted, views, running_fields = call('HMGET', COUNT, unpack(fields)), {}, {}
  for i = 1, size do
    if counted[i] or limited then
      local queue = argv[7 + floor((i - 1) / kind_count)]
      local k = queues_end + 1 + 3 * ((i - 1) % kind_count)
      local pair, added = queue .. '/' .. argv[k], argv[k + 2]
      local is_paused = paused and string.find(paused, ',' .. queue .. ',', 1, true)
      running_fields[#views + 1] = pair .. '/running'
      views[#views + 1] = {
        queue = queue, kind = k, pair = pair, is_paused = is_paused, added = added, taken = 0,
        lane_prefix = PREFIX .. 'lane:' .. pair .. '/',
        ready = tonumber(counted[i] or 0), is_counted = counted[i], lanes = false, is_part = false,
        read_to = 0, added_names = added ~= '' and split_keys(added), shut = false, texts = false,
      }
      if not views[#views].ready then return nil end
      if limited then ask(views[#views].added_names or {}) end
    end
  end
  local slots = {}
  for k = queues_end + 1, #argv - 1, 3 do
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
          if struct.unpack('>I6', state, 11) > now and tells_of(state, view.pair, '@') then
            view.shut, is_shut[name] = view.shut or name, true
          elseif #state > 17 then
            return nil -- one of 17 bytes may tell of a rate alone (room.lua)
          end
        end
      end
    end
    return true
  end
  if limited and not (look_at_added() and meet_asked()) then return nil end

  local running = views[1] and call('HMGET', COUNT, unpack(running_fields)) or {}
  for i = 1, #views do
    running[i] = tonumber(running[i] or 0)
    if not running[i] then return nil end
  end

  -- Lanes, by numbers: many tenants have many, and a table for each would cost more than its jobs.
  local lane_count = 0
  local view_of, index_of, priority_of, keys_of, score_of = {}, {}, {}, {}, {}
  local key_of, names_of, passed, is_empty = {}, {}, {}, {}
  local is_full = {} -- whether the jobs of this claim have filled a key of the lane

  local digits = {} -- Lua writes a number as a text slowly
  local function text_of(number)
    local text = digits[number]
    if not text then
      text = format('%d', number)
      digits[number] = text
    end
    return text
  end

  -- Lanes that take turns in a round. No more than jobs are missing: without weights those that come first
  -- get one each, unless a kind's slots run out before.
  local lanes_most = LANES_MAX
  local function lanes_in_round(turn_jobs, last)
    local lanes = lanes_for(missing, turn_jobs, last)
    for _, free in pairs(slots) do
      if free > 0 and free < missing then return lanes end
    end
    return min(lanes, missing)
  end
  local least_room = tonumber(argv[5]) > 0 and 1 or 2 -- lanes that are full are parked unless jobs are short

  -- Reads the next lanes of a queue and kind; answers whether they are plain.
  local function read_lanes(view)
    local lanes = view.lanes or {}
    local first = #lanes
    local name, from = PREFIX .. 'lanes:' .. view.pair, text_of(first)
    local index = try('ZRANGE', name, from, text_of(first + lanes_most - 1), 'WITHSCORES')
    if index.err then return false end
    view.lanes = lanes
    if first == 0 and not index[1] then
      return limited and try('EXISTS', PREFIX .. 'parked:' .. view.pair) == 1
    end
    for i = 1, #index, 2 do
      local member, keys = index[i], false
      local priority, slash = byte(member, 1, 2)
      priority = (priority or 0) - 48
      if priority < 0 or priority > 9 then return false end
      if slash then
        if slash ~= 47 then return false end -- "/"
        keys = sub(member, 3)
        if limited then
          local names = split_keys(keys)
          if not names or not ask(names) then return false end
          names_of[lane_count + 1] = names
        end
      end
      lane_count = lane_count + 1
      local lane = lane_count
      lanes[#lanes + 1], view_of[lane], index_of[lane] = lane, view, member
      priority_of[lane], keys_of[lane], score_of[lane] = priority, keys, tonumber(index[i + 1])
    end
    view.is_part, view.read_to = #index == 2 * lanes_most, score_of[lane_count]
    return not limited or meet_asked()
  end

  -- The lanes that take turns now: of the first by score, those of the best priority. Nil if lanes
  -- that have to be read are not plain.
  local function is_ahead(a, b) return score_of[a] < score_of[b] end
  local function next_group(of_queue)
    while true do
      local able, has_read, last_score, is_sorted = {}, false, -1, true
      for _, view in ipairs(of_queue) do
        local lanes = slots[view.kind] > 0 and view.lanes or {}
        for i = 1, #lanes do
          local lane = lanes[i]
          if not (is_empty[lane] or is_full[lane]) then
            local score = score_of[lane]
            able[#able + 1] = lane
            is_sorted, last_score = is_sorted and score > last_score, score
          end
        end
      end
      if not is_sorted then table.sort(able, is_ahead) end
      local priority = able[1] and priority_of[able[1]] or 9
      local last = able[lanes_most]
      for _, view in ipairs(of_queue) do
        if
          view.is_part and slots[view.kind] > 0 and floor(view.read_to / 2 ^ 48) <= priority
          and not (last and score_of[last] <= view.read_to)
        then
          if not read_lanes(view) then return nil end
          has_read = true
        end
      end
      if not has_read then
        local group = {}
        for i = 1, min(#able, lanes_most) do
          if priority_of[able[i]] ~= priority then break end
          group[i] = able[i]
        end
        return group
      end
    end
  end

  local ids, count = {}, 0
  local parts = {} -- lane, its first number, its last number, …
  local passed_over = {} -- lanes that had a share, and no slot was left

  -- Takes up to so many tickets of a lane, and leaves a place of its keys free if there are more
  -- (`given_at_most` of queue-core); answers whether it is plain.
  local function take(lane, wanted)
    local view, from, keys, key = view_of[lane], passed[lane] or 0, keys_of[lane], key_of[lane]
    if not key then
      key = view.lane_prefix .. index_of[lane]
      key_of[lane], names_of[lane] = key, names_of[lane] or keys and split_keys(keys) or {}
      if keys and not names_of[lane][1] then return false end
    end
    if limited then
      local room = room_for(names_of[lane])
      if view.added_names then room = min(room, room_for(view.added_names)) end
      if room < least_room then return false end
      if room <= wanted then wanted = max(room - 1, 1) end
    end
    -- One more, to see whether something is left.
    local tickets = try('LRANGE', key, text_of(from), text_of(from + wanted))
    local taken = min(#tickets, wanted)
    if taken == 0 then return false end
    for i = 1, taken do
      if #tickets[i] ~= 16 then return false end
      ids[count + i] = tickets[i]
    end
    local nth = #parts
    parts[nth + 1], parts[nth + 2], parts[nth + 3] = lane, count + 1, count + taken
    count = count + taken
    if limited then
      local names, own = names_of[lane], view.added_names and {}
      for i = 1, #names do
        local name = names[i]
        taking[name] = taking[name] + taken
        if own then own[name] = true end
      end
      for i = 1, own and #view.added_names or 0 do
        local name = view.added_names[i]
        if not own[name] then taking[name] = taking[name] + taken end
      end
      is_full[lane] = room_for(names) < 1
    end
    passed[lane], is_empty[lane] = from + taken, #tickets == taken
    view.taken, missing = view.taken + taken, missing - taken
    slots[view.kind] = slots[view.kind] - taken
    return true
  end

  -- Serves the lanes of a queue in rounds; answers whether all was plain.
  local new_turn = turn
  local function serve(of_queue, turn_jobs)
    while missing > 0 do
      local group = next_group(of_queue)
      if not group then return false end
      if #group == 0 then return true end
      local share = ceil(missing / #group)
      for i = 1, #group do
        local lane = group[i]
        local wanted = min(share, missing, slots[view_of[lane].kind])
        if wanted > 0 then
          if not take(lane, wanted) then return false end
          if not is_empty[lane] then
            new_turn = new_turn + 1
            score_of[lane] = priority_of[lane] * 2 ^ 48 + new_turn
          end
        elseif missing == 0 then
          break
        elseif keys_of[lane] then
          passed_over[#passed_over + 1] = lane
        end
      end
      lanes_most = lanes_in_round(turn_jobs, lanes_most)
    end
    return true
  end

  local at = 1
  while views[at] do
    local of_queue, names, queue = {}, {}, views[at].queue
    while views[at] and views[at].queue == queue do
      local view = views[at]
      local is_open = not view.is_paused and not view.shut
      if missing > 0 and is_open and slots[view.kind] > 0 and view.ready > 0 then
        of_queue[#of_queue + 1], names[#names + 1] = view, view.pair
      end
      at = at + 1
    end
    if of_queue[1] then
      local turn_jobs = turn_for(missing, names)
      lanes_most = lanes_in_round(turn_jobs, 0)
      for i = 1, #of_queue do
        if not read_lanes(of_queue[i]) then return nil end
      end
      if not serve(of_queue, turn_jobs) then return nil end
    end
  end

  local runs, records = {}, {}

  -- What RUN has of a record behind its token, but for the keys that its worker adds; and what follows
  -- the times of the record and where, as far as its limit keys, if other jobs of its lane may have the
  -- same. Nothing if it is not plain.
  local function meet(record, lane, tail)
    local view, keys, version = view_of[lane], keys_of[lane], byte(record)
    if version == (keys and 6 or 5) then
      -- A brief one, and what `whole_record` makes of it (brief.lua).
      local queue, kind = view.queue, argv[view.kind]
      local mixed, queue_bytes, kind_bytes = byte(record, 10, 12)
      local names = (queue == 'default' and '' or queue) .. kind
      local names_end = 12 + #names
      if
        not kind_bytes or kind_bytes ~= #kind or queue_bytes + kind_bytes ~= #names
        or mixed % 16 ~= priority_of[lane] or sub(record, 13, names_end + #tail) ~= names .. tail
      then
        return nil
      end
      local kept = 11 * floor(mixed / 128)
      local run = string.char(version - 2, 0, 0, floor(mixed / 16) % 8, #queue, #kind, mixed % 16)
        .. sub(USUAL, kept + 1, kept + 11) .. (keys and '\16' or '\0') .. queue .. kind .. tail
      return run, sub(record, 10, names_end), 10
    end
    local class, head_end = shared_class_of(record, 1)
    if not class or class.apart or class.expires_ms <= now then return nil end
    head_end = head_end + (keys and #keys or 0)
    if
      class.pair ~= view.pair or class.priority ~= priority_of[lane]
      or class.limited ~= (keys ~= false) or #record < head_end
      or sub(record, head_end - #tail + 1, head_end) ~= tail
    then
      return nil
    end
    local is_common = version >= LASTING and head_end == class.names_end + #tail
      and byte(record, 18) + byte(record, 19) == 0
    local run = sub(record, 1, 1) .. sub(record, 18, head_end)
    if not is_common then return run end
    return run, sub(record, 18, class.names_end), 18
  end

  -- Meets the records of what was taken; answers whether they are plain.
  local function meet_records()
    records = call('HMGET', JOBS, unpack(ids))
    runs = { unpack(records) } -- has room for half of it
    local lengths = {}
    for n = 1, #parts, 3 do
      local lane = parts[n]
      local view, keys = view_of[lane], keys_of[lane]
      local tail, variant = '', 2 * priority_of[lane]
      if keys then
        lengths[#keys] = lengths[#keys] or pack('>H', #keys)
        tail, variant = lengths[#keys] .. keys, variant + 1
      end
      view.texts = view.texts or {}
      -- Of the last record of the variant with a common text: that, where it is, its version, and RUN's.
      local texts = view.texts
      local text, at, version = texts[variant], texts[variant + 20], texts[variant + 40]
      local expected = text and text .. tail
      local common_run = text and token .. texts[variant + 60] .. tail .. view.added
      for i = parts[n + 1], parts[n + 2] do
        local record = records[i]
        if not record then return false end
        local run = common_run
        if not expected or byte(record) ~= version or find(record, expected, at, true) ~= at then
          local behind, common, common_at = meet(record, lane, tail)
          if not behind then return false end
          run = token .. behind .. view.added
          if common then
            expected, at, version, common_run = common .. tail, common_at, byte(record), run
            texts[variant], texts[variant + 20], texts[variant + 40] = common, at, version
            texts[variant + 60] = sub(behind, 1, #behind - #tail)
          end
        end
        runs[2 * i - 1], runs[2 * i] = ids[i], run
      end
    end
    return true
  end
  if count > 0 and not meet_records() then return nil end

  -- Whether the keys have some room left: each of those that were taken from has.
  lanes_most = LANES_MAX
  if limited then
    for _, view in ipairs(views) do
      local is_left = view.ready > view.taken and not view.is_paused
      if is_left and not view.lanes and not read_lanes(view) then return nil end
    end
    for _, view in ipairs(views) do
      if not view.shut and view.added_names and room_for(view.added_names) < 1 then return nil end
    end
    -- One without room would have had no share, and the others more.
    for _, lane in ipairs(passed_over) do
      if room_for(names_of[lane]) < 1 then return nil end
    end
  end

  -- What is counted, and who is woken.
  local sums, zeros, started = {}, {}, {} -- field, number, …; fields; queue → jobs
  local to_wake, to_calm, shut = {}, {}, {}
  for i, view in ipairs(views) do
    local left = view.ready - view.taken
    if view.taken > 0 then
      local sum = running[i] + view.taken
      -- Also if one is no whole number, or none at all.
      if left < 0 or sum <= 0 or left % 1 ~= 0 or sum % 1 ~= 0 then return nil end
      if left > JOBS_MAX or sum > JOBS_MAX then return nil end
      sums[#sums + 1], sums[#sums + 2] = running_fields[i], format('%d', sum)
      if left > 0 then
        sums[#sums + 1], sums[#sums + 2] = view.pair .. '/ready', format('%d', left)
      else
        zeros[#zeros + 1] = view.pair .. '/ready'
      end
      started[view.queue] = (started[view.queue] or 0) + view.taken
    end
    local is_left = left > 0 and not view.is_paused
    if is_left and limited then
      is_left = false
      local has_full, looked = false, 0
      repeat
        if looked > 0 and not read_lanes(view) then return nil end
        for n = looked + 1, #view.lanes do
          local lane = view.lanes[n]
          has_full = has_full or is_full[lane] and not is_empty[lane]
          if not (is_empty[lane] or is_full[lane] or is_left) then
            if room_for(names_of[lane] or {}) < 1 then return nil end
            is_left = true
          end
        end
        looked = #view.lanes
      until is_left or not view.is_part
      if not is_left and has_full then return nil end -- they begin to wait
      if view.shut then
        table.insert(shut, view.pair)
        table.insert(shut, view.shut)
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

  -- Writes the lanes that were served.
  local function save_lanes()
    local places, gone, is_saved = {}, {}, {} -- view → score, index, …; view → indexes
    local unlinked = {}
    for n = 1, #parts, 3 do
      local lane = parts[n]
      if not is_saved[lane] then
        local view, index = view_of[lane], index_of[lane]
        local lists = is_empty[lane] and gone or places
        local list = lists[view]
        if not list then
          list = {}
          lists[view] = list
        end
        if is_empty[lane] then
          local size_ = #unlinked
          unlinked[size_ + 1] = key_of[lane]
          unlinked[size_ + 2] = PREFIX .. 'gone:' .. view.pair .. '/' .. index
        else
          call('LTRIM', key_of[lane], text_of(passed[lane]), '-1')
          list[#list + 1] = format('%d', score_of[lane])
        end
        list[#list + 1] = index
        is_saved[lane] = true
      end
    end
    local function each(command, key, list)
      for first = 1, #list, CHUNK do
        local last = min(first + CHUNK - 1, #list)
        if key then
          call(command, key, unpack(list, first, last))
        else
          call(command, unpack(list, first, last))
        end
      end
    end
    each('UNLINK', nil, unlinked)
    for view, list in pairs(places) do each('ZADD', PREFIX .. 'lanes:' .. view.pair, list) end
    for view, list in pairs(gone) do each('ZREM', PREFIX .. 'lanes:' .. view.pair, list) end
  end

  -- Writes who holds which key: jobs from one number to another, or those of a list.
  local function save_holders()
    local held, first_of, last_of, list_of = {}, {}, {}, {}
    for n = 1, #parts, 3 do
      local view, names, from, to = view_of[parts[n]], names_of[parts[n]], parts[n + 1], parts[n + 2]
      if view.added ~= '' then
        names = { unpack(names) }
        for name in string.gmatch(view.added, '[^,]+') do names[#names + 1] = name end
      end
      for i = 1, #names do
        local name = names[i]
        local last = last_of[name]
        if not last then
          held[#held + 1], first_of[name] = name, from
        elseif last < from and (list_of[name] or last < from - 1) then
          local list = list_of[name] or { unpack(ids, first_of[name], last) }
          for nth = from, to do list[#list + 1] = ids[nth] end
          list_of[name] = list
        end
        last_of[name] = to
      end
    end
    for i = 1, #held do
      local name = held[i]
      local list, first, last = list_of[name] or ids, first_of[name], last_of[name]
      if list ~= ids then first, last = 1, #list end
      local added = try('SADD', PREFIX .. 'hold:' .. name, unpack(list, first, last))
      if type(added) == 'table' then
        try('SADD', PREFIX .. 'mend:' .. name, unpack(list, first, last))
        if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
      end
    end
  end

  local first_fence, all = 0, ''
  if count > 0 then
    -- The first write: it may still fail if RUN has a wrong type.
    if count > 16 and #runs[2] <= 64 then widen(RUN) end
    call('HSET', RUN, unpack(runs))
    first_fence = max(fence + 1, min(now * 1000, 2 ^ 53 - 2 ^ 40))
    fence, turn = first_fence + count - 1, new_turn
    all = concat(ids)
    local claim = pack('>BI6I8HB', 1, now, first_fence, count, #argv[2]) .. argv[2] .. all
    call('HSET', CLAIMS, token, claim)
    call('ZADD', LEASES, format('%d', min(now + argv[4], TIME_MAX)), token)
    if #sums > 0 then call('HSET', COUNT, unpack(sums)) end
    if #zeros > 0 then call('HDEL', COUNT, unpack(zeros)) end
    save_lanes()
    save_holders()
    if save_rates then save_rates() end
    local span = PREFIX .. 'starts:' .. format('%d', floor(now / 30000))
    for queue, jobs in pairs(started) do
      -- A hint for those who find the queue full: it goes by itself.
      if try('HINCRBY', span, queue, jobs) == jobs then
        try('EXPIRE', span, '90')
        try('HSET', span, '@' .. queue, now % 30000 .. ' ' .. jobs) -- starts.lua
      end
    end
  end
  for _, key in ipairs(to_wake) do
    if try('LLEN', key) == 0 then try('RPUSH', key, 'w') end
  end
  for _, key in ipairs(to_calm) do try('DEL', key) end
  save_meta()
  return {
    now, now, first_fence, (missing == 0 and 1 or 0) + ((not limited or is_spare()) and 2 or 0),
    next_ms <= TIME_MAX and max(next_ms - now, 0) or -1,
    maintain and 1 or 0, epoch, '', '', all, atts[1] and atts or false, false, shut[1] and shut or false,
    false, unpack(records),
  }
end

local reply = claim_plain()
if reply then return reply end

