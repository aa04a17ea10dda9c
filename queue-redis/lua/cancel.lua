-- T12 and T13: cancels jobs that wait, asks for running ones to be stopped.
--
-- KEYS   21 fixed keys
-- ARGV   the ids
-- Reply  per id two characters: c cancelled, r requested, f finished before, n not found,
--        q quarantined now; and the state
--
-- Invariant: a request is noted only for a running job, and cancelling costs the same however
-- long a lane is.

local records = read('HMGET', JOBS, ARGV)
local atts = read('HMGET', ATT, ARGV)
local runs = read('HMGET', RUN, ARGV)
local states = states_of(ARGV)
call('SCARD', CANCEL)

local answers, requested, tokens = {}, {}, {}
local now_states = {} -- id → state after this call

-- A job whose record cannot be read leaves `due`; of a ready one nobody knows the lane.
local function set_apart(id, state)
  if state == READY then set_loose() else undue[#undue + 1] = id end
  quarantine(id)
  now_states[id] = QUARANTINED
  return 'q7'
end

for i, id in ipairs(ARGV) do
  local record = records[i]
  local state = now_states[id] or states[i]
  if not record or state == 'gone' then
    answers[i] = 'n0'
  elseif state == RUNNING then
    requested[#requested + 1] = id
    tokens[sub(runs[i], 1, 16)] = true
    answers[i] = 'r2'
  elseif state >= COMPLETED then
    answers[i] = 'f' .. state
  else
    local class = class_of(record)
    if class then
      unlist(id, class, state)
      now_states[id] = finish(id, record, class, CANCELLED, 0) and CANCELLED or 'gone'
      answers[i] = 'c6'
    else
      answers[i] = set_apart(id, state)
    end
  end
end

-- Who runs the jobs that are to be stopped.
local token_list, workers = {}, {}
for token in pairs(tokens) do token_list[#token_list + 1] = token end
for _, packed in ipairs(read('HMGET', CLAIMS, token_list)) do
  if is_claim(packed) then workers[worker_of(packed)] = true end
end
check_unlisted()

tally_lanes()
local counts = read_tallies()
check_finish(counts)
save_tallies(counts)
save_unlisted()
each('SADD', CANCEL, requested)
save_quarantined()
save_finished()
save_lanes()
tidy_unlisted(counts)
trim_shelves(counts)
for worker in pairs(workers) do tell(worker, 'c') end
save_meta()
return concat(answers)
