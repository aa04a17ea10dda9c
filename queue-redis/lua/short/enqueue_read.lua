-- What short/enqueue.lua needs of META: the counters of the first group, too.
local ready_field, live_field = ARGV[2] .. '/' .. ARGV[3] .. '/ready', 'live:' .. ARGV[2]
meta = call(
  'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', ready_field, live_field
)

