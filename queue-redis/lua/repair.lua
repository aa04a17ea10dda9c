-- Puts right what an audit has found.
--
-- KEYS   21 fixed keys
-- ARGV   a random word of this round of repairs, the number of this step; then, after step 0, which
--        begins the round, per fix: number of checks, each a command and what it must answer; number
--        of writes, each a command. A command is the number of its words and these; the second word
--        is a key without its prefix. Some commands are the script's own: see OWN
-- Reply  how many fixes were made, or -1 if another round has begun since
--
-- Invariant: a fix is made only if all its checks hold now, whatever has happened since the audit;
-- a step takes effect once, and only while no other round has begun: what that one has read would
-- not be true any more.

local round, step = ARGV[1], tonumber(ARGV[2])
local auditor = call('HGET', META, 'auditor')
if step > 0 and auditor == round .. ':' .. step then return 0 end -- a repeat
if step > 0 and auditor ~= round .. ':' .. step - 1 then return -1 end
call('HSET', META, 'auditor', round .. ':' .. step)

local at = 3
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local function command()
  local words = {}
  for i = 1, tonumber(take()) do words[i] = take() end
  words[2] = PREFIX .. words[2]
  return words
end

local function answers(words, expected)
  local reply = try(unpack(words))
  if type(reply) == 'table' then reply = reply.ok end
  return tostring(reply or '') == expected
end

-- In a longer lane nothing is searched for and nothing is taken out of its midst.
local SEARCHED_MAX, NEAR, STALE_MAX = 1024, 512, 5000
local RUNNING_MAX = 2000 -- of more running jobs the holders of a key are not gathered in one step

local function stale_times(lane, id)
  return tonumber(try('HGET', PREFIX .. 'gone:' .. lane, id) or nil) or 0
end

-- Changes how many of a job's tickets in a lane are stale.
local function note_stale(lane, id, by)
  local key = PREFIX .. 'gone:' .. lane
  local times = try('HINCRBY', key, id, by)
  if type(times) ~= 'number' then return end
  if times <= 0 then call('HDEL', key, id) end
  if tonumber(try('HINCRBY', key, 'n', by)) == 0 then call('UNLINK', key) end
  stale = stale + by
end

local function is_near(key, behind, id)
  local from, to = -behind - NEAR, -max(behind - NEAR, 0) - 1
  for _, ticket in ipairs(call('LRANGE', key, from, to)) do
    if ticket == id then return true end
  end
  return false
end

