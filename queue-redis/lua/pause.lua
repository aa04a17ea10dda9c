-- Pauses or resumes a queue.
--
-- KEYS   21 fixed keys
-- ARGV   the queue, 1 to pause or 0 to resume
-- Reply  1 if that was a change
--
-- Invariant: a paused queue leaves no wake-up, and one that is resumed leaves one for each of its
-- kinds that has waiting jobs.

local queue, wanted = ARGV[1], ARGV[2] == '1'
if is_paused(queue) == wanted or not paused and not wanted then return 0 end

if wanted then
  paused = (paused or ',') .. queue .. ','
else
  local from, to = string.find(paused, ',' .. queue .. ',', 1, true)
  paused = sub(paused, 1, from) .. sub(paused, to + 1)
  if paused == ',' then paused = false end
end
local counts = counters_of(queue)
if paused then call('HSET', META, 'paused', paused) else call('HDEL', META, 'paused') end
for i = 1, #counts, 2 do
  local of_queue, kind, state = string.match(counts[i], '^([^/]+)/([^/]+)/(%a+)$')
  if of_queue == queue and (state == 'ready' or state == 'scheduled' or state == 'retrying') then
    local pair = queue .. '/' .. kind
    if wanted then try('DEL', PREFIX .. 'wake:' .. pair) else wake(pair) end
  end
end
save_meta()
return 1
