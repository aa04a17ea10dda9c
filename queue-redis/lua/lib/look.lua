-- Limit keys whose room may have changed since somebody looked.

-- So long after a round of forgetting keys is over, claims say that the next one may begin.
local TIDY_DUE_MS = 60000
local CURSOR_BYTES_MAX = 15 -- of what a script has noted; anything else is damage
local REOPEN_LOOKS_MAX = 16

local is_tidy_due = false

-- Where a scan goes on, by a note of it.
local function cursor_in(note)
  local cursor = note and string.match(note, '^%d+')
  return cursor and #cursor <= CURSOR_BYTES_MAX and cursor or '0'
end

-- When the first key that is closed by time alone is to be looked at, if there is one.
local function next_reopen_ms()
  return limited and tonumber(call('ZRANGE', PREFIX .. 'reopen', 0, 0, 'WITHSCORES')[2] or nil)
end

-- The same of the keys for which jobs of one of these `<queue>/<kind>` wait; or an earlier time if
-- many keys of others come before.
local function next_reopen_of(wanted)
  local page = limited and call('ZRANGE', PREFIX .. 'reopen', 0, REOPEN_LOOKS_MAX - 1, 'WITHSCORES') or {}
  local names = {}
  for i = 1, #page, 2 do names[#names + 1] = page[i] end
  if #names == 0 then return nil end
  limits().load(names)
  for i, name in ipairs(names) do
    for _, pair in ipairs(wanted) do
      if limits().get(name).waits[pair] then return tonumber(page[2 * i]) end
    end
  end
  return #names == REOPEN_LOOKS_MAX and tonumber(page[#page]) or nil
end

-- Looks at keys whose time has come, and goes on with the look at all keys that a change of
-- settings has begun (`relook` in META is where). Answers whether there is more to look at.
local function look_at_keys()
  if not limited then return false end
  local first_ms = next_reopen_ms()
  local more = first_ms and first_ms <= now and limits().look_at_due() or false
  local notes = call('HMGET', META, 'relook', 'tidied')
  local tidied_ms = tonumber(notes[2] and string.match(notes[2], '^t(%d+)$') or nil)
  is_tidy_due = not tidied_ms or tidied_ms > now or tidied_ms + TIDY_DUE_MS <= now
  local cursor = notes[1]
  if cursor then
    cursor = limits().look_at_some(cursor_in(cursor), LOOKS_MAX)
    if cursor == '0' then
      call('HDEL', META, 'relook')
    else
      call('HSET', META, 'relook', cursor)
      more = true
    end
  end
  return more
end
