-- Plain enqueues, which are most: no job is there, none has an idempotency key or a body that is
-- apart, all are ready at once, nothing is full or damaged. Answers nothing if that is not so, and
-- leaves nothing written: the whole script (enqueue.lua) does it then. Where both can, both do the
-- same.
--
-- Jobs of many tenants have a lane each. A table or a function for each of them would cost more than
-- the jobs, so what is known of a group of jobs is in lists side by side, at the group's number. A list
-- that grows is made anew with each doubling: those with a place for each group or job are made of as
-- many arguments, and each place is written before it is read.

local take_back -- what was written, once something was

local function enqueue_plain()
  local argv, format, byte, find = ARGV, string.format, byte, string.find
  local NAMES_FEW, LOOKS_FEW, LOOKS_SHARE = 16, 16, 32
  local NO_PLACE, NO_PLACE_TEXT = 1e17, '1e17' -- no lane has this score
  local run_bytes, carriers = argv[2], argv[3]
  if stale > 0 or #run_bytes > 4 * CHUNK or #argv > 16 * CHUNK then return nil end

  -- The groups, each with its lane; those of a queue and kind have the number of its set. What those of
  -- a family share is at its number, which is 1 for groups that are not in `family_of`.
  local at, group_count, has_keys = 4, 0, false
  local are_lone = run_bytes == '' -- each job has a group of its own
  local lane_of, family_of = nil, {}
  local base_of, set_of, is_keyed = {}, {}, {} -- by families
  local sets, queues, set_jobs, number_of, index_at = {}, {}, {}, {}, {}
  for family = 1, tonumber(argv[1]) do
    local queue, kind, priority, when, _, flags, size = unpack(argv, at, at + 6)
    if when ~= 'n' or not find(flags, '^[erp]l?$') then return nil end
    local pair, keyed = queue .. '/' .. kind, #flags == 2
    size = tonumber(size)
    local set, head = number_of[pair], PREFIX .. 'lane:' .. pair .. '/'
    if not set then
      set = #sets + 1
      sets[set], queues[set], set_jobs[set], number_of[pair] = pair, queue, 0, set
      index_at[set] = #head + 1
    end
    if are_lone then set_jobs[set] = set_jobs[set] + size end
    base_of[family], set_of[family], is_keyed[family] = priority * 2 ^ 48, set, keyed
    at, has_keys = at + 7, has_keys or keyed
    if keyed and family == 1 then
      lane_of = { unpack(argv, at, at + min(size, CHUNK) - 1) }
    else
      lane_of = lane_of or { unpack(argv, 1, min(size, CHUNK)) }
      for nth = 1, size do
        lane_of[group_count + nth] = keyed and argv[at + nth - 1] or head .. priority
      end
    end
    for group = family > 1 and group_count + 1 or 1, family > 1 and group_count + size or 0 do
      family_of[group] = family
    end
    if keyed then at = at + size end
    group_count = group_count + size
  end
  local keys_at, key_count = at - 1, #carriers / 2
  local ids_at = keys_at + key_count
  -- What the lane of a group is called among those of its queue and kind.
  local function index_of(group)
    return sub(lane_of[group], index_at[set_of[family_of[group] or 1]])
  end

  -- Groups have their numbers in the order of their first jobs. Those of one are neighbours, or in a
  -- list.
  local runs, count = { byte(run_bytes, 1, -1) }, are_lone and group_count or 0
  for i = 3, #runs, 4 do count = count + runs[i] * 256 + runs[i + 1] end
  if count == 0 or count > CHUNK then return nil end
  local most = #run_bytes / 4 -- groups
  local first_of, last_of, list_of = { unpack(argv, 1, most) }, { unpack(argv, 1, most) }, {}
  local seen, nth = are_lone and count or 0, ids_at
  for i = 1, #runs, 4 do
    local group, first = runs[i] * 256 + runs[i + 1], nth + 1
    local last, set = nth + runs[i + 2] * 256 + runs[i + 3], set_of[family_of[group] or 1]
    set_jobs[set] = set_jobs[set] + last - nth
    if group > seen then
      seen = seen + 1
      if group ~= seen or group > group_count then return nil end
      first_of[group], last_of[group] = first, last
    else
      local list = list_of[group] or { unpack(argv, first_of[group], last_of[group]) }
      for at_ = first, last do list[#list + 1] = argv[at_] end
      list_of[group] = list
    end
    nth = last
  end
  local written = { unpack(argv, ids_at + 1, ids_at + 2 * count) }
  for i = 1, count do
    local record = argv[ids_at + count + i]
    if times then
      local is_brief = byte(record) > 4
      record = sub(record, 1, 1) .. (is_brief and its_time or times) .. sub(record, is_brief and 8 or 14)
    end
    written[2 * i - 1], written[2 * i] = argv[ids_at + i], record
  end
  local found = call('HMGET', JOBS, unpack(argv, ids_at + 1, ids_at + count))
  for i = 1, count do
    if found[i] then return nil end
  end

  -- Lanes that wait for a limit key, which their new jobs do not change; by groups.
  local waits = {}
  for set = 1, #sets do
    local lanes, parked = PREFIX .. 'lanes:' .. sets[set], PREFIX .. 'parked:' .. sets[set]
    if type(try('ZCARD', lanes)) ~= 'number' then return nil end
    if has_keys and try('EXISTS', parked) == 1 then
      -- Some may still be parked, and shown, when nothing is set or remembered any more.
      if not limited then return nil end
      local groups, asked, both = {}, {}, {}
      for group = 1, seen do
        local family = family_of[group] or 1
        if set_of[family] == set and is_keyed[family] then
          groups[#groups + 1], asked[#asked + 1] = group, index_of(group)
        end
      end
      if asked[1] then
        local scores = try('ZMSCORE', parked, unpack(asked))
        if scores.err then return nil end
        for i = 1, #scores do
          if scores[i] then waits[groups[i]], both[#both + 1] = true, asked[i] end
        end
      end
      if both[1] then
        -- One that has two places is damaged.
        local scores = call('ZMSCORE', lanes, unpack(both))
        for i = 1, #scores do
          if scores[i] then return nil end
        end
      end
    end
  end

  -- A new lane may have to wait with others for a key (lanes.lua); settings may say how many live
  -- jobs a queue or a key may have.
  if limited then
    if key_count > 0 and try('HLEN', LIMITED) ~= 0 then
      local asked, of = {}, {}
      for group = 1, seen do
        local family = family_of[group] or 1
        if is_keyed[family] and not waits[group] then
          for key in string.gmatch(sub(index_of(group), 3), '[^,]+') do
            asked[#asked + 1], of[#of + 1] = key, sets[set_of[family]]
          end
        end
      end
      for first = 1, #asked, CHUNK do
        local states = try('HMGET', LIMITED, unpack(asked, first, min(first + CHUNK - 1, #asked)))
        if states.err then return nil end
        for i = 1, #states do
          if states[i] and find(states[i], of[first + i - 1], 1, true) then return nil end
        end
      end
    end
    -- Settings are few, mostly, and none of them says so.
    local function says_so(bytes) return floor((byte(bytes, 2) or 255) / 32) % 2 == 1 end
    local is_said = call('HLEN', LIMITS) > SETTINGS_FEW
    local settings = is_said and {} or call('HGETALL', LIMITS)
    for i = 2, #settings, 2 do is_said = is_said or says_so(settings[i]) end
    local targets, is_class = { 'queue:*' }, {}
    for set = 1, #sets do targets[set + 1] = 'queue:' .. queues[set] end
    for i = is_said and keys_at + 1 or ids_at + 1, ids_at do
      local class = string.match(argv[i], '^[^:]*')
      if not is_class[class] then is_class[class], targets[#targets + 1] = true, class .. ':*' end
      targets[#targets + 1] = argv[i]
    end
    for first = 1, is_said and #targets or 0, CHUNK do
      local bounds = call('HMGET', LIMITS, unpack(targets, first, min(first + CHUNK - 1, #targets)))
      for i = 1, #bounds do
        if bounds[i] and says_so(bounds[i]) then return nil end
      end
    end
  end

  -- What is counted. Lua reads and writes numbers slowly: each sum once. Anything else than a whole
  -- number above 0 is damage.
  local texts_of_one = {}
  local sums_of = { texts_of_one } -- what is added → what was counted → the sum
  local function text_of(have, by)
    local known = sums_of[by] or {}
    local text = known[have]
    if not text then
      local sum = (tonumber(have or nil) or 0) + by
      text = sum > 0 and sum < 2 ^ 52 and sum % 1 == 0 and format('%d', sum)
      sums_of[by], known[have] = known, text
    end
    return text
  end
  local fields, by, live_in = {}, {}, {}
  for set = 1, #sets do
    local queue = queues[set]
    fields[set], by[set] = sets[set] .. '/ready', set_jobs[set]
    live_in[queue] = (live_in[queue] or 0) + set_jobs[set]
  end
  for queue, jobs in pairs(live_in) do fields[#fields + 1], by[#by + 1] = 'live:' .. queue, jobs end
  if #fields > CHUNK / 2 then return nil end
  local counts, sums = call('HMGET', COUNT, unpack(fields)), {}
  for i = 1, #fields do
    local text = text_of(counts[i], by[i])
    if not text then return nil end
    sums[2 * i - 1], sums[2 * i] = fields[i], text
  end
  local key_sums, by_key = { unpack(argv, 1, min(2 * key_count, ids_at)) }, { byte(carriers, 1, -1) }
  for first = 1, key_count, CHUNK do
    local have = call('HMGET', LIVE, unpack(argv, keys_at + first, min(keys_at + first + CHUNK - 1, ids_at)))
    for i = 1, #have do
      local nth = 2 * (first + i) - 3
      local jobs = by_key[nth] * 256 + by_key[nth + 1]
      local text = jobs == 1 and texts_of_one[have[i]] or text_of(have[i], jobs)
      if not text then return nil end
      key_sums[nth], key_sums[nth + 1] = argv[keys_at + first + i - 1], text
    end
  end

  -- What may still fail is taken back: an id that comes twice, a lane of a wrong type, and what this
  -- user may not do (ACL).
  local pushed, counted = 0, 0 -- groups whose jobs are in their lanes; 1 for COUNT, 2 for LIVE, too
  local function uncount(hash, field, jobs)
    if try('HINCRBY', hash, field, format('%d', -jobs)) == 0 then try('HDEL', hash, field) end
  end
  take_back = function()
    for group = pushed, 1, -1 do
      local list = list_of[group]
      local jobs = are_lone and 1 or list and #list or last_of[group] - first_of[group] + 1
      try('LTRIM', lane_of[group], '0', format('%d', -jobs - 1))
      if try('EXISTS', lane_of[group]) == 0 then
        try('ZREM', PREFIX .. 'lanes:' .. sets[set_of[family_of[group] or 1]], index_of(group))
      end
    end
    for i = 1, counted > 0 and #fields or 0 do uncount(COUNT, fields[i], by[i]) end
    for i = 1, counted > 1 and 2 * key_count or 0, 2 do
      uncount(LIVE, key_sums[i], by_key[i] * 256 + by_key[i + 1])
    end
    call('HDEL', JOBS, unpack(argv, ids_at + 1, ids_at + count))
  end
  -- A long field keeps short records out of the compact encoding (meta.lua).
  local long = count > 1 and #written[2] <= 64 and call('HLEN', JOBS) <= 512 and string.rep('-', 65)
  if long then written[2 * count + 1], written[2 * count + 2] = long, '1' end
  local added = call('HSET', JOBS, unpack(written))
  if long then added = added - call('HDEL', JOBS, long) end
  if added ~= count then return take_back() end
  -- Groups whose lanes are new, and those of others whose places are looked for: of many, some by chance.
  local new, old = {}, {}
  local is_new = tonumber(argv[1]) > 1 and {} or nil -- lanes, of which several groups may have one
  local each_of, chance = seen > LOOKS_FEW and LOOKS_SHARE or 1, byte(argv[ids_at + 1], -1)
  for group = 1, seen do
    local jobs, length = 1, nil
    if are_lone then
      length = try('RPUSH', lane_of[group], argv[ids_at + group])
    else
      local first, last, list = first_of[group], last_of[group], list_of[group]
      jobs = list and #list or last - first + 1
      if list then
        length = try('RPUSH', lane_of[group], unpack(list))
      else
        length = try('RPUSH', lane_of[group], unpack(argv, first, last))
      end
    end
    if type(length) == 'table' then return take_back() end
    pushed = group
    if length == jobs then
      new[#new + 1] = group
      if is_new then is_new[lane_of[group]] = true end
    elseif (group + chance) % each_of == 0 and not (is_new and is_new[lane_of[group]]) then
      old[#old + 1] = group
    end
  end
  call('HSET', COUNT, unpack(sums))
  counted = 1
  if key_count > NAMES_FEW then widen(LIVE) end
  for first = 1, 2 * key_count, CHUNK do
    call('HSET', LIVE, unpack(key_sums, first, min(first + CHUNK - 1, 2 * key_count)))
  end
  counted = 2

  -- A lane that has jobs and no place, which is damage, is found out by a score that none has.
  for set = 1, old[1] and #sets or 0 do
    local groups, list = {}, {}
    for i = 1, #old do
      local group = old[i]
      if not waits[group] and set_of[family_of[group] or 1] == set then
        groups[#groups + 1] = group
        list[#list + 1], list[#list + 2] = NO_PLACE_TEXT, index_of(group)
      end
    end
    local lanes, added = PREFIX .. 'lanes:' .. sets[set], 0
    for first = 1, #list, CHUNK do
      added = added + call('ZADD', lanes, 'NX', unpack(list, first, min(first + CHUNK - 1, #list)))
    end
    for i = 1, added > 0 and #groups or 0 do
      if tonumber(call('ZSCORE', lanes, index_of(groups[i]))) == NO_PLACE then new[#new + 1] = groups[i] end
    end
    if added > 0 then table.sort(new) end
  end

  -- New lanes have their turns in the order of their first jobs.
  local is_met, places = {}, {} -- by sets
  for group = 1, next(waits) and seen or 0 do
    if not waits[group] then is_met[set_of[family_of[group] or 1]] = true end
  end
  if not next(waits) then is_met = sets end -- all
  for i = 1, #new do
    local group = new[i]
    if not waits[group] then
      local family = family_of[group] or 1
      local set = set_of[family]
      local list = places[set]
      if not list then
        list = {}
        places[set] = list
      end
      local size = #list
      turn = turn + 1
      list[size + 1], list[size + 2] = format('%d', base_of[family] + turn), index_of(group)
    end
  end
  for set = 1, #sets do
    local list = places[set] or {}
    for first = 1, #list, CHUNK do
      call('ZADD', PREFIX .. 'lanes:' .. sets[set], unpack(list, first, min(first + CHUNK - 1, #list)))
    end
    local is_paused = paused and find(paused, ',' .. queues[set] .. ',', 1, true)
    local wake = PREFIX .. 'wake:' .. sets[set]
    if is_met[set] and not is_paused and try('LLEN', wake) == 0 then try('RPUSH', wake, 'w') end
  end
  save_meta()
  return string.rep('R', count) .. now_text
end

local is_done, reply = pcall(enqueue_plain)
if not is_done then
  if take_back then pcall(take_back) end
  -- As in enqueue.lua.
  if type(reply) == 'string' and string.find(reply, '^%u+ ') then return redis.error_reply(reply) end
  error(reply, 0)
end
if reply then return reply end

