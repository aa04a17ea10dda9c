-- The shortest enqueues, made without a function and almost without tables of their own, which cost a
-- call more than a job does: all jobs are of one group and as plain as can be (plain/enqueue.lua).
-- Goes on behind this if that is not so, with nothing written.

repeat
  local argv = ARGV
  local flags, runs, carriers = argv[9], argv[2], argv[3]
  if argv[1] ~= '1' or argv[7] ~= 'n' or argv[10] ~= '1' then break end
  if meta[4] and meta[4] ~= '0' then break end
  if not string.find(flags, '^[erp]l?$') or #runs ~= 4 then break end
  local limit_keys, at = #flags == 2, 10
  if limit_keys then at = 11 + #carriers / 2 end
  local high, low = byte(runs, 3, 4)
  local count = high * 256 + low
  if count == 0 or count > CHUNK or #argv ~= at + 2 * count + 1 then break end
  local queue = argv[4]
  local pair = queue .. '/' .. argv[5]
  local lane, index, lanes = nil, argv[6], PREFIX .. 'lanes:' .. pair
  if limit_keys then
    lane = argv[11]
    index = sub(lane, #lanes + 1) -- as long as "lane:", the pair and "/"
  else
    lane = PREFIX .. 'lane:' .. pair .. '/' .. index
  end

  -- Where a lane with limit keys is. A new one may have to wait for one of them, with others.
  local names, placed, parked, is_plain
  if limit_keys then
    names = { unpack(argv, 12, at) }
    placed = try('ZRANK', lanes, index)
    parked = limited and try('ZRANK', PREFIX .. 'parked:' .. pair, index)
    if placed and parked or type(placed) == 'table' or type(parked) == 'table' then break end
    is_plain = true
    if limited and not placed and not parked then
      local states = try('HMGET', PREFIX .. 'limited', unpack(names))
      is_plain = not states.err
      for i = 1, #states do
        is_plain = is_plain and not (states[i] and string.find(states[i], pair, 1, true))
      end
    elseif not placed and not parked then
      is_plain = try('EXISTS', PREFIX .. 'parked:' .. pair) ~= 1
    end
    if not is_plain then break end
  end
  if limited then
    local targets = { 'queue:*', 'queue:' .. queue }
    for i = 1, names and #names or 0 do
      targets[2 * i + 1], targets[2 * i + 2] = names[i], string.match(names[i], '^[^:]*') .. ':*'
    end
    is_plain = true
    local settings = call('HMGET', PREFIX .. 'limits', unpack(targets))
    for i = 1, #settings do
      -- 32: how many live jobs there may be (limits.lua).
      local bounds = settings[i] and floor((byte(settings[i], 2) or 255) / 32) % 2
      is_plain = is_plain and bounds ~= 1
    end
    if not is_plain then break end
  end

  -- Anything else than a whole number above 0 is damage.
  local ready = (tonumber(meta[7] or 0) or 0) + count
  local live = (tonumber(meta[8] or 0) or 0) + count
  if not (ready > 0 and ready < 2 ^ 52 and ready % 1 == 0) then break end
  if not (live > 0 and live < 2 ^ 52 and live % 1 == 0) then break end
  local lives
  if names then
    lives = call('HMGET', PREFIX .. 'live', unpack(names))
    is_plain = true
    for i = #names, 1, -1 do
      local jobs = (tonumber(lives[i] or nil) or 0) + count
      is_plain = is_plain and jobs > 0 and jobs < 2 ^ 52 and jobs % 1 == 0
      if not is_plain then break end
      lives[2 * i - 1], lives[2 * i] = names[i], string.format('%d', jobs)
    end
    if not is_plain then break end
  end

  local jobs, first = PREFIX .. 'jobs', at + 1
  local is_taken, written = false, nil
  if count == 1 then
    local record = argv[first + 1]
    if times then
      local is_brief = byte(record) > 4
      record = sub(record, 1, 1) .. (is_brief and its_time or times) .. sub(record, is_brief and 8 or 14)
    end
    is_taken = call('HSETNX', jobs, argv[first], record) == 0
  else
    local found = call('HMGET', jobs, unpack(argv, first, at + count))
    written = found -- its room is used again
    local seen = {}
    for i = count, 1, -1 do
      local id, record = argv[at + i], argv[at + count + i]
      is_taken = is_taken or found[i] or seen[id]
      seen[id] = true
      if times then
        local is_brief = byte(record) > 4
        record = sub(record, 1, 1) .. (is_brief and its_time or times) .. sub(record, is_brief and 8 or 14)
      end
      written[2 * i - 1], written[2 * i] = id, record
    end
  end
  if is_taken then break end

  -- From here on, a lane or an index of a wrong type can fail, and what this user may not do (ACL): what
  -- was written is taken back then.
  local pushed, turn, added = nil, nil, 0
  if count == 1 then
    pushed = try('RPUSH', lane, argv[first])
  else
    pushed = try('RPUSH', lane, unpack(argv, first, at + count))
  end
  local is_pushed, is_new = type(pushed) == 'number', pushed == count and not parked
  if is_pushed and not is_new and not placed and not parked then
    added = try('ZRANK', lanes, index)
    is_new = not added -- one that has lost its place gets one
  end
  if is_new then
    turn = tonumber(meta[6] or 0) or 0
    if not (turn >= 0 and turn < 2 ^ 48 and turn % 1 == 0) then turn = 0 end
    added = try('ZADD', lanes, string.format('%d', argv[6] * 2 ^ 48 + turn + 1), index)
  end
  local failed = not is_pushed or type(added) == 'table'
  -- A long field keeps short records out of Redis' compact encoding (meta.lua). Lone jobs look now and then.
  if written and not failed then
    local size = #written[2] <= 64 and try('HLEN', jobs)
    local long = type(size) == 'number' and size <= 512 and string.rep('-', 65)
    if long then written[2 * count + 1], written[2 * count + 2] = long, '1' end
    failed = type(try('HSET', jobs, unpack(written))) == 'table'
      or long and type(try('HDEL', jobs, long)) == 'table'
  elseif now % 64 == 0 and not failed then
    local size = try('HLEN', jobs)
    if type(size) == 'number' and size > 32 and size <= 512 then
      local long = string.rep('-', 65)
      failed = type(try('HSET', jobs, long, '1')) == 'table' or type(try('HDEL', jobs, long)) == 'table'
    end
  end
  if not failed then
    local ready_text, live_text, counted = string.format('%d', ready), string.format('%d', live), nil
    if is_new then
      counted = try(
        'HSET', META, ready_field, ready_text, live_field, live_text,
        'clock_ms', now_text, 'turn', string.format('%d', turn + 1)
      )
    else
      counted = try('HSET', META, ready_field, ready_text, live_field, live_text, 'clock_ms', now_text)
    end
    failed = type(counted) == 'table'
    if lives and not failed and type(try('HSET', PREFIX .. 'live', unpack(lives))) == 'table' then
      failed = true
      for _, field in ipairs({ ready_field, live_field }) do
        if try('HINCRBY', META, field, string.format('%d', -count)) == 0 then try('HDEL', META, field) end
      end
    end
  end
  if failed then
    if is_pushed then try('LTRIM', lane, '0', string.format('%d', -count - 1)) end
    if is_new then try('ZREM', lanes, index) end
    call('HDEL', jobs, unpack(argv, first, at + count))
    break
  end
  local paused = meta[5]
  if not parked and not (paused and string.find(paused, ',' .. queue .. ',', 1, true)) then
    local wake = PREFIX .. 'wake:' .. pair
    if ready > count then
      if try('LLEN', wake) == 0 then try('RPUSH', wake, 'w') end
    else
      -- Where no job was ready there is no token.
      local tokens = try('RPUSH', wake, 'w')
      if type(tokens) == 'number' and tokens > 1 then try('LTRIM', wake, '0', '-2') end
    end
  end
  do return string.rep('R', count) .. now_text end
until true

