-- Small helpers of all scripts but those that have met nothing but plain jobs.

-- The most bytes of bodies and results in one answer, unless a single job has more.
local ANSWER_MAX_BYTES = 8 * 1024 * 1024
local NO_TOKEN = string.rep('\0', 16)

-- The numbers of states and reasons in stored records and replies.
local SCHEDULED, READY, RUNNING, RETRYING, COMPLETED, DEAD, CANCELLED, QUARANTINED =
  0, 1, 2, 3, 4, 5, 6, 7
local EXHAUSTED, FAILED, CRASH_LOOP, EXPIRED = 1, 2, 3, 4

-- Notes that a key may be there that most stores do not have. Nothing else adds to one (rare.lua).
local function note_rare(command, key)
  local letter = key == ATT and 'a' or key == CANCEL and 'c' or key == DUE and 'd'
    or key == HISTORY and 'h' or key == LOG and 'l'
  if not letter or string.find(rare, letter, 1, true) or string.find(command, '^[HSZ][DR]E[LM]$') then
    return
  end
  rare = rare .. letter
  call('HSET', META, 'rare', rare)
end

-- A variadic write in chunks.
local function each(command, key, arguments)
  local count = #arguments
  if count > 0 then note_rare(command, key) end
  for i = 1, count, CHUNK do
    call(command, key, unpack(arguments, i, min(i + CHUNK - 1, count)))
  end
end

-- A variadic read in chunks; one answer per field, `false` where there is none. Records and ends are
-- whole (brief.lua); as they are stored, they are in a second list.
local function read(command, key, fields)
  local count, answers = #fields, {}
  for i = 1, count, CHUNK do
    local part = call(command, key, unpack(fields, i, min(i + CHUNK - 1, count)))
    if count <= CHUNK then
      answers = part
    else
      for j = 1, #part do answers[i + j - 1] = part[j] end
    end
  end
  local make_whole = key == JOBS and whole_record or key == FIN and whole_end
  if not make_whole then return answers end
  local whole = {}
  for i = 1, count do whole[i] = answers[i] and make_whole(answers[i]) end
  return whole, answers
end

-- The ids in a string of ids; none in one that is not such a string.
local function split_ids(text)
  local ids = {}
  if #text % 16 ~= 0 then return ids end
  for i = 1, #text, 16 do ids[#ids + 1] = sub(text, i, i + 15) end
  return ids
end

-- Whether `a` comes before `b` by their bytes.
local function is_before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Sorts ids by their bytes. Lua's own `<` follows the server's locale.
local function sort_ids(ids)
  local first, second, third = {}, {}, {}
  for i = 1, #ids do
    local id = ids[i]
    first[id], second[id], third[id] = struct.unpack('>I6I6I4', id)
  end
  table.sort(ids, function(a, b)
    if first[a] ~= first[b] then return first[a] < first[b] end
    if second[a] ~= second[b] then return second[a] < second[b] end
    return third[a] < third[b]
  end)
end

-- Jobs per queue, kind and state, live jobs per queue (and finished records per queue), changed
-- together. Live jobs per limit key are in LIVE.
local tallies, key_tallies = {}, {}
local key_counts -- the new values of LIVE, if any change

local function tally(field, by) tallies[field] = (tallies[field] or 0) + by end

-- Counts live jobs that carry these limit keys.
local function tally_keys(keys, by)
  for _, key in ipairs(keys) do key_tallies[key] = (key_tallies[key] or 0) + by end
end

-- Reads the counters that change and answers their new values.
local function read_tallies()
  local live, fields, values = {}, {}, {}
  for field, by in pairs(tallies) do
    local slash = by ~= 0 and string.find(field, '/', 1, true)
    local last = byte(field, -1)
    -- "ready", "running", "retrying", and of those that end in "d" "scheduled".
    if slash and (last == 121 or last == 103 or byte(field, -4) == 117) then
      local queue = sub(field, 1, slash - 1)
      live[queue] = (live[queue] or 0) + by
    end
  end
  for queue, by in pairs(live) do
    local name = 'live:' .. queue
    tallies[name] = (tallies[name] or 0) + by
  end
  for field, by in pairs(tallies) do
    if by ~= 0 then fields[#fields + 1] = field end
  end
  local have = read('HMGET', COUNT, fields)
  for i, field in ipairs(fields) do
    values[field] = (tonumber(have[i]) or 0) + tallies[field]
  end
  tallies = {}
  if next(key_tallies) then
    local keys = {}
    key_counts = {}
    for key in pairs(key_tallies) do keys[#keys + 1] = key end
    for i, count in ipairs(read('HMGET', LIVE, keys)) do
      key_counts[keys[i]] = (tonumber(count or nil) or 0) + key_tallies[keys[i]]
    end
    key_tallies = {}
  end
  return values
end

-- Writes what `read_tallies` answered. A counter that reaches 0 is removed.
local function save_tallies(values)
  local zeros, pairs_ = {}, {}
  for field, value in pairs(values) do
    if value > 0 then
      pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = field, value
    else
      zeros[#zeros + 1] = field
    end
  end
  each('HSET', COUNT, pairs_)
  each('HDEL', COUNT, zeros)
  if not key_counts then return end
  zeros, pairs_ = {}, {}
  for key, value in pairs(key_counts) do
    if value > 0 then
      pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = key, value
    else
      zeros[#zeros + 1] = key
    end
  end
  each('HSET', LIVE, pairs_)
  if pairs_[1] then widen(LIVE, 16) end
  each('HDEL', LIVE, zeros)
  key_counts = nil
end

-- A finished record with this bit in its reason has its result in RESULT.
local RESULT_APART = 128

local function has_result_apart(fin) return (byte(fin, 2) or 0) >= RESULT_APART end

-- The state in a finished record; one that is not what we write is quarantined.
local function fin_state(fin)
  local state = #fin >= 30 and byte(fin, 1)
  return state and state >= COMPLETED and state <= CANCELLED and state or QUARANTINED
end

-- A set of waiting lanes of a wrong type makes place. The lanes that should be in it are known to be
-- parked: the next round of heal.lua, which begins at once, finds them.
local function replace_waits(name)
  try('UNLINK', name)
  call('HDEL', META, 'tidied')
end
