-- T16, by hand.
--
-- KEYS   21 fixed keys
-- ARGV   per job: id, the number of the state that it is in
-- Reply  per job two characters: d deleted, u unchanged, n not found; and the state
--
-- Invariant: nothing is left of a deleted job but, if it was ready, its ticket, which is counted
-- in `gone:<lane>` as that of a cancelled one.

local ids, wanted = {}, {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1], wanted[#wanted + 1] = ARGV[i], tonumber(ARGV[i + 1])
end
local records, fins = read('HMGET', JOBS, ids), read('HMGET', FIN, ids)
local states = states_of(ids)
local some_asked = call('SCARD', CANCEL) > 0
local deleted = {}

-- Takes a job off the list of quarantined ones.
local function leave_quarantine(id)
  local pair = call('HGET', WHENCE, id)
  if pair and string.find(pair, '^[a-z0-9_.-]+/[a-z0-9_.-]+$') then
    tally(pair .. '/quarantined', -1)
  end
end

local function delete(i, id)
  if not records[i] or deleted[id] then return 'n0' end
  local state = states[i]
  if state ~= wanted[i] or state == RUNNING then return 'u' .. state end
  local class = class_of(records[i])
  if state == QUARANTINED then
    leave_quarantine(id)
  elseif not class then
    return 'u' .. state -- who meets it in its index quarantines it
  elseif state >= COMPLETED then
    unshelve(id, records[i], class, fins[i])
    tally(field_of(class, state), -1)
  else
    unlist(id, class, state)
    if class.keys then tally_keys(class.keys, -1) end
  end
  if class then free_key(key_of(records[i], class), id) end
  deleted[#deleted + 1] = id
  deleted[id] = true
  return 'd' .. state
end

local answers = {}
for i, id in ipairs(ids) do answers[i] = delete(i, id) end
check_unlisted()
tally_lanes()
local counts = read_tallies()
check_finish(counts)
check_forget()
save_tallies(counts)
save_unlisted()
save_unshelved()
for _, key in ipairs({ JOBS, ATT, FIN, BODY, RESULT, WHENCE }) do each('HDEL', key, deleted) end
each('ZREM', BAD, deleted)
if some_asked then each('SREM', CANCEL, deleted) end
drop_traces(deleted)
save_finished()
save_lanes()
tidy_unlisted(counts)
save_meta()
return concat(answers)
