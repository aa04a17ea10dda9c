-- Jobs that wait for their time, planned in memory and written once by `save_due`.

local waiting = {} -- score, id, score, id, …
local first_ms -- when the first of those that wait already is due
local early = {} -- pairs with a job that is due before that

-- Lets a job wait. Sleeping workers know when the first of all is due; those of a pair with an
-- earlier one have to learn of it.
local function wait_until(due_ms, id, pair)
  if not first_ms then
    local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    first_ms = tonumber(first[2]) or TIME_MAX + 1
  end
  if due_ms < first_ms then early[pair] = true end
  waiting[#waiting + 1], waiting[#waiting + 2] = due_ms, id
end

local function save_due()
  each('ZADD', DUE, waiting)
  for pair in pairs(early) do wake(pair) end
end
