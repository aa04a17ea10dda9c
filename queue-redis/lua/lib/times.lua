-- The times that an enqueue gives to jobs that are due at once, or nil if those stay that their records
-- came with: making a record anew costs the server a fifth of a bulk enqueue. The sender knows the
-- server's clock from earlier answers. Its times stay if they are of the last second by that clock, and
-- the store's is not ahead of it.
local times
local its_time -- that of brief records, which have one (brief.lua)
do
  local sent_ms = tonumber(ARGV[#ARGV])
  local is_ahead = now == clock_ms and time[1] * 1000 + floor(time[2] / 1000) < now
  if is_ahead or sent_ms > now or sent_ms <= now - 1000 then
    its_time = pack('>I6', now)
    times = its_time .. its_time
  end
end

