-- The shortest claims, made without functions, which cost a call more than a job does: at most one
-- queue and kind has jobs, in one lane unless one job is wanted, and they, their limit keys and the
-- store are as plain as can be (plain/claim.lua). Goes on behind this if that is not so, with nothing
-- written.

-- Data that whoever asks does not know gives nothing: nobody may have told it of limits yet.
if (meta[9] or '') ~= ARGV[#ARGV] then
  return { now, now, 0, 4, -1, 0, meta[9] or '', '', '', '', false, false, false, false }
end

repeat
  local argv, format = ARGV, string.format
  local token, missing, spare = argv[1], argv[3] + 0, 2 -- whether the keys have room to spare (Claim::spare)
  if meta[8] or meta[4] and meta[4] ~= '0' or missing > CHUNK then break end

  -- Which queue and kind that is.
  local nth = is_one and meta[11] and 1 or nil
  if not is_one then
    if size == 0 or size > CHUNK then break end
    local has_one = true
    for i = 1, size do
      if meta[10 + i] then nth, has_one = i, not nth end
      if not has_one then break end
    end
    if not has_one then break end
  end

  -- Keys that most stores do not have (meta.lua): "d" is `due`, "a" is `att`.
  local rare, due_ms = meta[10] or 'acdhl', nil
  if string.find(rare, 'd', 1, true) then
    due_ms = tonumber(call('ZRANGE', PREFIX .. 'due', '0', '0', 'WITHSCORES')[2])
    if due_ms and due_ms <= now then break end
  end
  local claims, leases = PREFIX .. 'claims', PREFIX .. 'leases'
  local maintain = call('ZCOUNT', leases, '-inf', now_text) > 0
    or call('ZCOUNT', PREFIX .. 'ages', '-inf', now_text) > 0
  if limited then
    -- Keys to be looked at for which jobs wait, and the next round of heal.lua, once a minute.
    if call('ZCARD', PREFIX .. 'reopen') > 0 then break end
    local notes = call('HMGET', META, 'relook', 'tidied')
    local tidied_ms = notes[2] and tonumber(string.match(notes[2], '^t(%d+)$'))
    if notes[1] then break end
    maintain = maintain or not tidied_ms or tidied_ms > now or tidied_ms + 60000 <= now
  end
  local next_due = due_ms and due_ms <= TIME_MAX and due_ms - now or -1
  if not nth then
    if call('HEXISTS', claims, token) == 1 then break end -- a repeat
    if now ~= clock_ms then call('HSET', META, 'clock_ms', now_text) end
    do
      return {
        now, now, 0, (missing == 0 and 1 or 0) + spare, next_due, maintain and 1 or 0, meta[9] or '',
        '', '', '', false, false, false, false,
      }
    end
  end

  local queue, kind_at = argv[7], 8
  if not is_one then
    local kind_count = (#argv - 1 - queues_end) / 3
    queue = argv[7 + floor((nth - 1) / kind_count)]
    kind_at = queues_end + 1 + 3 * ((nth - 1) % kind_count)
  end
  local kind, wanted, wanted_text, added = argv[kind_at], missing, argv[3], argv[kind_at + 2]
  if argv[kind_at + 1] + 0 < missing then
    wanted_text = argv[kind_at + 1]
    wanted = wanted_text + 0
  end
  if wanted <= 0 then break end
  local paused = meta[5]
  if paused and string.find(paused, ',' .. queue .. ',', 1, true) then break end
  local pair = queue .. '/' .. kind
  local index_key = PREFIX .. 'lanes:' .. pair
  local lanes = try('ZRANGE', index_key, '0', '1')
  local index = lanes[1]
  local next_index = lanes[2]
  if not index or next_index and missing > 1 then break end
  local priority = (byte(index) or 0) - 48
  if priority < 0 or priority > 9 then break end
  local limit_keys = #index > 1 and sub(index, 3)
  if limit_keys and byte(index, 2) ~= 47 then break end -- "/"
  local lane = PREFIX .. 'lane:' .. pair .. '/' .. index
  -- One more, to see whether something is left.
  local ids = try('LRANGE', lane, '0', wanted_text)
  local count, is_empty = #ids, true
  if count == 0 then break end
  if count > wanted then
    ids[count] = nil
    count, is_empty = wanted, false
  end
  local running_field = pair .. '/running'
  local ready, running = tonumber(meta[10 + nth]), meta[12]
  if not is_one then running = call('HGET', META, running_field) end
  running = tonumber(running or 0)
  if not ready or not running then break end
  ready, running = ready - count, running + count
  if limited and is_empty and ready > 0 and not next_index then break end -- the others may wait for a key
  if next_index and ready <= 0 then break end
  if not (ready >= 0 and ready <= 2 ^ 52 and ready % 1 == 0) then break end
  if not (running > 0 and running <= 2 ^ 52 and running % 1 == 0) then break end

  -- The limit keys of the jobs, and those that the worker adds: they have room for more than is taken, and
  -- nothing is remembered of them but when the next job may start (plain/room.lua).
  local names, rates, is_plain = nil, nil, true
  if limit_keys or added ~= '' then
    names = {}
    local own_count, bytes = 0, -1
    for name in string.gmatch(limit_keys or '', '[^,]+') do
      is_plain = is_plain and string.find(name, '^[%l%d_.-]+:[%l%d%u_.:@+-]+$')
      own_count, bytes = own_count + 1, bytes + #name + 1
      names[own_count] = name
    end
    if limit_keys then
      is_plain = is_plain and own_count >= 1 and own_count <= 4 and bytes == #limit_keys
    end
    for name in string.gmatch(added, '[^,]+') do
      local is_known = false
      for i = 1, #names do is_known = is_known or names[i] == name end
      if not is_known then names[#names + 1] = name end
    end
    if not is_plain or #names > 100 then break end
  end
  -- If its lane is empty now the next one has to have room, too, or nothing may be left to run.
  local taking = names and #names or 0
  if limited and is_empty and next_index then
    names = names or {}
    is_plain = string.find(next_index, '^%d$') or string.find(next_index, '^%d/.')
    local own_count, bytes = 0, -1
    for name in string.gmatch(sub(next_index, 3), '[^,]+') do
      is_plain = is_plain and string.find(name, '^[%l%d_.-]+:[%l%d%u_.:@+-]+$')
      own_count, bytes = own_count + 1, bytes + #name + 1
      local is_known = false
      for i = 1, #names do is_known = is_known or names[i] == name end
      if not is_known then names[#names + 1] = name end
    end
    is_plain = is_plain and own_count <= 4 and (own_count == 0 or bytes == #next_index - 2)
    if not is_plain or #names > 100 then break end
  end
  if limited and names and names[1] then
    local states, targets = call('HMGET', PREFIX .. 'limited', unpack(names)), {}
    for i = 1, #names do
      targets[2 * i - 1], targets[2 * i] = names[i], string.match(names[i], '^[^:]*') .. ':*'
    end
    local settings, now_us = call('HMGET', PREFIX .. 'limits', unpack(targets)), now * 1000
    for i = 1, #names do
      local take = i <= taking and count or 0
      local state, set = states[i], settings[2 * i - 1] or settings[2 * i]
      is_plain = is_plain and (not set or #set >= 46) and (set or not state)
      if set and is_plain then
        -- limits.lua: 1 concurrency, 2 rate, 4 breaker, 8 adaptive, 16 weight, 32 live jobs.
        local version, flags, most, starts, period_ms, burst, failures, window_ms, cooldown_ms, lowest,
          _, lives = struct.unpack('>BBI4I4I6I4BI6I6I4BI8', set)
        local has_most, has_rate = flags % 2 == 1, floor(flags / 2) % 2 == 1
        local has_breaker, is_adaptive = floor(flags / 4) % 2 == 1, floor(flags / 8) % 2 == 1
        is_plain = version == 1 and floor(flags / 16) % 2 == 0 and flags < 64
          and (most > 0 or not has_most) and (lives > 0 or flags < 32)
          and (not has_rate or starts > 0 and period_ms > 0 and burst > 0)
          and (not has_breaker or failures > 0 and failures <= 100 and window_ms > 0 and cooldown_ms > 0)
          and (not is_adaptive or has_most and lowest > 0 and lowest <= most)
          and (has_rate or not state)
        if has_most and is_plain then
          local holders = try('SCARD', PREFIX .. 'hold:' .. names[i])
          is_plain = type(holders) == 'number' and holders + take < most
          if is_plain and holders + 2 * take > most then spare = 0 end
        end
        if take > 0 and (has_rate or has_breaker or is_adaptive) then spare = 0 end
        local next_us = 0
        if state and is_plain then
          is_plain = #state == 17 and sub(state, 1, 2) == '\1\0' and sub(state, 11) == '\0\0\0\0\0\0\0'
          next_us = is_plain and struct.unpack('>I8', state, 3)
        end
        if has_rate and is_plain then
          local interval = max(math.ceil(period_ms * 1000 / starts), 1)
          local latest = now_us + (burst - 1) * interval
          next_us = max(now_us, min(next_us, latest + interval))
          is_plain = take <= floor((latest - next_us) / interval) -- one more may start
          if take > 0 then
            rates = rates or {}
            rates[#rates + 1] = names[i]
            rates[#rates + 1] = pack('>HI8I6B', 256, next_us + take * interval, 0, 0)
          end
        end
      end
    end
    if not is_plain then break end
  end

  -- The records: what is in `run` is the claim's token, and of a whole record its version and its head
  -- from byte 18 on (class.lua), which brief ones have otherwise (brief.lua).
  local records, runs
  if count > 1 then
    records, runs = call('HMGET', PREFIX .. 'jobs', unpack(ids)), {}
  else
    records = { call('HGET', PREFIX .. 'jobs', ids[1]) }
  end
  local of = queue .. kind
  local whole_version, flags, tail = 3, '\0', ''
  if limit_keys then whole_version, flags, tail = 4, '\16', pack('>H', #limit_keys) .. limit_keys end
  local version, head, head_at, run
  for i = 1, count do
    local record = records[i] or ''
    if not head or byte(record) ~= version or string.find(record, head, head_at, true) ~= head_at then
      version = byte(record)
      local head_end
      if version == whole_version + 2 then
        local its_names = (queue == 'default' and kind or of) .. tail
        local mixed, queue_bytes, kind_bytes = byte(record, 10, 12)
        head_at, head_end = 10, 12 + #its_names
        is_plain = sub(record, 13, head_end) == its_names and mixed % 16 == priority
          and queue_bytes == (queue == 'default' and 0 or #queue) and kind_bytes == #kind
        if not is_plain then break end
        -- What `whole_record` makes of it (brief.lua).
        local kept = 11 * floor(mixed / 128)
        run = token .. string.char(whole_version, 0, 0, floor(mixed / 16) % 8, #queue, #kind, priority)
          .. sub(USUAL, kept + 1, kept + 11) .. flags .. of .. tail .. added
      else
        local key_high, key_low, _, queue_bytes, kind_bytes, its_priority = byte(record, 18, 23)
        is_plain = version == whole_version and its_priority == priority and queue_bytes == #queue
          and kind_bytes == #kind and sub(record, 35, 35 + #of) == flags .. of
        if not is_plain then break end
        head_at, head_end = 18, 35 + #of + key_high * 256 + key_low + #tail
        is_plain = #record >= head_end and sub(record, head_end - #tail + 1, head_end) == tail
        if not is_plain then break end
        run = token .. sub(record, 1, 1) .. sub(record, 18, head_end) .. added
      end
      head = sub(record, head_at, head_end)
    end
    is_plain = #ids[i] == 16
    if not is_plain then break end
    if runs then runs[2 * i - 1], runs[2 * i] = ids[i], run end
  end
  if not is_plain then break end
  local atts = string.find(rare, 'a', 1, true) and PREFIX .. 'att'
  atts = atts and call('HLEN', atts) > 0 and call('HMGET', atts, unpack(ids))
  for i = 1, atts and count or 0 do atts[i] = atts[i] and sub(atts[i], 1, 32) or '' end -- ATT_BYTES

  local turn, fence, run_key = tonumber(meta[6] or 0) or 0, tonumber(meta[7] or 0) or 0, PREFIX .. 'run'
  if not (turn >= 0 and turn < 2 ^ 48 and turn % 1 == 0) then turn = 0 end
  if not (fence >= 0 and fence < 2 ^ 53 and fence % 1 == 0) then fence = 0 end
  -- Hashes with many jobs that are in Redis' compact encoding (meta.lua). Lone claims look now and then.
  local narrow_run, narrow_claims
  if count > 16 then
    narrow_run = #run <= 64 and call('HLEN', run_key) <= 512
  elseif now % 64 == 0 then
    narrow_run, narrow_claims = call('HLEN', run_key), call('HLEN', claims)
    narrow_run = narrow_run > 32 and narrow_run <= 512
    narrow_claims = narrow_claims > 32 and narrow_claims <= 512
  end
  local first_fence = max(fence + 1, min(now * 1000, 2 ^ 53 - 2 ^ 40))
  local all = count > 1 and concat(ids) or ids[1]
  local claim = pack('>BI6I8HB', 1, now, first_fence, count, #argv[2]) .. argv[2] .. all
  -- The first write: it does nothing if the token has claimed before. The second one fails if `run` has
  -- a wrong type.
  if call('HSETNX', claims, token, claim) ~= 1 then break end
  if narrow_run or narrow_claims then
    local long = string.rep('-', 65) -- as `widen` does
    if narrow_run then
      call('HSET', run_key, long, '1')
      call('HDEL', run_key, long)
    end
    if narrow_claims then
      call('HSET', claims, long, '1')
      call('HDEL', claims, long)
    end
  end
  local written
  if runs then
    written = try('HSET', run_key, unpack(runs))
  else
    written = try('HSET', run_key, all, run)
  end
  if type(written) == 'table' then
    call('HDEL', claims, token)
    break
  end
  call('ZADD', leases, format('%d', min(now + argv[4], TIME_MAX)), token)
  local wake, ready_field = PREFIX .. 'wake:' .. pair, pair .. '/ready'
  local running_text, fence_text = format('%d', running), format('%d', first_fence + count - 1)
  if is_empty then
    call('UNLINK', lane, PREFIX .. 'gone:' .. pair .. '/' .. index)
    call('ZREM', index_key, index)
    call(
      'HSET', META, 'clock_ms', now_text, 'fence', fence_text, running_field, running_text,
      ready_field, format('%d', ready)
    )
  else
    call('LTRIM', lane, count > 1 and format('%d', count) or '1', '-1')
    call('ZADD', index_key, format('%d', priority * 2 ^ 48 + turn + 1), index)
    call(
      'HSET', META, 'clock_ms', now_text, 'fence', fence_text, running_field, running_text,
      ready_field, format('%d', ready), 'turn', format('%d', turn + 1)
    )
  end
  if ready <= 0 then
    call('HDEL', META, ready_field)
    try('DEL', wake)
  elseif try('LLEN', wake) == 0 then
    try('RPUSH', wake, 'w')
  end
  for i = 1, taking do
    if type(try('SADD', PREFIX .. 'hold:' .. names[i], unpack(ids))) == 'table' then
      try('SADD', PREFIX .. 'mend:' .. names[i], unpack(ids))
      if limited then call('HDEL', META, 'tidied') end -- heal.lua begins at once
    end
  end
  if rates then call('HSET', PREFIX .. 'limited', unpack(rates)) end
  local span = PREFIX .. 'starts:' .. format('%d', floor(now / 30000))
  -- A hint for those who find the queue full: it goes by itself.
  if try('HINCRBY', span, queue, count) == count then
    try('EXPIRE', span, '90')
    try('HSET', span, '@' .. queue, now % 30000 .. ' ' .. count) -- starts.lua
  end
  if count == 1 then
    return {
      now, now, first_fence, (missing == 1 and 1 or 0) + spare, next_due, maintain and 1 or 0, meta[9] or '',
      '', '', all, atts or false, false, false, false, records[1],
    }
  end
  do
    return {
      now, now, first_fence, (count == missing and 1 or 0) + spare, next_due, maintain and 1 or 0,
      meta[9] or '', '', '', all, atts or false, false, false, false, unpack(records),
    }
  end
until true

