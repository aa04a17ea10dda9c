-- The shortest enqueues, made without a function or a table of their own, which cost a call more than
-- a job does: all jobs are of one group, have no limit keys, and are as plain as can be
-- (plain/enqueue.lua). Goes on behind this if that is not so, with nothing written.

repeat
  local argv = ARGV
  local flags, runs = argv[7], argv[8]
  if stale > 0 or argv[1] ~= '1' or argv[5] ~= 'n' then break end
  if flags ~= 'e' and flags ~= 'r' and flags ~= 'p' or #runs ~= 4 then break end
  local high, low = byte(runs, 3, 4)
  local count = high * 256 + low
  if count == 0 or count > CHUNK / 2 or #argv ~= 8 + 2 * count then break end
  local queue, priority = argv[2], argv[4]
  local pair = queue .. '/' .. argv[3]
  if limited then
    local all, own = unpack(call('HMGET', LIMITS or PREFIX .. 'limits', 'queue:*', 'queue:' .. queue))
    -- 32: how many live jobs a queue may have (limits.lua).
    if all and floor((byte(all, 2) or 255) / 32) % 2 == 1 then break end
    if own and floor((byte(own, 2) or 255) / 32) % 2 == 1 then break end
  end
  local lane, index = PREFIX .. 'lane:' .. pair .. '/' .. priority, PREFIX .. 'lanes:' .. pair

  local ready_field, live_field = pair .. '/ready', 'live:' .. queue
  local counts = call('HMGET', COUNT, ready_field, live_field)
  local ready = (tonumber(counts[1] or nil) or 0) + count
  local live = (tonumber(counts[2] or nil) or 0) + count
  -- Anything else is damage: less, a fraction, infinity, or no number at all.
  if not (ready > 0 and ready < 2 ^ 52 and ready % 1 == 0) then break end
  if not (live > 0 and live < 2 ^ 52 and live % 1 == 0) then break end

  local times = pack('>I6I6', now, now)
  local is_taken, written = false, nil
  if count == 1 then
    local record = (byte(argv[10], 22) % 2 == 1 and '\1' or '\3') .. times .. argv[10]
    is_taken = call('HSETNX', JOBS, argv[9], record) == 0
  else
    local found = call('HMGET', JOBS, unpack(argv, 9, 8 + count))
    written = found -- its room is used again
    local lasting, expiring, seen = '\3' .. times, '\1' .. times, {}
    for i = count, 1, -1 do
      local id, record = argv[8 + i], argv[8 + count + i]
      is_taken = is_taken or found[i] or seen[id]
      seen[id] = true
      written[2 * i - 1] = id
      written[2 * i] = (byte(record, 22) % 2 == 1 and expiring or lasting) .. record
    end
  end
  if is_taken then break end

  -- Only a lane or an index of a wrong type can fail from here on: what was written is taken back.
  local pushed = try('RPUSH', lane, unpack(argv, 9, 8 + count))
  local is_pushed = type(pushed) == 'number'
  local score = string.format('%d', priority * 2 ^ 48 + turn + 1)
  local placed
  if pushed == count then
    placed = try('ZADD', index, score, priority)
  elseif is_pushed then
    placed = try('ZADD', index, 'NX', score, priority) -- one that has lost its place gets one
  end
  if type(placed) ~= 'number' then
    if is_pushed then call('LTRIM', lane, '0', string.format('%d', -count - 1)) end
    if count == 1 then call('HDEL', JOBS, argv[9]) end
    break
  end
  if written then call('HSET', JOBS, unpack(written)) end
  call(
    'HSET', COUNT, ready_field, string.format('%d', ready), live_field, string.format('%d', live)
  )
  if not (paused and string.find(paused, ',' .. queue .. ',', 1, true)) then
    local wake = PREFIX .. 'wake:' .. pair
    if try('LLEN', wake) == 0 then try('RPUSH', wake, 'w') end
  end
  if placed == 1 or pushed == count then
    call('HSET', META, 'clock_ms', now_text, 'turn', string.format('%d', turn + 1))
  elseif now ~= clock_ms then
    call('HSET', META, 'clock_ms', now_text)
  end
  do return { string.rep('R', count) } end
until true

