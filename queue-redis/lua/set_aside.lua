-- T17: quarantines jobs that the scripts can read and this program cannot.
--
-- KEYS   21 fixed keys
-- ARGV   a claim token or "", then per job: id, and the record that could not be read
-- Reply  the ids that are quarantined now, joined
--
-- Invariant: with a token, only jobs that it holds are touched; without one, only jobs that do not
-- run and still have that very record. A job leaves its index, its key is free, its bytes stay.

local token = ARGV[1]
local ids, seen = {}, {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1], seen[#seen + 1] = ARGV[i], ARGV[i + 1]
end
local records, stored = read('HMGET', JOBS, ids)
local runs, fins = read('HMGET', RUN, ids), read('HMGET', FIN, ids)
local states = states_of(ids)
local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ids) or {}

-- Takes a job out of the index of its state.
local function take_out(i, id, class)
  local state = states[i]
  if class and class.keys and state < COMPLETED then tally_keys(class.keys, -1) end
  if state == RUNNING then
    local of_run, head_bytes = class_of(runs[i], IN_RUN)
    release(id, token, class, flags[i] == 1)
    local keys = of_run and held_keys(runs[i], of_run, head_bytes)
    if keys then ends[#ends + 1] = { id = id, keys = keys, token = token } end
    has_lost_keys = has_lost_keys or not of_run
  elseif not class then
    if state == SCHEDULED or state == RETRYING then
      undue[#undue + 1] = id
    elseif state == READY then
      set_loose()
    end
  elseif state < COMPLETED then
    unlist(id, class, state)
  elseif state < QUARANTINED then
    unshelve(id, records[i], class, fins[i])
    tally(field_of(class, state), -1)
  end
end

for i, id in ipairs(ids) do
  local held = states[i] == RUNNING and sub(runs[i], 1, 16) == token
  local unchanged = token == '' and states[i] ~= RUNNING and stored[i] == seen[i]
  if records[i] and (held or unchanged) and not met_bad[id] then
    local class = class_of(records[i])
    take_out(i, id, class)
    if class then free_key(key_of(records[i], class), id) end
    quarantine(id, class and class.pair)
  end
end

check_unlisted()
tally_lanes()
tally_released()
local kept, ended = read_released()
local counts = read_tallies()
check_finish(counts)
call('ZCARD', AGES)
if #ends > 0 then plan_ends() end
save_tallies(counts)
save_released(kept, ended)
save_unlisted()
save_unshelved()
save_quarantined()
save_finished()
save_lanes()
if #ends > 0 then limits().save() end
tidy_unlisted(counts)
save_meta()
return concat(new_bad)
