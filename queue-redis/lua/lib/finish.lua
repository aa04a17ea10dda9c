-- The end of a job's life and the retention of its record (`fin`).
--
-- A finished record is: state, reason, finished_ms, elapsed_ms, the settling token, and the result
-- unless it is large (RESULT_APART).
-- It waits on the shelf `done:<queue>` (completed, cancelled) or `dead:<queue>`: a zset whose
-- members are the ids that one call finished with one expiry, so that finishing costs one element
-- per call and not one per job. AGES holds each shelf's soonest expiry.

local FINISHED_MAX = 10000
local FREED_MAX_BYTES = 64 * 1024 * 1024 -- of bodies that old records free in one call, about
local TIES_MAX = 64 -- batches of one expiry that are put in order together
local NO_ELAPSED = pack('>I6', TIME_MAX)

local finished = {} -- id, record, …
local results = {} -- id, result, … of those that are apart
local dropped_jobs, dropped_bodies, freed_keys = {}, {}, {}
local shelved = {} -- shelf → expiry → ids
local added = {} -- shelf → how many
local freed_bytes = 0

local function put_on_shelf(class, state, kept_s, done)
  tally(field_of(class, state), #done)
  local shelf = (state == DEAD and 'dead:' or 'done:') .. class.queue
  tally(shelf, #done)
  added[shelf] = (added[shelf] or 0) + #done
  local expiry = min(now + kept_s * 1000, TIME_MAX)
  local expiries = shelved[shelf] or {}
  shelved[shelf] = expiries
  local ids = expiries[expiry] or {}
  expiries[expiry] = ids
  ids[#ids + 1] = concat(done)
end

-- Notes that a job is finished; `save_finished` writes it. `head` begins behind `base` bytes.
-- `settled` is elapsed_ms and token as 22 bytes, or nil if no worker finished it.
local function finish(id, head, base, class, state, reason, settled)
  local key = key_of(head, base, class)
  local kept_s = state == DEAD and class.dead_s or class.completed_s
  if key and (state ~= COMPLETED or kept_s == 0) then freed_keys[#freed_keys + 1] = key end
  if kept_s == 0 then
    dropped_jobs[#dropped_jobs + 1] = id
    if class.apart then dropped_bodies[#dropped_bodies + 1] = id end
    return
  end
  settled = settled or NO_ELAPSED .. NO_TOKEN
  finished[#finished + 1] = id
  finished[#finished + 1] = pack('>BBI6', state, reason, now) .. settled
  put_on_shelf(class, state, kept_s, { id })
end

-- Raises now, before the first write, if a key that `forget` writes has a wrong type.
local function check_forget()
  for _, key in ipairs({ JOBS, FIN, ATT, IDEM, BODY, RESULT }) do call('HLEN', key) end
  call('ZCARD', AGES)
  call('SCARD', BAD)
end

-- The same for what `save_finished` and `trim_shelves` write. `counts` is what `read_tallies`
-- answered.
local function check_finish(counts)
  if #finished > 0 then
    call('HLEN', FIN)
    call('ZCARD', AGES)
  end
  if #results > 0 then call('HLEN', RESULT) end
  if #freed_keys > 0 then call('HLEN', IDEM) end
  if #dropped_jobs > 0 then
    call('HLEN', JOBS)
    call('HLEN', ATT)
  end
  if #dropped_bodies > 0 then call('HLEN', BODY) end
  for shelf in pairs(added) do
    if (counts[shelf] or 0) > FINISHED_MAX then return check_forget() end
  end
end

local function save_finished()
  each('HSET', FIN, finished)
  each('HSET', RESULT, results)
  each('HDEL', IDEM, freed_keys)
  each('HDEL', JOBS, dropped_jobs)
  each('HDEL', ATT, dropped_jobs)
  each('HDEL', BODY, dropped_bodies)
  for shelf, expiries in pairs(shelved) do
    for expiry, ids in pairs(expiries) do
      -- A shelf of a wrong type loses this index entry, not the job.
      try('ZADD', PREFIX .. shelf, expiry, concat(ids))
      try('ZADD', AGES, 'LT', expiry, shelf)
    end
  end
  finished, results, freed_keys, shelved = {}, {}, {}, {}
  dropped_jobs, dropped_bodies = {}, {}
end

-- Cuts a list of ids behind the record with which this call has freed enough, because freeing
-- takes time too; answers what was cut off, joined.
local function cut_to_size(ids, records)
  for i = 1, #ids do
    local class = records[i] and class_of(records[i], 0)
    if class and class.apart then freed_bytes = freed_bytes + payload_bytes(records[i]) end
    if freed_bytes > FREED_MAX_BYTES then
      local rest = concat(ids, '', i + 1)
      for j = #ids, i + 1, -1 do ids[j] = nil end
      return rest
    end
  end
  return ''
end

-- T16: removes finished records and everything that belongs to them, as many of the first as one
-- call should free; the others are put back on the shelf. Answers how many it removed.
local function forget(shelf, expiry, ids)
  local records, fins = read('HMGET', JOBS, ids), read('HMGET', FIN, ids)
  local rest = cut_to_size(ids, records)
  if rest ~= '' then call('ZADD', PREFIX .. shelf, expiry, rest) end
  local keys, owners, bad, gone = {}, {}, {}, {}
  local bodies, gone_results = {}, {}
  for i, id in ipairs(ids) do
    local record, fin = records[i], fins[i]
    local class = record and class_of(record, 0)
    local sound = class and fin and fin_state(fin) ~= QUARANTINED
    if sound then
      tally(field_of(class, byte(fin, 1)), -1)
      local key = key_of(record, 0, class)
      if key then keys[#keys + 1], owners[#owners + 1] = key, id end
    end
    -- Where a flag cannot be read, what it would point to is looked for. Only a record that
    -- stays, because it cannot be decoded, keeps its body.
    if not record or sound and class.apart then bodies[#bodies + 1] = id end
    if not sound or has_result_apart(fin) then gone_results[#gone_results + 1] = id end
    if record and not sound then
      bad[#bad + 1] = id
    else
      gone[#gone + 1] = id
    end
  end
  -- A dead or cancelled job has freed its key; another job may have it now.
  local freed = {}
  for i, owner in ipairs(read('HMGET', IDEM, keys)) do
    if owner == owners[i] then freed[#freed + 1] = keys[i] end
  end
  each('HDEL', IDEM, freed)
  each('HDEL', JOBS, gone)
  each('HDEL', ATT, gone)
  each('HDEL', FIN, ids)
  each('HDEL', BODY, bodies)
  each('HDEL', RESULT, gone_results)
  each('SADD', BAD, bad)
  tally(shelf, -#ids)
  return #ids
end

-- Drops up to `most` records of a shelf, soonest expiry first, ties by id; only those whose
-- expiry is not after `horizon_ms`. Answers how many, and whether such records are left.
local function drop_from(shelf, most, horizon_ms)
  local key = PREFIX .. shelf
  local dropped = 0
  while true do
    local first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
    local expiry = first[2]
    if expiry then
      call('ZADD', AGES, expiry, shelf)
    else
      call('ZREM', AGES, shelf)
    end
    if not expiry or tonumber(expiry) > horizon_ms then return dropped, false end
    if dropped >= most or freed_bytes > FREED_MAX_BYTES then return dropped, true end
    local batches = try('ZRANGE', key, expiry, expiry, 'BYSCORE', 'LIMIT', 0, TIES_MAX)
    local ids = split_ids(concat(batches))
    each('ZREM', key, batches)
    if #ids > most - dropped then
      sort_ids(ids)
      local rest = concat(ids, '', most - dropped + 1)
      for i = #ids, most - dropped + 1, -1 do ids[i] = nil end
      call('ZADD', key, expiry, rest)
    end
    dropped = dropped + forget(shelf, expiry, ids)
  end
end

-- Drops `most` records of a shelf, soonest expiry first, ties in any order: cheap enough for a
-- settlement, because of a batch that is dropped in part the rest is one piece of text.
local function trim_shelf(shelf, most)
  local key = PREFIX .. shelf
  local first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
  while most > 0 and first[2] do
    local batch, expiry = first[1], first[2]
    local bytes = 16 * min(floor(#batch / 16), most)
    if bytes == 0 then bytes = #batch end
    call('ZREM', key, batch)
    if bytes < #batch then call('ZADD', key, expiry, sub(batch, bytes + 1)) end
    most = most - forget(shelf, expiry, split_ids(sub(batch, 1, bytes)))
    if freed_bytes > FREED_MAX_BYTES then most = 0 end
    first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
  end
  if first[2] then call('ZADD', AGES, first[2], shelf) else call('ZREM', AGES, shelf) end
end

-- Keeps the shelves that this call added to below their cap, as far as a few more records than
-- it added go. `counts` is what `save_tallies` answered.
local function trim_shelves(counts)
  local trimmed = false
  for shelf, by in pairs(added) do
    local over = (counts[shelf] or 0) - FINISHED_MAX
    if over > 0 then
      trim_shelf(shelf, min(over, by + 5))
      trimmed = true
    end
  end
  if trimmed then save_tallies(read_tallies()) end
end
