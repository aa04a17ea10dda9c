-- Everything that a store has noted of single jobs and claims, for the audit.

local ENTRIES_MAX = 12000 -- of a shelf with one expiry; no more are looked at
local FEW = 15 -- so many ids are looked for one by one

-- What a look finds, in the order of the reply.
local PARTS = {
  'subjects', 'jobs', 'att', 'fin', 'run', 'unlisted', 'holdings', 'cancel', 'due', 'idem',
  'holders', 'count', 'ages', 'bad', 'whence', 'stale', 'body', 'result', 'history', 'log',
  'shelved', 'others', 'strays', 'unheld', 'overheld', 'running', 'live', 'limits',
}
local found = {}
for _, part in ipairs(PARTS) do found[part] = {} end

local function add(part, ...)
  local list = found[part]
  for _, value in ipairs({ ... }) do list[#list + 1] = value end
end

local function answer(where, weight)
  local reply = { now, where, weight }
  for i, part in ipairs(PARTS) do reply[3 + i] = found[part] end
  return reply
end

-- Whether an id is in a string of ids that begins at `from`.
local function has_id(text, from, id)
  local at = string.find(text, id, from, true)
  while at do
    if (at - from) % 16 == 0 then return true end
    at = string.find(text, id, at + 1, true)
  end
  return false
end

local known_claims = {}
local function is_listed(token, id)
  if known_claims[token] == nil then known_claims[token] = call('HGET', CLAIMS, token) end
  local packed = known_claims[token]
  return is_claim(packed) and has_id(packed, CLAIM_BYTES + 1 + byte(packed, CLAIM_BYTES), id)
end

-- Shelves and expiries at which a finished job may be.
local function resting_places(record, class, fin)
  local state, finished_ms = byte(fin, 1), struct.unpack('>I6', fin, 3)
  local places = { retention_of(class, state, finished_ms) }
  if state == COMPLETED and class.at_least and key_of(record, class) then
    places[3], places[4] = 'held:' .. class.queue, hold_end_ms(record, class)
  end
  return places
end

local in_doubt = {} -- ids that may be on either of two shelves

-- Notes the entries of one shelf and expiry that these ids are in. Their bytes are told only where
-- one of them may be wrong.
local function find_on_shelf(shelf, expiry, ids)
  local entries =
    try('ZRANGE', PREFIX .. shelf, expiry, expiry, 'BYSCORE', 'LIMIT', 0, ENTRIES_MAX)
  if entries.err then return end
  local asked = {}
  for _, id in ipairs(ids) do asked[id] = {} end
  for _, entry in ipairs(entries) do
    local ids_bytes = read_entry(entry)
    if #ids > FEW then
      for i = 1, ids_bytes, 16 do
        local at = asked[sub(entry, i, i + 15)]
        if at then at[#at + 1] = entry end
      end
    else
      local members = sub(entry, 1, ids_bytes)
      for id, at in pairs(asked) do
        if has_id(members, 1, id) then at[#at + 1] = entry end
      end
    end
  end
  for id, at in pairs(asked) do
    for _, entry in ipairs(at) do
      local is_plain = #at == 1 and not in_doubt[id]
      add('shelved', id, shelf, string.format('%.0f', expiry), is_plain and '' or entry)
    end
  end
end

local function find_on_shelves(ids, records, fins)
  local wanted = {} -- shelf → expiry → ids
  for i, id in ipairs(ids) do
    local class = records[i] and class_of(records[i])
    if class and fins[i] and fin_state(fins[i]) ~= QUARANTINED then
      local places = resting_places(records[i], class, fins[i])
      in_doubt[id] = #places > 2
      for n = 1, #places, 2 do
        local expiries = wanted[places[n]] or {}
        wanted[places[n]] = expiries
        local there = expiries[places[n + 1]] or {}
        expiries[places[n + 1]] = there
        there[#there + 1] = id
      end
    end
  end
  for shelf, expiries in pairs(wanted) do
    for expiry, there in pairs(expiries) do find_on_shelf(shelf, expiry, there) end
  end
end

-- The keys of these jobs, whom they lead to, and what key those have.
local function find_keys(ids, records)
  local keys, subjects, strangers = {}, {}, {}
  for i, id in ipairs(ids) do
    subjects[id] = true
    local class = records[i] and class_of(records[i])
    keys[#keys + 1] = class and key_of(records[i], class) or nil
  end
  for i, id in ipairs(read('HMGET', IDEM, keys)) do
    if id then
      add('idem', keys[i], id)
      if #id == 16 and not subjects[id] then strangers[#strangers + 1] = id end
    end
  end
  for i, record in ipairs(read('HMGET', JOBS, strangers)) do
    local class = record and class_of(record)
    local key = class and key_of(record, class)
    if key then add('holders', strangers[i], key) end
  end
end

-- The limit keys that a job holds by its entry of `run`, or by its record if that is damaged.
local function keys_by(run, id)
  local class, head_bytes = class_of(run, IN_RUN)
  if class then return held_keys(run, class, head_bytes) or {} end
  local record = read('HMGET', JOBS, { id })[1]
  class = record and class_of(record)
  return class and class.keys or {}
end

-- Notes which of these members of a key's holders do not hold it.
local function find_holders(key, holders)
  for i, run in ipairs(read('HMGET', RUN, holders)) do
    local holds = false
    for _, name in ipairs(run and keys_by(run, holders[i]) or {}) do
      holds = holds or name == key
    end
    if not holds then add('overheld', key, holders[i], run or '') end
  end
end

local function find_runs(ids)
  for i, run in ipairs(read('HMGET', RUN, ids)) do
    if run then
      add('run', ids[i], run)
      for _, key in ipairs(keys_by(run, ids[i])) do
        local is_held = try('SISMEMBER', PREFIX .. 'hold:' .. key, ids[i])
        if is_held ~= 1 then add('unheld', key, ids[i]) end
      end
      if not is_listed(sub(run, 1, 16), ids[i]) then add('unlisted', ids[i]) end
    end
  end
end

-- What is apart is large: it is not read.
local function find_apart(ids)
  for part, key in pairs({ body = BODY, result = RESULT, history = HISTORY, log = LOG }) do
    if call('HLEN', key) > 0 then
      for _, id in ipairs(ids) do
        if call('HEXISTS', key, id) == 1 then add(part, id) end
      end
    end
  end
end

-- Notes everything about these jobs, but which lanes they are in; and not on which shelves if all
-- of those are told.
local function look_at(ids, has_shelves)
  local records, fins = read('HMGET', JOBS, ids), read('HMGET', FIN, ids)
  local atts, whences = read('HMGET', ATT, ids), read('HMGET', WHENCE, ids)
  local dues, bads = read('ZMSCORE', DUE, ids), read('ZMSCORE', BAD, ids)
  local asked = read('SMISMEMBER', CANCEL, ids)
  for i, id in ipairs(ids) do
    add('subjects', id)
    if records[i] then
      local class, head_bytes = class_of(records[i])
      add('jobs', id, class and sub(records[i], 1, head_bytes) or '')
    end
    if atts[i] then add('att', id, sub(atts[i], 1, ATT_BYTES)) end
    if fins[i] then add('fin', id, sub(fins[i], 1, 30)) end
    if whences[i] then add('whence', id, whences[i]) end
    if dues[i] then add('due', id, dues[i]) end
    if bads[i] then add('bad', id) end
    if asked[i] == 1 then add('cancel', id) end
  end
  find_runs(ids)
  find_keys(ids, records)
  find_apart(ids)
  if not has_shelves then find_on_shelves(ids, records, fins) end
end

-- Notes which tickets of these jobs in a lane are stale.
local function look_at_stale(lane, ids)
  local key, stale_of = PREFIX .. 'gone:' .. lane, {}
  if call('TYPE', key).ok == 'hash' then
    for i, times in ipairs(read('HMGET', key, ids)) do
      if times then stale_of[#stale_of + 1], stale_of[#stale_of + 2] = ids[i], times end
    end
  end
  add('others', key, 'hash', stale_of)
end

-- Notes claims: their records, their ends, and how many of their jobs they hold.
local function look_at_claims(tokens)
  for _, token in ipairs(tokens) do
    local packed, held = call('HGET', CLAIMS, token), 0
    for _, run in ipairs(is_claim(packed) and read('HMGET', RUN, ids_of(packed)) or {}) do
      if run and sub(run, 1, 16) == token then held = held + 1 end
    end
    add('holdings', token, packed or '', call('ZSCORE', LEASES, token) or '', held)
  end
end
