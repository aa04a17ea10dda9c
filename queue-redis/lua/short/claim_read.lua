-- What short/claim.lua needs of META: how many jobs of each queue and kind are ready, and if it is one
-- only, how many run.
local is_one, size, queues_end = ARGV[6] == '1' and #ARGV == 11, 1, 6 + ARGV[6]
local fields
if is_one then
  local pair = ARGV[7] .. '/' .. ARGV[8]
  meta = call(
    'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', 'fence', 'loose',
    'epoch', 'rare', pair .. '/ready', pair .. '/running'
  )
else
  fields, size = {}, 0
  for q = 7, queues_end do
    for k = queues_end + 1, #ARGV - 1, 3 do
      size = size + 1
      fields[size] = ARGV[q] .. '/' .. ARGV[k] .. '/ready'
    end
  end
  meta = call(
    'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', 'fence', 'loose',
    'epoch', 'rare', unpack(fields, 1, size <= CHUNK and size or 0)
  )
end

