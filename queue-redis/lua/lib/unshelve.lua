-- Takes finished jobs off their shelves, one by one: an entry is rewritten without them.

local wanted_from = {} -- shelf → expiry → the ids that leave, and `ids`: id → its entry

local function want_from(shelf, expiry, id)
  local expiries = wanted_from[shelf] or {}
  wanted_from[shelf] = expiries
  local plan = expiries[expiry]
  if not plan then
    plan = { ids = {} }
    local entries = try('ZRANGE', PREFIX .. shelf, expiry, expiry, 'BYSCORE')
    for _, entry in ipairs(entries.err and {} or entries) do
      for _, member in ipairs(ids_of_entry(entry)) do plan.ids[member] = entry end
    end
    expiries[expiry] = plan
  end
  if not plan.ids[id] then return false end
  plan[#plan + 1] = id
  return true
end

-- Notes that a job leaves its shelf; `save_unshelved` writes it.
local function unshelve(id, record, class, fin)
  local state = byte(fin, 1)
  local finished_ms = struct.unpack('>I6', fin, 3)
  if state == COMPLETED and class.at_least and key_of(record, class) then
    local hold_ms = hold_end_ms(record, class)
    if hold_ms > finished_ms and want_from('held:' .. class.queue, hold_ms, id) then return end
  end
  local shelf, expiry = retention_of(class, state, finished_ms)
  if want_from(shelf, expiry, id) then tally(shelf, -1) end
end

local function save_unshelved()
  for shelf, expiries in pairs(wanted_from) do
    local key = PREFIX .. shelf
    for expiry, plan in pairs(expiries) do
      local leaving, old = {}, {}
      for _, id in ipairs(plan) do
        leaving[id] = true
        old[plan.ids[id]] = true
      end
      for entry in pairs(old) do
        local left = {}
        for _, id in ipairs(ids_of_entry(entry)) do
          if not leaving[id] then left[#left + 1] = id end
        end
        call('ZREM', key, entry)
        if #left > 0 then
          call('ZADD', key, expiry, concat(left) .. sub(entry, (read_entry(entry)) + 1))
        end
      end
    end
    local first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[2] then call('ZADD', AGES, first[2], shelf) else call('ZREM', AGES, shelf) end
  end
end
