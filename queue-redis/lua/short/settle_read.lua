-- What short/settle.lua needs of META: the counters of the first job's queue and kind, too.
local runs -- what RUN has of the jobs, once it is read
local names_end, pair, queue, completed_s, flags, fields
if #ARGV <= 2 * CHUNK then
  runs = try('HMGET', PREFIX .. 'run', unpack(ARGV, 1, #ARGV / 2))
  if runs.err then runs = nil end
  local first = runs and runs[1]
  -- Behind the token is the head of the first job's record (class.lua). Of jobs that do not expire it
  -- has version 3, or 4 with limit keys, which is the flag 16.
  if first and #first >= 51 then
    local queue_bytes, kind_bytes, _ = byte(first, 37, 38)
    names_end = 51 + queue_bytes + kind_bytes
    queue = sub(first, 52, 51 + queue_bytes)
    pair = queue .. '/' .. sub(first, 52 + queue_bytes, names_end)
    completed_s, _, flags = struct.unpack('>I4I4B', first, 43)
    fields = { pair .. '/running', 'live:' .. queue }
    if completed_s > 0 then fields[3], fields[4] = pair .. '/completed', 'done:' .. queue end
  end
end
meta = call('HMGET', META, 'schema', 'clock_ms', 'limits', 'rare', unpack(fields or {}))

