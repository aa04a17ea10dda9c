-- The end of a job's life (`fin`).
--
-- A finished record is: state, reason, finished_ms, elapsed_ms, the settling token, and the result
-- unless it is large (RESULT_APART). The upper half of the state's byte is for a later version of
-- this layout.
-- It waits on a shelf: `done:<queue>` (completed), `void:<queue>` (cancelled), `dead:<queue>`, or,
-- as long as it is kept for its idempotency key, `held:<queue>`. A shelf is a zset whose members
-- are the ids that one call finished with one expiry (of one kind, if they have a tag: shelf.lua), so
-- that finishing costs one element per call, not per job. AGES holds each shelf's soonest expiry.

local NO_ELAPSED = pack('>I6', TIME_MAX)

local finished = {} -- id, record, …
local results = {} -- id, result, … of those that are apart
local dropped_jobs, dropped_bodies = {}, {}
local freed_keys, freed_owners = {}, {}
local shelved = {} -- shelf → expiry → tag → ids
local added = {} -- shelf → how many

-- Where a job that is finished now waits, until when, and its key if that is free now.
local function resting_place(id, head, class, state)
  local key = key_of(head, class)
  if key and state == COMPLETED and class.at_least then
    local record = read('HMGET', JOBS, { id })[1] -- RUN does not have the time at which it was enqueued
    local its_class = record and class_of(record)
    local hold_ms = its_class and its_class.at_least and hold_end_ms(record, its_class) or now
    if hold_ms > now then return 'held:' .. class.queue, hold_ms, nil end
  end
  local shelf, expiry = retention_of(class, state, now)
  local is_free = state ~= COMPLETED or expiry <= now or class.live_hold or class.at_least
  return shelf, expiry, is_free and key or nil
end

local function put_on_shelf(shelf, expiry, done, tag)
  if byte(shelf) ~= 104 then -- "h": what is held for its key has no cap
    tally(shelf, #done)
    added[shelf] = (added[shelf] or 0) + #done
  end
  local expiries = shelved[shelf] or {}
  shelved[shelf] = expiries
  local tags = expiries[expiry] or {}
  expiries[expiry] = tags
  local ids = tags[tag or ''] or {}
  tags[tag or ''] = ids
  ids[#ids + 1] = concat(done)
end

local function free_key(key, id)
  if key then freed_keys[#freed_keys + 1], freed_owners[#freed_owners + 1] = key, id end
end

-- Notes that a job is finished; `save_finished` writes it. `head` is its record, or what RUN has.
-- `settled` is elapsed_ms and token as 22 bytes, or nil if no worker finished it. Answers whether
-- the record is kept.
local function finish(id, head, class, state, reason, settled, result)
  local shelf, expiry, key = resting_place(id, head, class, state)
  free_key(key, id)
  if class.keys then tally_keys(class.keys, -1) end
  if expiry <= now then
    dropped_jobs[#dropped_jobs + 1] = id
    if class.apart then dropped_bodies[#dropped_bodies + 1] = id end
    return false
  end
  if result and #result > INLINE_MAX_BYTES then
    results[#results + 1], results[#results + 2] = id, result
    reason, result = reason + RESULT_APART, ''
  end
  settled = settled or NO_ELAPSED .. NO_TOKEN
  finished[#finished + 1], finished[#finished + 2] = id, packed_end(state, reason, settled, result or '')
  tally(field_of(class, state), 1)
  put_on_shelf(shelf, expiry, { id })
  return true
end

-- Raises now, before the first write, if a key that `forget` writes has a wrong type.
local function check_forget()
  for _, key in ipairs({ JOBS, FIN, ATT, IDEM, BODY, RESULT }) do call('HLEN', key) end
  call('ZCARD', AGES)
  call('ZCARD', BAD)
end

-- The same for what `save_finished` and `trim_shelves` write; keys that others have are not freed.
-- `counts` is what `read_tallies` answered.
local function check_finish(counts)
  if #finished > 0 then
    call('HLEN', FIN)
    call('ZCARD', AGES)
  end
  if #results > 0 then call('HLEN', RESULT) end
  if #freed_keys > 0 then
    local owned = {}
    for i, owner in ipairs(read('HMGET', IDEM, freed_keys)) do
      if owner == freed_owners[i] then owned[#owned + 1] = freed_keys[i] end
    end
    freed_keys = owned
  end
  if #dropped_jobs > 0 then check_forget() end
  for shelf in pairs(added) do
    if (counts[shelf] or 0) >= FINISHED_MAX + SLACK then return check_forget() end
  end
end

-- Removes what jobs have told and suffered. Most stores have nothing of the kind.
local traces
local function drop_traces(ids)
  if #ids == 0 then return end
  if not traces then
    traces = {}
    for _, key in ipairs({ HISTORY, LOG }) do
      local size = try('HLEN', key)
      if type(size) == 'number' and size > 0 then traces[#traces + 1] = key end
    end
  end
  for _, key in ipairs(traces) do each('HDEL', key, ids) end
end

local function save_finished()
  each('HSET', FIN, finished)
  each('HSET', RESULT, results)
  each('HDEL', IDEM, freed_keys)
  each('HDEL', JOBS, dropped_jobs)
  each('HDEL', ATT, dropped_jobs)
  each('HDEL', BODY, dropped_bodies)
  drop_traces(dropped_jobs)
  for shelf, expiries in pairs(shelved) do
    for expiry, tags in pairs(expiries) do
      for tag, ids in pairs(tags) do
        -- A shelf of a wrong type loses this index entry, not the job.
        try('ZADD', PREFIX .. shelf, expiry, concat(ids) .. tag)
      end
      try('ZADD', AGES, 'LT', expiry, shelf)
    end
  end
  finished, results, freed_keys, freed_owners, shelved = {}, {}, {}, {}, {}
  dropped_jobs, dropped_bodies = {}, {}
end