local OWN = {
  -- Puts a job into its lane that is listed nowhere. In a long one its ticket has been looked for:
  -- what the job has suffered, and how many of its tickets are stale, must not have changed.
  PUSH = function(id, att, times)
    local record = read('HMGET', JOBS, { id })[1]
    local class = record and class_of(record)
    if not class then return end
    local lane = lane_of(class)
    if not lane.sound then return end
    if call('LLEN', lane.key) <= SEARCHED_MAX then
      -- It may be back in its lane by now: more tickets than are stale.
      local tickets = #call('LPOS', lane.key, id, 'COUNT', 0)
      if tickets > stale_times(lane.name, id) then return end
    elseif
      sub(call('HGET', ATT, id) or '', 1, ATT_BYTES) ~= att
      or stale_times(lane.name, id) ~= tonumber(times)
    then
      return
    end
    push_tail(lane, id)
  end,
  -- Takes a ticket out of a lane. In a long one it becomes stale: a claim will pass it.
  UNTICKET = function(lane, id, behind)
    local key = PREFIX .. 'lane:' .. lane
    local length = try('LLEN', key)
    if type(length) ~= 'number' then return end
    if length <= SEARCHED_MAX then
      call('LREM', key, -1, id) -- the last is the live one
    elseif id ~= 'n' and is_near(key, tonumber(behind), id) then
      note_stale(lane, id, 1)
    end
  end,
  -- Forgets stale tickets that are not there.
  UNSTALE = function(lane, id, surplus) note_stale(lane, id, -tonumber(surplus)) end,
  -- Sums up a lane's stale tickets.
  SUM = function(lane)
    local key = PREFIX .. 'gone:' .. lane
    local fields = try('HLEN', key)
    if type(fields) ~= 'number' or fields > STALE_MAX then return end
    local all, sum = call('HGETALL', key), 0
    for i = 1, #all, 2 do
      if all[i] ~= 'n' then sum = sum + (tonumber(all[i + 1]) or 0) end
    end
    if sum > 0 then call('HSET', key, 'n', sum) else call('UNLINK', key) end
  end,
  -- Changes the number of all stale tickets.
  STALE = function(by) stale = max(stale + tonumber(by), 0) end,
  -- Changes a counter, and no other (base.lua counts a queue's live jobs along).
  COUNT = function(field, by)
    tally(field, tonumber(by))
    local queue, state = string.match(field, '^([^/]+)/[^/]+/(%a+)$')
    local is_live = ({ scheduled = true, ready = true, running = true, retrying = true })[state]
    if is_live then tally('live:' .. queue, -tonumber(by)) end
  end,
  -- Changes the counter of a limit key's live jobs.
  LIVE = function(key, by) tally_keys({ key }, tonumber(by)) end,
  -- Gives a lane with limit keys its place among those that claims meet, whatever it had before. One
  -- that should wait is parked again by the first claim.
  PLACE = function(pair, index)
    local priority, keys = string.match(index, '^(%d)/(.+)$')
    local score = try('ZSCORE', PREFIX .. 'lanes:' .. pair, index)
      or try('ZSCORE', PREFIX .. 'parked:' .. pair, index)
    score = type(score) == 'string' and tonumber(score) or -1
    priority = tonumber(priority or index)
    local place = { pair = pair, index = index, keys = keys and split_keys(keys) or {} }
    place.parked, place.live = true, 0
    save_place(place)
    local length = try('LLEN', PREFIX .. 'lane:' .. pair .. '/' .. index)
    if not priority or type(length) ~= 'number' or length == 0 then return end
    if floor(score / 2 ^ 48) ~= priority then score = priority * 2 ^ 48 end
    try('ZADD', PREFIX .. 'lanes:' .. pair, score, index)
    wake(pair)
  end,
  -- Claims look whether a limit key has room: who waits for it is not told otherwise.
  LOOK = function(key)
    if limited and call('HEXISTS', LIMITED, key) == 1 then call('ZADD', REOPEN, now, key) end
  end,
  -- Gathers the holders of a limit key anew if they are of a wrong type. Of many running jobs that
  -- is left to maintenance (heal.lua): until then the key is closed.
  REHOLD = function(key)
    local hold, gathered = PREFIX .. 'hold:' .. key, PREFIX .. 'mend:' .. key
    if type(try('SCARD', hold)) == 'number' then
      call('UNLINK', gathered)
    elseif call('HLEN', RUN) > RUNNING_MAX then
      call('HSETNX', META, 'mending', '0 ' .. key)
      call('HSET', META, 'limits', 1)
    else
      call('UNLINK', hold, gathered)
      each('SADD', hold, holders_among(call('HGETALL', RUN), key))
    end
  end,
  -- Shows a key to claims at which lanes wait. Without room, the first claim puts it right.
  SHOW = function(pair, key)
    local head = try('ZRANGE', PREFIX .. 'waits:' .. pair .. ':' .. key, 0, 0, 'WITHSCORES')
    if head[2] then
      try('ZADD', PREFIX .. 'lanes:' .. pair, head[2], '@' .. key)
      wake(pair)
    else
      try('ZREM', PREFIX .. 'lanes:' .. pair, '@' .. key)
    end
  end,
  -- Notes when the first of a shelf's records goes.
  AGE = function(shelf)
    local first = try('ZRANGE', PREFIX .. shelf, 0, 0, 'WITHSCORES')
    if first[2] then call('ZADD', AGES, first[2], shelf) else call('ZREM', AGES, shelf) end
  end,
  -- Removes a key of a wrong type.
  RETYPE = function(name, kind)
    if call('TYPE', PREFIX .. name).ok ~= kind then call('UNLINK', PREFIX .. name) end
  end,
  -- Drops a payload that is apart and should not be.
  UNBODY = function(id)
    local record = read('HMGET', JOBS, { id })[1]
    local class = record and class_of(record)
    if class and not class.apart then call('HDEL', BODY, id) end
  end,
  -- The same of a result.
  UNRESULT = function(id)
    local fin = read('HMGET', FIN, { id })[1]
    if fin and not has_result_apart(fin) then call('HDEL', RESULT, id) end
  end,
}

local made = 0
while at <= #ARGV do
  local sound = true
  for _ = 1, tonumber(take()) do
    local words = command()
    local expected = take()
    if sound then sound = answers(words, expected) end
  end
  for _ = 1, tonumber(take()) do
    local words = command()
    local own = OWN[words[1]]
    if sound and own then
      own(unpack(words, 3))
    elseif sound then
      try(unpack(words))
    end
  end
  if sound then made = made + 1 end
end
tally_lanes()
save_tallies(read_tallies())
save_lanes()
look_for_rare()
save_meta()
return made
