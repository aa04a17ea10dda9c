-- All counters: field, number, …
local function counters()
  local fields, found, size = call('HGETALL', COUNT), {}, 0
  for i = 1, #fields, 2 do
    if string.find(fields[i], '[/:]') then
      found[size + 1], found[size + 2] = fields[i], fields[i + 1]
      size = size + 2
    end
  end
  return found
end

