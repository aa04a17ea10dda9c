-- Who waits for a limit key.

-- Whether what is remembered of a limit key (limits.lua) ends with a list that has a pair, and if a
-- mark is given, with that mark.
local function tells_of(bytes, pair, mark)
  local from, to = string.find(bytes, pair, 1, true)
  while from do
    local is_whole = not string.find(sub(bytes, from - 1, from - 1), '[a-z0-9_.-]')
      and not string.find(sub(bytes, to + 1, to + 1), '[a-z0-9_.-]')
    if is_whole and (not mark or sub(bytes, to + 1, to + 1) == mark) then return true end
    from, to = string.find(bytes, pair, to, true)
  end
  return false
end
