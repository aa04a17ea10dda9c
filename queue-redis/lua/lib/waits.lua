-- Who waits for a limit key.

-- Whether what is remembered of a limit key (limits.lua) ends with a list that has a pair, and if a
-- mark is given, with that mark. The byte before the list may be any, also a letter.
local function tells_of(bytes, pair, mark)
  local flags, first = byte(bytes, 2) or 0, 17
  if flags % 2 == 1 then first = first + 12 end -- an open breaker
  if flags % 4 == 3 then first = first + 16 end -- its probe
  first = first + 1 + 6 * (byte(bytes, first) or 0) -- failures
  if floor(flags / 4) % 2 == 1 then first = first + 14 end -- reduced concurrency
  local from, to = string.find(bytes, pair, first, true)
  while from do
    local before = from > first and sub(bytes, from - 1, from - 1) or ','
    local is_whole = not string.find(before, '[a-z0-9_.-]')
      and not string.find(sub(bytes, to + 1, to + 1), '[a-z0-9_.-]')
    if is_whole and (not mark or sub(bytes, to + 1, to + 1) == mark) then return true end
    from, to = string.find(bytes, pair, to, true)
  end
  return false
end
