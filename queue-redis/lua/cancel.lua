-- T12 and T13: cancels jobs that wait, asks for running ones to be stopped.
--
-- KEYS   15 fixed keys
-- ARGV   the ids
-- Reply  per id two characters: c cancelled, r requested, f finished before, n not found; and
--        the state
--
-- Invariant: a request is noted only for a running job. A ready job leaves its ticket behind,
-- counted in `gone:<lane>`, so that cancelling costs the same however long the lane is;
-- where they pile up some are taken out.

local records = read('HMGET', JOBS, ARGV)
local atts = read('HMGET', ATT, ARGV)
local runs = read('HMGET', RUN, ARGV)
local states = states_of(ARGV)
call('SCARD', CANCEL)

local answers, requested, tokens, undue = {}, {}, {}, {}
local now_states = {} -- id → state after this call
local emptied = {}
local out_of_reach = {} -- key of a lane, id, …

local function cancel_ready(id, class)
  local lane = lane_of(class)
  lane.by = lane.by - 1
  emptied[class.pair] = true
  if not lane.sound then
    out_of_reach[#out_of_reach + 1], out_of_reach[#out_of_reach + 2] = lane.key, id
    return
  end
  lane.live = lane.live - 1
  lane.gone = lane.gone + 1
  lane.changed = true
  lane.cancelled = lane.cancelled or {}
  lane.cancelled[#lane.cancelled + 1] = id
  stale = stale + 1
end

for i, id in ipairs(ARGV) do
  local record = records[i]
  local class = record and class_of(record, 0)
  local state = now_states[id] or states[i]
  if not record or state == 'gone' then
    answers[i] = 'n0'
  elseif not class then
    answers[i] = 'f7'
  elseif state == RUNNING then
    requested[#requested + 1] = id
    tokens[sub(runs[i], 1, 16)] = true
    answers[i] = 'r2'
  elseif state >= COMPLETED then
    answers[i] = 'f' .. state
  else
    if state == READY then
      cancel_ready(id, class)
    else
      undue[#undue + 1] = id
      tally(field_of(class, state), -1)
      emptied[class.pair] = true
    end
    finish(id, record, 0, class, CANCELLED, 0)
    now_states[id] = class.completed_s == 0 and 'gone' or CANCELLED
    answers[i] = 'c6'
  end
end

-- Who runs the jobs that are to be stopped.
local token_list, workers = {}, {}
for token in pairs(tokens) do token_list[#token_list + 1] = token end
for _, packed in ipairs(read('HMGET', CLAIMS, token_list)) do
  if is_claim(packed) then workers[worker_of(packed)] = true end
end
local gone_counts = {}
for _, lane in pairs(lanes) do
  if lane.cancelled and lane.live > 0 then
    local key = PREFIX .. 'gone:' .. lane.name
    -- Of a wrong type it was not looked at because no lane had stale tickets: nothing is lost.
    lane.replaces_gone = type(try('HLEN', key)) ~= 'number'
    gone_counts[lane] = lane.replaces_gone and {} or read('HMGET', key, lane.cancelled)
  end
end

tally_lanes()
local counts = read_tallies()
check_finish(counts)
save_tallies(counts)
each('ZREM', DUE, undue)
each('SADD', CANCEL, requested)
for lane, have in pairs(gone_counts) do
  local pairs_ = { 'n', lane.gone }
  for i, id in ipairs(lane.cancelled) do
    pairs_[#pairs_ + 1], pairs_[#pairs_ + 2] = id, (tonumber(have[i] or nil) or 0) + 1
  end
  local key = PREFIX .. 'gone:' .. lane.name
  if lane.replaces_gone then call('UNLINK', key) end
  each('HSET', key, pairs_)
end
-- A lane whose other keys have a wrong type cannot count a stale ticket, which would come back to
-- life with the lane. Only such a damaged lane pays with its length.
for i = 1, #out_of_reach, 2 do try('LREM', out_of_reach[i], 1, out_of_reach[i + 1]) end
save_finished()
save_lanes()
for lane in pairs(gone_counts) do compact_lane(lane) end
trim_shelves(counts)
for pair in pairs(emptied) do
  local ready = counts[pair .. '/ready'] or tonumber(call('HGET', COUNT, pair .. '/ready') or nil)
  if (ready or 0) <= 0 then try('DEL', PREFIX .. 'wake:' .. pair) end
end
for worker in pairs(workers) do tell(worker, 'c') end
save_meta()
return concat(answers)
