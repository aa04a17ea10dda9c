-- Notes anew which keys are there that most stores do not have: what scripts add is noted at once
-- (base.lua), what is gone, or has come otherwise, is noted here.
local function look_for_rare()
  local found = ''
  for letter, key in pairs({ a = ATT, c = CANCEL, d = DUE, h = HISTORY, l = LOG }) do
    if call('EXISTS', key) == 1 then found = found .. letter end
  end
  if meta[10] and #found == #rare and not string.find(found, '[^' .. rare .. '-]') then return end
  rare = found
  call('HSET', META, 'rare', found)
end

