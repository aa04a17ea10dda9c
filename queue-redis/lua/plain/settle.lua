-- Plain settlements, which are most: jobs have completed, their token holds them, nobody has asked
-- to cancel them, their limit keys have nothing to learn but that they are let go, and they and the
-- records that they push out have all they have in the usual places. Goes on behind this if that is
-- not so, with nothing written: the whole script (settle.lua) does it then. Where both can, both do
-- the same.
--
-- Jobs of one lane often come one after the other. A *stretch* is of neighbours of one *kind*, which
-- is a *class* (queue, kind and settings, and whether they have idempotency keys) with limit keys.
-- Stretches, kinds, classes, limit keys, shelves and counters are numbered, and each list below has
-- one of their properties by that number: a table for each of them would cost more than all else.

repeat
  local argv, find, format = ARGV, string.find, string.format
  local count = #argv / 2
  if count > CHUNK then break end
  runs = runs or call('HMGET', RUN, unpack(argv, 1, count))
  local is_plain = true
  if call('EXISTS', CANCEL) == 1 then
    local asked = call('SMISMEMBER', CANCEL, unpack(argv, 1, count))
    for i = 1, count do is_plain = is_plain and asked[i] == 0 end
    if not is_plain then break end
  end

  -- What there is, each by its number, and its number by what it is.
  local stretch_from, stretch_kind, stretches = {}, {}, 0
  local kinds_of, kind_class, kinds = {}, {}, 0 -- by version, those with idempotency keys behind 10
  local kind_links, kind_own, links, link_count = {}, {}, {}, 0 -- where limit keys end in `links`
  local classes_of, class_queue, class_pair, classes = {}, {}, {}, 0
  local class_place, class_jobs = {}, {} -- no place if nothing is kept
  local place_nth, place_shelf, place_expiry, place_tag, places = {}, {}, {}, {}, 0 -- on shelves
  local place_from, place_to, place_more = {}, {}, {}
  local shelf_nth, shelf_name, shelf_jobs, shelves = {}, {}, {}, 0
  local key_nth, key_name, keys = {}, {}, 0
  local key_from, key_to, key_more, key_added = {}, {}, {}, {}
  local token_nth, tokens, let_go = {}, {}, {}
  -- Of neighbours with one token, or one class.
  local front_from, front_token, fronts, row_from, row_class, rows = {}, {}, 0, {}, {}, 0

  local prefix, brief_prefix = pack('>BBI6', 4, 0, now), pack('>BI6', 20, now) -- brief.lua; 4 is COMPLETED
  local finished, size = {}, 0 -- id, record, …
  local last, front, version, text, kind, class, is_kept -- of the job before
  local head, settler, fin
  local token = ''
  for i = 1, count do
    local run, settlement = runs[i], argv[count + i]
    if run ~= last then
      is_plain = run and #run > 22
      if not is_plain then break end
      -- Its token, and the version of the record behind it (class.lua).
      if not front or find(run, front, 1, true) ~= 1 then
        front = sub(run, 1, 17)
        if byte(front, 17) ~= version then version, text = byte(front, 17), nil end
        token = sub(run, 1, 16)
        local nth = token_nth[token]
        if not nth then
          nth = #tokens + 1
          token_nth[token], tokens[nth], let_go[nth] = nth, token, 0
        end
        fronts = fronts + 1
        front_from[fronts], front_token[fronts] = i, nth
      end
      -- All that is behind these; of a job with an idempotency key without that.
      if not text or #run ~= #last or find(run, text, 18, true) ~= 18 then
        local key_high, key_low, _, queue_bytes, kind_bytes = byte(run, 18, 22)
        local key_bytes, names_end = key_high * 256 + key_low, nil
        local its_text
        if key_bytes == 0 then
          text = sub(run, 18)
          its_text = text
        else
          names_end = (version < 3 and 41 or 35) + queue_bytes + kind_bytes
          is_plain = #run >= names_end + key_bytes
          if not is_plain then break end
          its_text = sub(run, 18, names_end) .. sub(run, names_end + key_bytes + 1)
          text = nil
        end
        local sort = key_bytes == 0 and version or 10 + version
        local known = kinds_of[sort]
        if not known then
          known = {}
          kinds_of[sort], classes_of[sort] = known, {}
        end
        local its_kind = known[its_text]
        if not its_kind then
          names_end = names_end or (version < 3 and 41 or 35) + queue_bytes + kind_bytes
          local class_text = sub(run, 20, names_end)
          local its_class = classes_of[sort][class_text]
          if not its_class then
            is_plain = #run >= names_end and version >= 1 and version <= 4 and byte(run, 23) <= 9
            if not is_plain then break end
            local completed_s, _, flags = struct.unpack('>I4I4B', run, 27)
            local kind_from = names_end - kind_bytes + 1
            local queue = sub(run, kind_from - queue_bytes, kind_from - 1)
            local name = sub(run, kind_from, names_end)
            local pair = queue .. '/' .. name
            -- Flags: 1 expires, 2 its body is apart, 16 it has limit keys.
            is_plain = (flags < 4 or flags >= 16 and flags < 20)
              and (flags >= 16) == (version % 2 == 0)
              and (flags % 2 == 0 or version < 3)
              and (completed_s > 0 or flags % 4 < 2 and key_bytes == 0)
              and kind_bytes <= 64
              and find(pair, '^[a-z0-9_.-]+/[a-z0-9_.-]+$')
            if not is_plain then break end
            classes = classes + 1
            its_class = classes
            classes_of[sort][class_text] = its_class
            class_queue[its_class], class_pair[its_class], class_jobs[its_class] = queue, pair, 0
            if completed_s > 0 then
              local expiry = format('%d', min(now + completed_s * 1000, TIME_MAX))
              local tag = '' -- of the entry (shelf.lua)
              if key_bytes == 0 and flags % 4 < 2 then
                tag = kind_bytes % 16 == 15 and name .. '\0' or name
                tag = tag .. string.char(#tag + 1)
              end
              local where = (tag == '' and queue or pair) .. ' ' .. expiry
              local place, shelf = place_nth[where], shelf_nth[queue]
              if not shelf then
                shelves = shelves + 1
                shelf = shelves
                shelf_nth[queue], shelf_name[shelf], shelf_jobs[shelf] = shelf, 'done:' .. queue, 0
              end
              if not place then
                places = places + 1
                place = places
                place_nth[where], place_shelf[place], place_expiry[place] = place, shelf, expiry
                place_tag[place] = tag
              end
              class_place[its_class] = place
            end
          end
          -- Its own limit keys, and behind them those that its worker added.
          local at = names_end + key_bytes
          if version % 2 == 0 then
            local high, low = byte(run, at + 1, at + 2)
            local own_end = low and at + 2 + high * 256 + low or 0
            at = at + 3
            is_plain = own_end >= at and own_end <= #run
            local own = is_plain and (own_end == #run and run or sub(run, 1, own_end)) or ''
            local first = link_count
            while at <= own_end and is_plain do
              local comma = find(own, ',', at, true)
              local name = sub(own, at, (comma or 0) - 1)
              local key = key_nth[name]
              if not key then
                keys = keys + 1
                key = keys
                key_nth[name], key_name[key] = key, name
              end
              link_count = link_count + 1
              links[link_count] = key
              at = comma and comma + 1 or own_end + 1
              is_plain = not comma or comma < own_end
            end
            at = own_end
            is_plain = is_plain and link_count <= first + 4
            if not is_plain then break end
          end
          kinds = kinds + 1
          its_kind = kinds
          known[its_text], kind_class[kinds] = kinds, its_class
          if at < #run then
            kind_own[kinds] = link_count
            local added = sub(run, at + 1)
            for name in string.gmatch(added, '[^,]+') do
              is_plain = is_plain and find(name, '^[%l%d_.-]+:[%l%d%u_.:@+-]+$')
              local key = key_nth[name]
              if not key then
                keys = keys + 1
                key = keys
                key_nth[name], key_name[key] = key, name
              end
              link_count = link_count + 1
              links[link_count] = key
            end
            is_plain = is_plain and link_count <= kind_own[kinds] + 4
            if not is_plain then break end
          end
          kind_links[kinds] = link_count
        end
        if its_kind ~= kind then
          kind = its_kind
          stretches = stretches + 1
          stretch_from[stretches], stretch_kind[stretches] = i, kind
          if kind_class[kind] ~= class then
            class = kind_class[kind]
            is_kept = class_place[class]
            rows = rows + 1
            row_from[rows], row_class[rows] = i, class
          end
        end
      end
      last = run
    end
    if settlement ~= head then
      head = settlement
      -- The token ends the head, which has 31 bytes (settle.lua); "C" is completed.
      is_plain = byte(head) == 67 and #head <= 31 + INLINE_MAX_BYTES
      if not is_plain then break end
      settler = sub(head, 16, 31)
      local is_brief = #head == 31 and byte(head, 10) + byte(head, 11) + byte(head, 12) == 0
      fin = is_brief and brief_prefix .. sub(head, 13, 19) or prefix .. sub(head, 10)
    end
    is_plain = settler == token
    if not is_plain then break end
    if is_kept then
      finished[size + 1], finished[size + 2] = argv[i], fin
      size = size + 2
    end
  end
  if not is_plain then break end

  -- Which jobs claims and limit keys let go of, and shelves get: neighbours, mostly.
  front_from[fronts + 1], row_from[rows + 1] = count + 1, count + 1
  stretch_from[stretches + 1] = count + 1
  for n = 1, fronts do
    local nth = front_token[n]
    let_go[nth] = let_go[nth] + front_from[n + 1] - front_from[n]
  end
  local gone, gone_count = {}, 0 -- jobs that leave nothing
  for n = 1, rows do
    local from, to, its_class = row_from[n], row_from[n + 1] - 1, row_class[n]
    local place = class_place[its_class]
    class_jobs[its_class] = class_jobs[its_class] + to - from + 1
    if not place then
      for i = from, to do gone[gone_count + i - from + 1] = argv[i] end
      gone_count = gone_count + to - from + 1
    elseif place_to[place] == from - 1 then
      place_to[place] = to
    else
      if place_to[place] then
        local text_before = concat(argv, '', place_from[place], place_to[place])
        place_more[place] = (place_more[place] or '') .. text_before
      end
      place_from[place], place_to[place] = from, to
    end
  end
  for n = 1, keys > 0 and stretches or 0 do
    local from, to, its_kind = stretch_from[n], stretch_from[n + 1] - 1, stretch_kind[n]
    local own = kind_own[its_kind]
    for l = (kind_links[its_kind - 1] or 0) + 1, kind_links[its_kind] do
      local key = links[l]
      local before = key_to[key]
      local is_known = before == to or before == -to -- named twice
      if not before then
        key_from[key], key_to[key] = from, to
      elseif before == from - 1 then
        key_to[key] = to
      elseif not is_known then
        local more = key_more[key] or {}
        if before > 0 then
          for i = key_from[key], before do more[i - key_from[key] + 1] = argv[i] end
          key_more[key] = more
        end
        local held = #more
        for i = from, to do more[held + i - from + 1] = argv[i] end
        key_to[key] = -to
      end
      if own and l > own and not is_known then
        key_added[key] = (key_added[key] or 0) + to - from + 1
      end
    end
  end

  local staying, ended = {}, {} -- claims
  local claims = call('HMGET', CLAIMS, unpack(tokens))
  for t = 1, #tokens do
    local packed = claims[t]
    is_plain = packed and #packed > 18 and byte(packed) == 1 -- left.lua
    if not is_plain then break end
    local ids_bytes = #packed - 18 - byte(packed, 18)
    is_plain = ids_bytes > 0 and ids_bytes % 16 == 0
    if not is_plain then break end
    local high, low = byte(packed, 16, 17)
    local left = high * 256 + low - let_go[t]
    if left > 0 then
      staying[#staying + 1] = tokens[t]
      staying[#staying + 1] = sub(packed, 1, 15) .. pack('>H', left) .. sub(packed, 18)
    else
      ended[#ended + 1] = tokens[t]
    end
  end
  if not is_plain then break end

  -- Nothing may be remembered of the limit keys but when the next job may start: a completion changes
  -- nothing of that.
  local past = {} -- those of which nothing is to be remembered any more
  if limited and keys > 0 and call('HLEN', LIMITED) > 0 then
    for first = 1, keys, CHUNK do
      local last = min(first + CHUNK - 1, keys)
      local states = call('HMGET', LIMITED, unpack(key_name, first, last))
      for i = 1, #states do
        local state = states[i]
        if state then
          -- limits.lua: a version, no flags, when the next job may start, and nothing more
          is_plain = is_plain and #state == 17
            and sub(state, 1, 2) == '\1\0' and sub(state, 11) == '\0\0\0\0\0\0\0'
          if is_plain and struct.unpack('>I8', state, 3) <= now * 1000 then
            past[#past + 1] = key_name[first + i - 1]
          end
        end
      end
    end
    if not is_plain then break end
  end

  -- What is counted, and by how much that changes.
  local field_nth, field_name, field_by, fields = {}, {}, {}, 0
  for class = 1, classes do
    local pair, queue, place = class_pair[class], class_queue[class], class_place[class]
    local jobs = class_jobs[class]
    local names = { pair .. '/running', 'live:' .. queue }
    if place then
      names[3], names[4] = pair .. '/completed', shelf_name[place_shelf[place]]
      shelf_jobs[place_shelf[place]] = shelf_jobs[place_shelf[place]] + jobs
    end
    for n = 1, #names do
      local nth = field_nth[names[n]]
      if not nth then
        fields = fields + 1
        nth = fields
        field_nth[names[n]], field_name[nth], field_by[nth] = nth, names[n], 0
      end
      field_by[nth] = field_by[nth] + (n < 3 and -jobs or jobs)
    end
  end
  local counts = call('HMGET', COUNT, unpack(field_name, 1, fields))
  for nth = 1, fields do
    local jobs = tonumber(counts[nth] or nil) or 0
    is_plain = is_plain and jobs % 1 == 0 and jobs <= 2 ^ 52
    counts[nth] = jobs
  end
  -- Live jobs of each key, and what is left of them. Small numbers are the same again and again.
  local lives, sums, numbers, words, sum_count, zeros = nil, {}, {}, {}, 0, {}
  if keys > 0 then lives = call('HMGET', LIVE, unpack(key_name, 1, keys)) end
  for key = 1, keys do
    local more, have = key_more[key], lives[key]
    local by = (more and #more or key_to[key] - key_from[key] + 1) - (key_added[key] or 0)
    if by > 0 then
      -- A key that nobody has counted is perhaps none.
      local jobs = numbers[have]
      if not jobs then
        jobs = tonumber(have or nil) or -1
        is_plain = is_plain and jobs % 1 == 0 and jobs >= 0 and jobs <= 2 ^ 52
        numbers[have] = jobs
      end
      jobs = jobs - by
      if jobs > 0 then
        local word = words[jobs]
        if not word then
          word = format('%d', jobs)
          words[jobs] = word
        end
        sums[sum_count + 1], sums[sum_count + 2] = key_name[key], word
        sum_count = sum_count + 2
      else
        zeros[#zeros + 1] = key_name[key]
      end
    end
  end
  if not is_plain then break end

  -- Records that have to go because there are too many. Those in entries with tags (shelf.lua) need
  -- not be looked at.
  local kept_fields, freed, owners = fields, {}, {} -- idempotency keys
  local tagged_texts, tagged_field, tagged, heeds_tags = {}, {}, 0, nil
  local shelf_leaving, shelf_rest, shelf_rest_expiry = {}, {}, {}
  for shelf = 1, shelves do
    local name = shelf_name[shelf]
    local over = counts[field_nth[name]] + shelf_jobs[shelf] - FINISHED_MAX
    local missing = over >= SLACK and min(over, shelf_jobs[shelf] + SLACK, CHUNK) or 0
    local old, expiries, entries, olds, all_olds = {}, {}, {}, 0, 0
    if missing > 0 and heeds_tags == nil then
      heeds_tags = call('EXISTS', BAD) == 0
    end
    while missing > 0 and is_plain do
      local at = #entries
      local page = try('ZRANGE', PREFIX .. name, at, at == 0 and 0 or at + 15, 'WITHSCORES')
      is_plain = not page.err
      if not page[1] then break end
      for i = 1, #page, 2 do
        local entry, expiry = page[i], page[i + 1]
        local ids_bytes, kind = #entry, nil
        if ids_bytes % 16 > 0 then
          ids_bytes = ids_bytes - byte(entry, -1)
          kind = string.match(sub(entry, ids_bytes + 1, -2), '^([a-z0-9_.-]+)%z?$')
          is_plain = is_plain and kind and ids_bytes > 0 and ids_bytes % 16 == 0
        end
        if is_plain and missing > 0 then
          local bytes = min(ids_bytes, 16 * missing)
          missing, entries[#entries + 1] = missing - bytes / 16, entry
          all_olds = all_olds + bytes / 16
          if bytes < ids_bytes then
            shelf_rest[shelf], shelf_rest_expiry[shelf] = sub(entry, bytes + 1), expiry
          end
          if kind and heeds_tags then
            local counter = sub(name, 6) .. '/' .. kind .. '/completed'
            local field = field_nth[counter]
            if not field then
              fields = fields + 1
              field = fields
              field_nth[counter], field_name[field], field_by[field] = field, counter, 0
            end
            local texts = tagged_texts[field]
            if not texts then
              texts, tagged = {}, tagged + 1
              tagged_field[tagged], tagged_texts[field] = field, texts
            end
            texts[#texts + 1] = sub(entry, 1, bytes)
          else
            for from = 1, bytes, 16 do
              olds = olds + 1
              old[olds], expiries[olds] = sub(entry, from, from + 15), expiry
            end
          end
        end
      end
    end
    if not is_plain then break end
    if olds > 0 then
      is_plain = look_at_old(name, old, expiries, olds, freed, owners)
      if not is_plain then break end
      for counter, jobs in pairs(is_plain) do
        local field = field_nth[counter]
        if not field then
          fields = fields + 1
          field = fields
          field_nth[counter], field_name[field], field_by[field] = field, counter, 0
        end
        field_by[field] = field_by[field] - jobs
      end
      for i = 1, olds do gone[gone_count + i] = old[i] end
      gone_count = gone_count + olds
    end
    field_by[field_nth[name]] = field_by[field_nth[name]] - all_olds
    shelf_leaving[shelf] = all_olds > 0 and entries
  end
  -- Each of these is read, and written, in one command: `unpack` has a limit.
  if not is_plain or fields > 4 * CHUNK or #freed > 4 * CHUNK then break end
  if fields > kept_fields then
    local more = call('HMGET', COUNT, unpack(field_name, kept_fields + 1, fields))
    for i = 1, fields - kept_fields do
      local jobs = tonumber(more[i] or nil) or 0
      is_plain = is_plain and jobs % 1 == 0 and jobs <= 2 ^ 52
      counts[kept_fields + i] = jobs
    end
    if not is_plain then break end
  end
  local freed_keys = {}
  local have = freed[1] and call('HMGET', IDEM, unpack(freed))
  for i = 1, #freed do
    if have[i] == owners[i] then freed_keys[#freed_keys + 1] = freed[i] end
  end

  local tagged_ids = {}
  for n = 1, tagged do
    local text, last = concat(tagged_texts[tagged_field[n]]), nil
    local ids = { struct.unpack(string.rep('c16', #text / 16), text) }
    ids[#ids] = nil -- where the text has ended
    local ends = call('HMGET', FIN, unpack(ids))
    for i = 1, #ids do
      if ends[i] ~= last then
        last = ends[i]
        -- COMPLETED, its result is not apart.
        is_plain = is_plain and last and (byte(last) == 20 and #last == 14 or sub(last, 1, 2) == '\4\0')
      end
    end
    tagged_ids[n] = ids
  end
  if not is_plain then break end

  -- Jobs that leave nothing, and whether some have left traces.
  local has_atts, has_history, has_log
  if gone_count > 0 or tagged > 0 then
    call('HLEN', JOBS)
    has_atts, has_history, has_log = call('HLEN', ATT) > 0, try('HLEN', HISTORY), try('HLEN', LOG)
    has_history = type(has_history) == 'number' and has_history > 0
    has_log = type(has_log) == 'number' and has_log > 0
  end
  if size > 0 then
    call('ZCARD', AGES)
    call('HLEN', FIN)
  end
  if call('HDEL', RUN, unpack(argv, 1, count)) < count then -- a job comes twice
    for i = 1, count do call('HSET', RUN, argv[i], runs[i]) end
    break
  end
  if size > 0 then call('HSET', FIN, unpack(finished)) end
  for n = 1, tagged do
    local field, ids = tagged_field[n], tagged_ids[n]
    field_by[field] = field_by[field] - call('HDEL', JOBS, unpack(ids))
    call('HDEL', FIN, unpack(ids))
    if has_atts then call('HDEL', ATT, unpack(ids)) end
    if has_history then call('HDEL', HISTORY, unpack(ids)) end
    if has_log then call('HDEL', LOG, unpack(ids)) end
  end
  for first = 1, gone_count, CHUNK do
    local last = min(first + CHUNK - 1, gone_count)
    call('HDEL', JOBS, unpack(gone, first, last))
    if shelves > 0 then call('HDEL', FIN, unpack(gone, first, last)) end
    if has_atts then call('HDEL', ATT, unpack(gone, first, last)) end
    if has_history then call('HDEL', HISTORY, unpack(gone, first, last)) end
    if has_log then call('HDEL', LOG, unpack(gone, first, last)) end
  end
  if freed_keys[1] then call('HDEL', IDEM, unpack(freed_keys)) end
  for place = 1, places do
    local shelf, expiry, to = place_shelf[place], place_expiry[place], place_to[place]
    local more, behind = place_more[place], argv[to + 1]
    argv[to + 1] = place_tag[place]
    local entry = concat(argv, '', place_from[place], to + 1)
    argv[to + 1] = behind
    -- A shelf of a wrong type loses this index entry, not the job.
    try('ZADD', PREFIX .. shelf_name[shelf], expiry, more and more .. entry or entry)
    if not shelf_leaving[shelf] then try('ZADD', AGES, 'LT', expiry, shelf_name[shelf]) end
  end
  for shelf = 1, shelves do
    local entries, name = shelf_leaving[shelf], PREFIX .. shelf_name[shelf]
    if entries then
      try('ZREM', name, unpack(entries))
      if shelf_rest[shelf] then try('ZADD', name, shelf_rest_expiry[shelf], shelf_rest[shelf]) end
      local first = try('ZRANGE', name, '0', '0', 'WITHSCORES')
      if first[2] then try('ZADD', AGES, first[2], shelf_name[shelf]) end
    end
  end

  if sum_count > 0 then call('HSET', LIVE, unpack(sums)) end
  if zeros[1] then call('HDEL', LIVE, unpack(zeros)) end
  sums, zeros = {}, {}
  for nth = 1, fields do
    local by = field_by[nth]
    local sum = counts[nth] + by
    if by ~= 0 and sum > 0 then
      sums[#sums + 1], sums[#sums + 2] = field_name[nth], format('%d', sum)
    elseif by ~= 0 then
      zeros[#zeros + 1] = field_name[nth]
    end
  end
  if sums[1] then call('HSET', COUNT, unpack(sums)) end
  if zeros[1] then call('HDEL', COUNT, unpack(zeros)) end
  local holders = PREFIX .. 'hold:'
  for key = 1, keys do
    local list, from, to = key_more[key], 1, nil
    if list then to = #list else list, from, to = argv, key_from[key], key_to[key] end
    local name = key_name[key]
    local removed = try('SREM', holders .. name, unpack(list, from, to))
    if removed ~= to - from + 1 and type(removed) == 'table' then
      try('SREM', PREFIX .. 'mend:' .. name, unpack(list, from, to))
      if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
    end
  end
  for first = 1, #past, CHUNK do
    call('HDEL', LIMITED, unpack(past, first, min(first + CHUNK - 1, #past)))
  end
  if staying[1] then call('HSET', CLAIMS, unpack(staying)) end
  if ended[1] then
    call('HDEL', CLAIMS, unpack(ended))
    try('ZREM', LEASES, unpack(ended))
  end
  if now ~= clock_ms then call('HSET', META, 'clock_ms', now_text) end
  do return string.rep('a4', count) end
until true
-- Behind the plain part of settlements.

