-- How many lanes a round of a claim looks at: at most 32 (the rule is at ClaimRequest). Each has its price. If
-- the worker knows its jobs to be short, fewer of them give more, up to 32 jobs each, as long as one such turn
-- of every lane takes no more jobs than the worker says.
local LANES_MAX, TURN_MAX = 32, 32

-- How many jobs a turn has, for so many that are missing, if lanes of these queues and kinds are served.
local function turn_for(missing, names)
  local round_jobs, lanes = tonumber(ARGV[5]), 0
  if missing == 1 or round_jobs == 0 then return 1 end
  for i = 1, #names do
    local size = try('ZCARD', PREFIX .. 'lanes:' .. names[i])
    lanes = lanes + (type(size) == 'number' and size or 0)
  end
  return max(1, min(TURN_MAX, floor(round_jobs / max(lanes, 1))))
end

-- How many lanes the next round looks at. If those of the last one did not have enough, twice as many.
local function lanes_for(missing, turn_jobs, last)
  if turn_jobs == 1 then return LANES_MAX end
  return min(LANES_MAX, max(math.ceil(missing / turn_jobs), 2 * last))
end

