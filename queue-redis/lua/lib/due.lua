-- Jobs that wait for their time, planned in memory and written once by `save_due`.

local waiting = {} -- score, id, score, id, …
local hint_ms, hint_pair

-- Lets a job wait. If it is due before all others, a sleeping worker has to learn that.
local function wait_until(due_ms, id, pair)
  if not hint_ms then
    local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    hint_ms = tonumber(first[2]) or TIME_MAX + 1
  end
  if due_ms < hint_ms then hint_ms, hint_pair = due_ms, pair end
  waiting[#waiting + 1], waiting[#waiting + 2] = due_ms, id
end

local function save_due()
  each('ZADD', DUE, waiting)
  if hint_pair then wake(hint_pair) end
end
