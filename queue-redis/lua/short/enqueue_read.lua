-- What short/enqueue.lua needs of META: the counters of the first group, too.
local ready_field, live_field = ARGV[4] .. '/' .. ARGV[5] .. '/ready', 'live:' .. ARGV[4]
meta = call(
  'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', ready_field, live_field
)

