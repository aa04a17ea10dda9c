-- T16: the retention of finished records.

local FREED_MAX_BYTES = 64 * 1024 * 1024 -- of bodies that old records free in one call, about
local TIES_MAX = 64 -- batches of one expiry that are put in order together

local freed_bytes = 0

-- Cuts a list of ids behind the record with which this call has freed enough, because freeing
-- takes time too; answers what was cut off, joined.
local function cut_to_size(ids, records)
  for i = 1, #ids do
    local class = records[i] and class_of(records[i])
    if class and class.apart then freed_bytes = freed_bytes + payload_bytes(records[i]) end
    if freed_bytes > FREED_MAX_BYTES then
      local rest = concat(ids, '', i + 1)
      for j = #ids, i + 1, -1 do ids[j] = nil end
      return rest
    end
  end
  return ''
end

-- Where a record that leaves `shelf` at `expiry` belongs now: a shelf and an expiry, or nil if it
-- is to be dropped. One that was kept for its key joins the others of its queue; one that is on a
-- shelf by mistake goes to where it should be.
local function next_place(record, fin, class, shelf, expiry)
  local own, ends_ms = retention_of(class, byte(fin, 1), (struct.unpack('>I6', fin, 3)))
  if ends_ms > now and (shelf ~= own or ends_ms ~= expiry) then return own, ends_ms end
end

-- A record on a shelf that cannot be read, or that has not finished and is on the shelf wrongly.
local function forget_damaged(id, fin, class)
  if class and not fin then return end
  if not fin then
    if call('HEXISTS', RUN, id) == 1 then return end
    if call('ZREM', DUE, id) == 0 then set_loose() end -- perhaps it is in a lane
  end
  quarantine(id, class and class.pair)
end

-- Removes finished records and everything that belongs to them, as many of the first as one call
-- should free; the others are put back on the shelf. Answers how many it handled and how many it
-- dropped.
local function forget(shelf, expiry, ids)
  local records, fins = read('HMGET', JOBS, ids), read('HMGET', FIN, ids)
  local rest = cut_to_size(ids, records)
  if rest ~= '' then call('ZADD', PREFIX .. shelf, expiry, rest) end
  local keys, owners, gone, bodies, gone_results, moved = {}, {}, {}, {}, {}, {}
  local dropped = 0
  for i, id in ipairs(ids) do
    local record, fin = records[i], fins[i]
    local class = record and class_of(record)
    if record and not (class and fin and fin_state(fin) ~= QUARANTINED) then
      forget_damaged(id, fin, class)
    else
      local place, place_ms
      if record then
        local key = key_of(record, class)
        if key then keys[#keys + 1], owners[#owners + 1] = key, id end
        place, place_ms = next_place(record, fin, class, shelf, tonumber(expiry))
      end
      if place then
        moved[#moved + 1], moved[#moved + 2], moved[#moved + 3] = place, place_ms, id
      else
        gone[#gone + 1] = id
        -- Of a record that is not there any more everything is looked for.
        if not record or class.apart then bodies[#bodies + 1] = id end
        if not record or has_result_apart(fin) then gone_results[#gone_results + 1] = id end
        if record then
          tally(field_of(class, byte(fin, 1)), -1)
          dropped = dropped + 1
        end
      end
    end
  end
  -- A job may have lost its key to another.
  local is_held, freed = byte(shelf) == 104, {} -- "h"
  for i, owner in ipairs(read('HMGET', IDEM, keys)) do
    if owner == owners[i] then freed[#freed + 1] = keys[i] end
  end
  each('HDEL', IDEM, freed)
  each('HDEL', JOBS, gone)
  each('HDEL', ATT, gone)
  each('HDEL', FIN, gone)
  each('HDEL', BODY, bodies)
  each('HDEL', RESULT, gone_results)
  drop_traces(gone)
  save_quarantined()
  for i = 1, #moved, 3 do
    tally(moved[i], 1)
    -- A shelf of a wrong type loses this index entry, not the job.
    try('ZADD', PREFIX .. moved[i], moved[i + 1], moved[i + 2])
    try('ZADD', AGES, 'LT', moved[i + 1], moved[i])
  end
  if not is_held then tally(shelf, -#ids) end
  return #ids, dropped
end

-- Notes a shelf's soonest expiry.
local function note_age(shelf, first)
  if first[2] then call('ZADD', AGES, first[2], shelf) else call('ZREM', AGES, shelf) end
end

-- Handles up to `most` records of a shelf, soonest expiry first, ties by id; only those whose
-- expiry is not after `horizon_ms`. Answers how many, how many of them are dropped, and whether
-- such records are left.
local function drop_from(shelf, most, horizon_ms)
  local key = PREFIX .. shelf
  local handled, dropped = 0, 0
  while true do
    local first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
    local expiry = first[2]
    note_age(shelf, first)
    if not expiry or tonumber(expiry) > horizon_ms then return handled, dropped, false end
    if handled >= most or freed_bytes > FREED_MAX_BYTES then return handled, dropped, true end
    local batches = try('ZRANGE', key, expiry, expiry, 'BYSCORE', 'LIMIT', 0, TIES_MAX)
    local ids = {}
    for _, batch in ipairs(batches) do
      for _, id in ipairs(ids_of_entry(batch)) do ids[#ids + 1] = id end
    end
    each('ZREM', key, batches)
    if #ids > most - handled then
      sort_ids(ids)
      local rest = concat(ids, '', most - handled + 1)
      for i = #ids, most - handled + 1, -1 do ids[i] = nil end
      call('ZADD', key, expiry, rest)
    end
    local count, gone = forget(shelf, expiry, ids)
    handled, dropped = handled + count, dropped + gone
  end
end

-- Drops `most` records of a shelf, soonest expiry first, ties in any order: cheap enough for a
-- settlement, because of a batch that is dropped in part the rest is one piece of text.
local function trim_shelf(shelf, most)
  local key = PREFIX .. shelf
  local first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
  while most > 0 and first[2] do
    local batch, expiry = first[1], first[2]
    local ids_bytes = read_entry(batch)
    local bytes = min(ids_bytes, 16 * most)
    call('ZREM', key, batch)
    if bytes < ids_bytes then call('ZADD', key, expiry, sub(batch, bytes + 1)) end
    most = most - max(forget(shelf, expiry, split_ids(sub(batch, 1, bytes))), 1)
    if freed_bytes > FREED_MAX_BYTES then most = 0 end
    first = try('ZRANGE', key, 0, 0, 'WITHSCORES')
  end
  note_age(shelf, first)
end

-- Keeps the shelves that this call added to below their cap and SLACK, as far as that many more
-- records than it added go. `counts` is what `save_tallies` answered.
local function trim_shelves(counts)
  local trimmed = false
  for shelf, by in pairs(added) do
    local over = (counts[shelf] or 0) - FINISHED_MAX
    if over >= SLACK then
      trim_shelf(shelf, min(over, by + SLACK))
      trimmed = true
    end
  end
  if trimmed then save_tallies(read_tallies()) end
end
