-- The shortest settlements, made without functions, which cost a call more than a job does: jobs of
-- one claim, queue, kind, settings and limit keys have completed with the same result, and all is as
-- plain as can be (plain/settle.lua). Goes on behind this if that is not so, with nothing written.

repeat
  local argv = ARGV
  local count = #argv / 2
  if not names_end then break end
  local head = argv[count + 1]
  -- The token ends the head, which has 31 bytes (settle.lua); "C" is completed.
  if byte(head) ~= 67 or #head > 31 + INLINE_MAX_BYTES then break end
  local token, is_plain = sub(head, 16, 31), true
  for i = count + 2, 2 * count do is_plain = is_plain and argv[i] == head end
  if not is_plain then break end
  -- Of keys that most stores do not have (meta.lua) "c" is `cancel`.
  local rare = meta[4] or 'acdhl'
  if string.find(rare, 'c', 1, true) and call('EXISTS', PREFIX .. 'cancel') == 1 then break end

  local first = runs[1]
  if #first < names_end or flags ~= 0 and flags ~= 16 or byte(first, 23) > 9 then break end
  if not string.find(pair, '^[a-z0-9_.-]+/[a-z0-9_.-]+$') then break end
  local is_kept = completed_s > 0
  local class, version = sub(first, 20, names_end), flags == 16 and 4 or 3 -- the class from its codec on
  local key_high, key_low = byte(first, 18, 19)
  local has_keys = key_high + key_low > 0
  if has_keys and not is_kept or #kind > 64 then break end
  -- Behind the idempotency key: the job's limit keys, and those that its worker has added.
  local limit_keys = sub(first, names_end + key_high * 256 + key_low + 1)
  local last, seen = nil, count > 1 and {}
  for i = 1, count do
    local run, id = runs[i], argv[i]
    is_plain = run and not (seen and seen[id])
    if not is_plain then break end
    if seen then seen[id] = true end
    if run ~= last then
      key_high, key_low = byte(run, 18, 19)
      local key_bytes = key_low and key_high * 256 + key_low or 0
      is_plain = sub(run, 1, 16) == token and byte(run, 17) == version
        and sub(run, 20, names_end) == class
        and sub(run, names_end + key_bytes + 1) == limit_keys
        and #run == names_end + key_bytes + #limit_keys
        and (key_bytes > 0) == has_keys
      if not is_plain then break end
      last = run
    end
  end
  if not is_plain then break end

  -- Nothing may be remembered of the limit keys but when the next job may start: a completion changes
  -- nothing of that.
  local own_text, names, own_count = '', nil, 0
  local past -- those of which nothing is to be remembered any more
  if limit_keys ~= '' then
    names = {}
    local added = limit_keys
    if version == 4 then
      local high, low = byte(limit_keys, 1, 2)
      own_text = low and sub(limit_keys, 3, 2 + high * 256 + low) or ''
      is_plain = low and #own_text == high * 256 + low
      added = sub(limit_keys, 3 + #own_text)
      local bytes = -1
      for name in string.gmatch(own_text, '[^,]+') do
        is_plain = is_plain and string.find(name, '^[%l%d_.-]+:[%l%d%u_.:@+-]+$')
        for i = 1, own_count do is_plain = is_plain and names[i] ~= name end
        own_count, bytes = own_count + 1, bytes + #name + 1
        names[own_count] = name
      end
      is_plain = is_plain and own_count >= 1 and own_count <= 4 and bytes == #own_text
    end
    for name in string.gmatch(added, '[^,]+') do
      local is_known = false
      for i = 1, #names do is_known = is_known or names[i] == name end
      if not is_known then names[#names + 1] = name end
    end
    if not is_plain or #names > 100 then break end
    if limited and names[1] then
      LIMITED = PREFIX .. 'limited'
      local states = call('HMGET', LIMITED, unpack(names))
      for i = 1, #names do
        local state = states[i]
        if state then
          -- limits.lua: a version, no flags, when the next job may start, and nothing more
          is_plain = is_plain and #state == 17
            and sub(state, 1, 2) == '\1\0' and sub(state, 11) == '\0\0\0\0\0\0\0'
          if is_plain and struct.unpack('>I8', state, 3) <= now * 1000 then
            past = past or {}
            past[#past + 1] = names[i]
          end
        end
      end
      if not is_plain then break end
    end
  elseif version == 4 then
    break
  end

  CLAIMS = PREFIX .. 'claims'
  local packed = call('HGET', CLAIMS, token)
  if not packed or #packed <= 18 or byte(packed) ~= 1 then break end -- left.lua
  local ids_bytes = #packed - 18 - byte(packed, 18)
  if ids_bytes <= 0 or ids_bytes % 16 ~= 0 then break end
  local high, low = byte(packed, 16, 17)
  local left = high * 256 + low - count

  local running, live = tonumber(meta[5] or 0) or 0, tonumber(meta[6] or 0) or 0
  if running % 1 ~= 0 or running > 2 ^ 52 or live % 1 ~= 0 or live > 2 ^ 52 then break end
  local completed, shelved = 0, 0
  if is_kept then
    completed, shelved = tonumber(meta[7] or 0) or 0, tonumber(meta[8] or 0) or 0
    if completed % 1 ~= 0 or completed > 2 ^ 52 then break end
    if shelved % 1 ~= 0 or shelved > 2 ^ 52 then break end
  end
  local lives
  if own_count > 0 then
    LIVE = PREFIX .. 'live'
    lives = call('HMGET', LIVE, unpack(names, 1, own_count))
    for i = 1, own_count do
      local jobs = tonumber(lives[i] or nil) or 0
      is_plain = is_plain and jobs % 1 == 0 and jobs <= 2 ^ 52
      lives[i] = jobs - count
    end
  end
  if not is_plain then break end

  -- Records that have to go because there are too many: here if they are of such jobs, too, as the
  -- tags of their entries say (shelf.lua).
  local tag = ''
  if is_kept and not has_keys then
    local bytes = #kind + 1
    tag = bytes % 16 > 0 and kind .. string.char(bytes) or kind .. '\0' .. string.char(bytes + 1)
  end
  local shelf, old_count = PREFIX .. (shelf_name or ''), 0
  local old, entries, rest, rest_expiry
  local over = is_kept and shelved + count - FINISHED_MAX or 0
  local missing = over >= SLACK and min(over, count + SLACK, CHUNK) or 0
  FIN, AGES = PREFIX .. 'fin', PREFIX .. 'ages'
  if missing > 0 or not is_kept then
    JOBS, ATT, HISTORY, BAD = PREFIX .. 'jobs', PREFIX .. 'att', PREFIX .. 'history', PREFIX .. 'bad'
  end
  if missing > 0 then
    old, entries = {}, {}
    is_plain = not has_keys and call('EXISTS', BAD) == 0
  end
  while missing > 0 and is_plain do
    local page =
      try('ZRANGE', shelf, #entries, #entries == 0 and 0 or #entries + 15, 'WITHSCORES')
    if page.err then is_plain = false end
    if not page[1] then break end
    for i = 1, #page, 2 do
      local entry = page[i]
      local ids = (#entry - #tag) / 16
      is_plain = is_plain and ids > 0 and ids % 1 == 0 and sub(entry, -#tag) == tag
      if is_plain and missing > 0 then
        local going = min(ids, missing)
        missing, entries[#entries + 1] = missing - going, entry
        if going < ids then rest, rest_expiry = sub(entry, 16 * going + 1), page[i + 1] end
        old[#entries], old_count = sub(entry, 1, 16 * going), old_count + going
      end
    end
  end
  if not is_plain then break end
  if old_count > 0 then
    old = { struct.unpack(string.rep('c16', old_count), concat(old)) }
    local ends, last = call('HMGET', FIN, unpack(old, 1, old_count)), nil
    for i = 1, old_count do
      if ends[i] ~= last then
        last = ends[i]
        -- COMPLETED, its result is not apart.
        is_plain = is_plain and last and (byte(last) == 20 and #last == 14 or sub(last, 1, 2) == '\4\0')
      end
    end
    if not is_plain then break end
  end

  -- Jobs that leave nothing, and whether some have left traces.
  local gone, gone_count = old, old_count
  if not is_kept then gone, gone_count = argv, count end
  local dropped, log, has_atts, has_history, has_log = 0, nil, false, nil, nil
  if is_kept and gone_count > 0 then call('HLEN', JOBS) end
  if gone_count > 0 and rare ~= '' then
    log = PREFIX .. 'log'
    has_atts, has_history, has_log = call('HLEN', ATT) > 0, try('HLEN', HISTORY), try('HLEN', log)
    has_history = type(has_history) == 'number' and has_history > 0
    has_log = type(has_log) == 'number' and has_log > 0
  end
  if is_kept then
    if old_count > 0 then call('ZCARD', AGES) end
    -- The first writes: they may still fail because of a wrong type, and are taken back then.
    local fin, written
    if #head == 31 and sub(head, 10, 12) == '\0\0\0' then
      fin = pack('>BI6', 20, now) .. sub(head, 13, 19) -- brief.lua
    else
      fin = pack('>BBI6', 4, 0, now) .. sub(head, 10) -- 4 is COMPLETED
    end
    if count > 1 then
      local finished = {}
      for i = 1, count do finished[2 * i - 1], finished[2 * i] = argv[i], fin end
      written = try('HSET', FIN, unpack(finished))
    else
      written = try('HSET', FIN, argv[1], fin)
    end
    if type(written) == 'table' then break end
    local expiry = string.format('%d', min(now + completed_s * 1000, TIME_MAX))
    local noted = old_count > 0 or try('ZADD', AGES, 'LT', expiry, shelf_name)
    if type(noted) == 'table' and written == count then
      call('HDEL', FIN, unpack(argv, 1, count))
      break
    end
    -- A shelf of a wrong type loses this index entry, not the job.
    if count > 1 then
      argv[count + 1] = tag -- in place of what is not needed any more: joining long texts costs much
      try('ZADD', shelf, expiry, concat(argv, '', 1, count + 1))
    else
      try('ZADD', shelf, expiry, argv[1] .. tag)
    end
  end
  if gone_count > 0 then
    dropped = call('HDEL', JOBS, unpack(gone, 1, gone_count))
    if has_atts then call('HDEL', ATT, unpack(gone, 1, gone_count)) end
    if has_history then call('HDEL', HISTORY, unpack(gone, 1, gone_count)) end
    if has_log then call('HDEL', log, unpack(gone, 1, gone_count)) end
  end
  if old_count > 0 then
    call('HDEL', FIN, unpack(old, 1, old_count))
    try('ZREM', shelf, unpack(entries))
    if rest then try('ZADD', shelf, rest_expiry, rest) end
    local first = try('ZRANGE', shelf, '0', '0', 'WITHSCORES')
    if first[2] then try('ZADD', AGES, first[2], shelf_name) end
  end
  -- A counter that reaches 0 goes.
  running, live = running - count, live - count
  local zeros = (running <= 0 or live <= 0) and {} or nil
  local running_text, live_text = string.format('%d', running), string.format('%d', live)
  if running <= 0 then zeros[1] = running_field end
  if live <= 0 then zeros[#zeros + 1] = live_field end
  if is_kept then
    completed, shelved = completed + count - dropped, shelved + count - old_count
    local completed_text = count == dropped and meta[7] or string.format('%d', completed)
    local shelved_text = count == old_count and meta[8] or string.format('%d', shelved)
    call(
      'HSET', META, 'clock_ms', now_text, running_field, running_text, live_field, live_text,
      completed_field, completed_text, shelf_name, shelved_text
    )
    zeros = zeros or (completed <= 0 or shelved <= 0) and {}
    if completed <= 0 and completed_text ~= meta[7] then zeros[#zeros + 1] = completed_field end
    if shelved <= 0 and shelved_text ~= meta[8] then zeros[#zeros + 1] = shelf_name end
  else
    call('HSET', META, 'clock_ms', now_text, running_field, running_text, live_field, live_text)
  end
  if zeros and zeros[1] then call('HDEL', META, unpack(zeros)) end
  for i = 1, own_count do
    if lives[i] > 0 then
      call('HSET', LIVE, names[i], string.format('%d', lives[i]))
    else
      call('HDEL', LIVE, names[i])
    end
  end
  for i = 1, names and #names or 0 do
    if type(try('SREM', PREFIX .. 'hold:' .. names[i], unpack(argv, 1, count))) == 'table' then
      try('SREM', PREFIX .. 'mend:' .. names[i], unpack(argv, 1, count))
      if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
    end
  end
  if past then call('HDEL', LIMITED, unpack(past)) end
  call('HDEL', PREFIX .. 'run', unpack(argv, 1, count))
  if left > 0 then
    local rest = sub(packed, 1, 15) .. pack('>H', left) .. sub(packed, 18)
    call('HSET', CLAIMS, token, rest)
  else
    call('HDEL', CLAIMS, token)
    try('ZREM', PREFIX .. 'leases', token)
  end
  do return string.rep('a4', count) end
until true

