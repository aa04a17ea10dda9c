-- What short/claim.lua needs of META: how many jobs of each queue and kind are ready, and if it is one
-- only, how many run.
local fields, size, queues_end = {}, 0, 5 + ARGV[5]
for q = 6, queues_end do
  for k = queues_end + 1, #ARGV, 3 do
    size = size + 1
    fields[size] = ARGV[q] .. '/' .. ARGV[k] .. '/ready'
  end
end
if size == 1 then fields[2] = ARGV[6] .. '/' .. ARGV[7] .. '/running' end
if size > CHUNK then fields = {} end
meta = call(
  'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', 'fence', 'loose', 'epoch',
  'rare', unpack(fields)
)

