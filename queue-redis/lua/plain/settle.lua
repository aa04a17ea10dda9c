-- Plain settlements, which are most: jobs have completed, their token holds them, nobody has asked
-- to cancel them, their limit keys have nothing to learn but that they are let go, and they and the
-- records that they push out have all they have in the usual places. Answers nothing if that is not
-- so, before anything is written: the whole script (settle.lua) does it then. Where both can, both
-- do the same.

local HEAD_BYTES = 31 -- of a settlement (settle.lua)
local OLD_PAGE = 16 -- entries of a shelf that are read at once
local DONE = 4 -- COMPLETED
local JOBS_MAX = 2 ^ 52 -- that a counter counts; anything else is damage

local function settle_plain()
  local argv, count = ARGV, #ARGV / 2
  local finished, size = {}, 0 -- id, record, …
  local kinds = {} -- of jobs: a class, its limit keys, and those that their workers added
  local groups = {} -- class → its jobs
  local tokens, let_go = {}, {}
  local by, key_by, counts = {}, {}, {} -- counter → what is added, what it is
  local shelves = {}
  local dropped, freed_keys = {}, {} -- jobs that leave nothing
  local asked, is_asked = {}, {} -- limit keys of which something might be set or remembered

  local function add(list, name, jobs) list[name] = (list[name] or 0) + jobs end

  -- A kind's limit keys, and those that its workers added; nil if they are not such.
  local function names_of(run, class, head_bytes)
    local own, names = nil, nil
    if class.limited then
      local high, low = byte(run, 16 + head_bytes - 1, 16 + head_bytes)
      if not low then return nil end
      local from = 16 + head_bytes + 1
      head_bytes = head_bytes + high * 256 + low
      own = split_keys(sub(run, from, 16 + head_bytes))
      if not own then return nil end
    end
    if #run < 16 + head_bytes then return nil end
    if #run == 16 + head_bytes then return own or {}, own or {} end
    local has = {}
    names = {}
    for _, key in ipairs(own or {}) do
      has[key], names[#names + 1] = true, key
    end
    for key in string.gmatch(sub(run, 17 + head_bytes), '[^,]+') do
      if not has[key] then has[key], names[#names + 1] = true, key end
    end
    return own or {}, names
  end

  local function meet_kind(run)
    local class, head_bytes = shared_class_of(run, 16)
    if not class or class.at_least or class.live_hold then return nil end
    local own, names = names_of(run, class, head_bytes)
    if not own then return nil end
    local kept = class.completed_s > 0
    if not kept and (class.apart or byte(run, 34) + byte(run, 35) > 0) then return nil end
    local group = groups[class]
    if not group then
      group = { class = class, kept = kept, ids = {}, count = 0 }
      groups[class] = group
    end
    local kind = { group = group, own = own, names = names, ids = names[1] and {}, kept = kept }
    kinds[#kinds + 1] = kind
    for i = 1, limited and #names or 0 do
      local key = names[i]
      if not is_asked[key] then is_asked[key], asked[#asked + 1] = true, key end
    end
    return kind
  end

  -- Whether nothing is remembered of the limit keys, and nothing set that a completion changes.
  local function are_indifferent()
    local targets, met = {}, {}
    for first = 1, #asked, CHUNK do
      local last = min(first + CHUNK - 1, #asked)
      for _, state in ipairs(call('HMGET', LIMITED, unpack(asked, first, last))) do
        if state then return false end
      end
    end
    for i = 1, #asked do
      local class = string.match(asked[i], '^[^:]*')
      if not met[class] then met[class], targets[#targets + 1] = true, class .. ':*' end
      targets[#targets + 1] = asked[i]
    end
    for first = 1, #targets, CHUNK do
      local last = min(first + CHUNK - 1, #targets)
      for _, settings in ipairs(call('HMGET', LIMITS, unpack(targets, first, last))) do
        -- 4: a breaker, 8: adaptive.
        if settings and floor((byte(settings, 2) or 255) / 4) % 4 > 0 then return false end
      end
    end
    return true
  end

  -- Reads what the settlements are about; answers whether they are plain.
  local function meet_jobs(runs)
    local prefix = pack('>BBI6', DONE, 0, now)
    local by_text, seen = {}, {}
    local token, head, fin
    for i = 1, count do
      local id, run = argv[i], runs[i]
      if not run or seen[id] then return false end
      seen[id] = true
      if sub(run, 1, 16) ~= token or argv[count + i] ~= head then
        token, head = sub(run, 1, 16), argv[count + i]
        if sub(head, 16, HEAD_BYTES) ~= token or byte(head) ~= 67 then return false end -- C
        if #head > HEAD_BYTES + INLINE_MAX_BYTES then return false end
        fin = prefix .. sub(head, 10)
        if not let_go[token] then let_go[token], tokens[#tokens + 1] = 0, token end
      end
      let_go[token] = let_go[token] + 1
      local text = sub(run, 34) -- all that is behind its times and its size
      local kind = by_text[text]
      if not kind then
        kind = meet_kind(run)
        if not kind then return false end
        by_text[text] = kind
      end
      local group = kind.group
      local nth = group.count + 1
      group.count, group.ids[nth] = nth, id
      if kind.ids then kind.ids[#kind.ids + 1] = id end
      if kind.kept then
        finished[size + 1], finished[size + 2] = id, fin
        size = size + 2
      else
        dropped[#dropped + 1] = id
      end
    end
    return true
  end

  -- Counts what is to be counted, and finds the shelves.
  local function count_group(group)
    local class, jobs = group.class, group.count
    add(by, class.pair .. '/running', -jobs)
    add(by, 'live:' .. class.queue, -jobs)
    if not group.kept then return end
    local name = 'done:' .. class.queue
    add(by, class.pair .. '/completed', jobs)
    add(by, name, jobs)
    local shelf = shelves[name]
    if not shelf then
      shelf = { name = name, key = PREFIX .. name, by = 0, added = {}, leaving = {} }
      shelves[name] = shelf
    end
    shelf.by = shelf.by + jobs
    local expiry = min(now + class.completed_s * 1000, TIME_MAX)
    shelf.added[expiry] = (shelf.added[expiry] or '') .. concat(group.ids)
  end

  -- Answers whether all are whole numbers.
  local function read_counts()
    local asked = {}
    for field in pairs(by) do
      if not counts[field] then asked[#asked + 1] = field end
    end
    for i, have in ipairs(asked[1] and call('HMGET', COUNT, unpack(asked)) or {}) do
      local count_ = tonumber(have or nil) or 0
      if count_ % 1 ~= 0 or count_ > JOBS_MAX then return false end
      counts[asked[i]] = count_
    end
    return true
  end

  -- The first `most` ids of a shelf, and when each expires; or nil if one of its entries is none.
  local function first_of(shelf, most)
    local ids, expiries, at = {}, {}, 0
    while most > 0 do
      local page =
        try('ZRANGE', shelf.key, at, at == 0 and 0 or at + OLD_PAGE - 1, 'WITHSCORES')
      if page.err then return nil end
      if not page[1] then break end
      for i = 1, #page, 2 do
        local entry, expiry = page[i], page[i + 1]
        if #entry % 16 ~= 0 then return nil end
        if most > 0 then
          local bytes = min(#entry, 16 * most)
          for place = 1, bytes, 16 do
            ids[#ids + 1] = sub(entry, place, place + 15)
            expiries[#ids] = expiry
          end
          most = most - bytes / 16
          shelf.leaving[#shelf.leaving + 1] = entry
          if bytes < #entry then
            shelf.rest, shelf.rest_expiry = sub(entry, bytes + 1), expiry
          end
        end
      end
      at = at + #page / 2
    end
    return ids, expiries
  end

  -- Plans to drop records of a shelf; answers whether they are plain.
  local function push_out(shelf, most)
    local ids, expiries = first_of(shelf, min(most, CHUNK))
    if not ids then return false end
    if #ids == 0 then return true end
    local records, fins = call('HMGET', JOBS, unpack(ids)), call('HMGET', FIN, unpack(ids))
    local known, class, text, settled, expiry = {}, nil, nil, nil, nil
    local keys, owners = {}, {}
    for i, id in ipairs(ids) do
      local record, fin = records[i], fins[i]
      if not record or not fin or #fin < 30 or #record < NAMES_AT then return false end
      local high, low, _, queue_bytes, kind_bytes = byte(record, 18, 22)
      local names_end = NAMES_AT - 1 + queue_bytes + kind_bytes
      if byte(record) < LASTING then names_end = names_end + EXPIRY_BYTES end
      if
        sub(record, 20, names_end) ~= text
        or sub(fin, 1, 8) ~= settled
        or expiries[i] ~= expiry
      then
        text, settled, expiry = sub(record, 20, names_end), sub(fin, 1, 8), expiries[i]
        class = known[text] or class_of(record, 0)
        if not class or class.apart or 'done:' .. class.queue ~= shelf.name then return false end
        known[text] = class
        local state, reason, finished_ms = struct.unpack('>BBI6', fin)
        local expiry_ms = min(finished_ms + class.completed_s * 1000, TIME_MAX)
        if state ~= DONE or reason ~= 0 or expiry_ms ~= tonumber(expiry) then return false end
      end
      if high + low > 0 then
        keys[#keys + 1] = sub(record, names_end + 1, names_end + high * 256 + low)
        owners[#keys] = id
      end
      class.dropped = (class.dropped or 0) + 1
      dropped[#dropped + 1] = id
    end
    for _, class_ in pairs(known) do
      add(by, class_.pair .. '/completed', -(class_.dropped or 0))
      class_.dropped = nil
    end
    add(by, shelf.name, -#ids)
    for i, owner in ipairs(keys[1] and call('HMGET', IDEM, unpack(keys)) or {}) do
      if owner == owners[i] then freed_keys[#freed_keys + 1] = keys[i] end
    end
    return true
  end

  local function save_counts(key, list, have)
    local sums, zeros = {}, {}
    for field, jobs in pairs(list) do
      local sum = have[field] + jobs
      if jobs ~= 0 and sum > 0 then
        sums[#sums + 1], sums[#sums + 2] = field, string.format('%d', sum)
      elseif jobs ~= 0 then
        zeros[#zeros + 1] = field
      end
    end
    if sums[1] then call('HSET', key, unpack(sums)) end
    if zeros[1] then call('HDEL', key, unpack(zeros)) end
  end

  local function save_shelf(shelf)
    for expiry, entry in pairs(shelf.added) do
      local score = string.format('%d', expiry)
      -- A shelf of a wrong type loses this index entry, not the job.
      try('ZADD', shelf.key, score, entry)
      if not shelf.leaving[1] then try('ZADD', AGES, 'LT', score, shelf.name) end
    end
    if not shelf.leaving[1] then return end
    try('ZREM', shelf.key, unpack(shelf.leaving))
    if shelf.rest then try('ZADD', shelf.key, shelf.rest_expiry, shelf.rest) end
    local first = try('ZRANGE', shelf.key, '0', '0', 'WITHSCORES')
    if first[2] then try('ZADD', AGES, first[2], shelf.name) end
  end

  if count > CHUNK then return nil end
  runs = runs or call('HMGET', RUN, unpack(argv, 1, count))
  if call('EXISTS', CANCEL) == 1 then
    for _, is_asked in ipairs(call('SMISMEMBER', CANCEL, unpack(argv, 1, count))) do
      if is_asked == 1 then return nil end
    end
  end
  if not meet_jobs(runs) then return nil end
  local staying, ended = {}, {} -- claims
  for i, packed in ipairs(call('HMGET', CLAIMS, unpack(tokens))) do
    if not is_claim(packed) then return nil end
    local left = left_of(packed) - let_go[tokens[i]]
    if left > 0 then
      staying[#staying + 1], staying[#staying + 2] = tokens[i], with_left(packed, left)
    else
      ended[#ended + 1] = tokens[i]
    end
  end
  if asked[1] and not are_indifferent() then return nil end
  for _, group in pairs(groups) do count_group(group) end
  for _, kind in ipairs(kinds) do
    for _, key in ipairs(kind.own) do add(key_by, key, -#kind.ids) end
  end
  if not read_counts() then return nil end
  for name, shelf in pairs(shelves) do
    local over = counts[name] + by[name] - FINISHED_MAX
    if over >= SLACK and not push_out(shelf, min(over, shelf.by + SLACK)) then return nil end
  end
  if not read_counts() then return nil end
  local key_counts, keys, traces = {}, {}, {}
  for key in pairs(key_by) do keys[#keys + 1] = key end
  for i, have in ipairs(keys[1] and call('HMGET', LIVE, unpack(keys)) or {}) do
    local count_ = tonumber(have or nil) or 0
    if count_ % 1 ~= 0 or count_ > JOBS_MAX then return nil end
    key_counts[keys[i]] = count_
  end
  if dropped[1] then
    call('HLEN', JOBS)
    for _, key in ipairs({ ATT, HISTORY, LOG }) do
      local fields = try('HLEN', key)
      if type(fields) == 'table' and key == ATT then return nil end
      if type(fields) == 'number' and fields > 0 then traces[#traces + 1] = key end
    end
  end

  if size > 0 then call('ZCARD', AGES) end

  if size > 0 then call('HSET', FIN, unpack(finished)) end -- it may still fail: a wrong type
  save_counts(COUNT, by, counts)
  save_counts(LIVE, key_by, key_counts)
  call('HDEL', RUN, unpack(argv, 1, count))
  if staying[1] then call('HSET', CLAIMS, unpack(staying)) end
  if ended[1] then
    call('HDEL', CLAIMS, unpack(ended))
    try('ZREM', LEASES, unpack(ended))
  end
  if freed_keys[1] then call('HDEL', IDEM, unpack(freed_keys)) end
  if dropped[1] then
    local keys_ = { JOBS, unpack(traces) }
    if next(shelves) then table.insert(keys_, FIN) end
    for _, key in ipairs(keys_) do
      for i = 1, #dropped, CHUNK do
        call('HDEL', key, unpack(dropped, i, min(i + CHUNK - 1, #dropped)))
      end
    end
  end
  local holders, is_shared = {}, {} -- key → ids
  for _, kind in ipairs(kinds) do
    for _, key in ipairs(kind.names) do
      local ids = holders[key]
      if not ids then
        holders[key] = kind.ids
      else
        if not is_shared[key] then
          ids = { unpack(ids) }
          holders[key], is_shared[key] = ids, true
        end
        local length = #ids
        for i, id in ipairs(kind.ids) do ids[length + i] = id end
      end
    end
  end
  for key, ids in pairs(holders) do
    local removed = try('SREM', PREFIX .. 'hold:' .. key, unpack(ids))
    if type(removed) == 'table' then
      try('SREM', PREFIX .. 'mend:' .. key, unpack(ids))
      if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
    end
  end
  for _, shelf in pairs(shelves) do save_shelf(shelf) end
  save_meta()
  return string.rep('a4', count)
end

local settled = settle_plain()
if settled then return settled end

