-- What short/settle.lua needs of META: the counters of the first job's queue and kind, too.
local runs -- what RUN has of the jobs, once it is read
local names_end, pair, queue, kind, completed_s, flags
if #ARGV == 2 then
  runs = try('HGET', PREFIX .. 'run', ARGV[1])
  runs = type(runs) ~= 'table' and { runs } or nil
elseif #ARGV <= 2 * CHUNK then
  runs = try('HMGET', PREFIX .. 'run', unpack(ARGV, 1, #ARGV / 2))
  if runs.err then runs = nil end
end
local run = runs and runs[1]
-- Behind the token are the version of the first job's record and its head from byte 18 on (class.lua).
-- Of jobs that do not expire the version is 3, or 4 with limit keys, which is the flag 16.
if run and #run >= 35 then
  local queue_bytes, kind_bytes, _ = byte(run, 21, 22)
  names_end = 35 + queue_bytes + kind_bytes
  queue = sub(run, 36, 35 + queue_bytes)
  kind = sub(run, 36 + queue_bytes, names_end)
  pair = queue .. '/' .. kind
  completed_s, _, flags = struct.unpack('>I4I4B', run, 27)
end
local running_field, live_field, completed_field, shelf_name
if completed_s and completed_s > 0 then
  running_field, live_field = pair .. '/running', 'live:' .. queue
  completed_field, shelf_name = pair .. '/completed', 'done:' .. queue
  meta = call(
    'HMGET', META, 'schema', 'clock_ms', 'limits', 'rare', running_field, live_field,
    completed_field, shelf_name
  )
elseif completed_s then
  running_field, live_field = pair .. '/running', 'live:' .. queue
  meta = call('HMGET', META, 'schema', 'clock_ms', 'limits', 'rare', running_field, live_field)
else
  meta = call('HMGET', META, 'schema', 'clock_ms', 'limits', 'rare')
end

