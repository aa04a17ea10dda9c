-- Wake-ups: hints that nothing depends on, hence `try`.

local WORDS_MAX = 16 -- in a worker's own list; a few left-overs at most are in it

local function is_paused(queue)
  return paused and string.find(paused, ',' .. queue .. ',', 1, true) ~= nil
end

-- Leaves a wake-up for one worker that can run this queue and kind, if none is there. Nobody can
-- run what is in a paused queue.
--
-- With "@" and a limit key behind it the wake-up is for one that adds the key to the kind and has
-- found it without room: such a worker does not hear of new jobs, nor that a queue goes on. It goes
-- by itself.
local function wake(pair)
  local is_for_room = string.find(pair, '@', 1, true)
  if paused and not is_for_room and is_paused(string.match(pair, '^[^/]*')) then return end
  local key = PREFIX .. 'wake:' .. pair
  if try('LLEN', key) == 0 then
    try('RPUSH', key, 'w')
    if is_for_room then try('PEXPIRE', key, 60000) end
  end
end

-- Leaves a word in a worker's own list, if it is not there, ahead of what nobody has read. The
-- list goes by itself if nobody reads it.
local function tell(worker, word)
  local key = PREFIX .. 'wake:w:' .. worker
  if try('LPOS', key, word, 'MAXLEN', WORDS_MAX) == false then
    try('LPUSH', key, word)
    try('LTRIM', key, 0, WORDS_MAX - 1)
  end
  try('PEXPIRE', key, 60000)
end
