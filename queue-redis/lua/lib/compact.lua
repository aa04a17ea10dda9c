-- Takes stale tickets out of lanes that nobody serves.
--
-- A claim passes stale tickets at the head, and a lane that loses its last live job goes with all
-- of them. Left over is a lane with live jobs that no worker runs, into which jobs come that are
-- cancelled again, for ever. So a call that leaves many stale tickets in a lane reads its first
-- WINDOW tickets and puts the live ones back: a bounded step. In a lane with at most WINDOW -
-- STALE_MAX live jobs each step takes STALE_MAX out, more than a call can leave, so they never get
-- many more. In a lane with more live jobs a step is made only while a stale ticket is first: what
-- is stale behind live jobs stays until a claim comes to it or the live jobs get fewer. To reach
-- it, a list would have to be read up to there, which has no bound.

local WINDOW, STALE_MAX = 4096, 2048

local function is_stale(gone_key, id) return id and call('HGET', gone_key, id) end

-- Splits tickets in order into how often each stale one comes and the live ones, last first.
local function sift(tickets, counts)
  local times_of, passed, live = {}, {}, {}
  for i, id in ipairs(tickets) do times_of[id] = tonumber(counts[i] or nil) or 0 end
  for _, id in ipairs(tickets) do
    local times = passed[id] or 0
    if times < times_of[id] then
      passed[id] = times + 1
    else
      table.insert(live, id)
    end
  end
  for i = 1, floor(#live / 2) do
    live[i], live[#live + 1 - i] = live[#live + 1 - i], live[i]
  end
  return times_of, passed, live
end

-- Makes one step in a lane that has been written, if it has too many stale tickets.
local function compact_lane(lane)
  if lane.gone < STALE_MAX then return end
  local gone_key = PREFIX .. 'gone:' .. lane.name
  local is_long = lane.live > WINDOW - STALE_MAX
  if is_long and not is_stale(gone_key, call('LINDEX', lane.key, 0)) then return end
  local tickets = call('LRANGE', lane.key, 0, WINDOW - 1)
  local times_of, passed, live = sift(tickets, read('HMGET', gone_key, tickets))
  local taken = #tickets - #live
  local ended, left = {}, { 'n', lane.gone - taken }
  for id, times in pairs(passed) do
    if times == times_of[id] then
      ended[#ended + 1] = id
    else
      left[#left + 1], left[#left + 2] = id, times_of[id] - times
    end
  end
  stale = stale - taken
  call('LTRIM', lane.key, #tickets, -1)
  each('LPUSH', lane.key, live)
  each('HDEL', gone_key, ended)
  if lane.gone > taken then each('HSET', gone_key, left) else call('UNLINK', gone_key) end
end
