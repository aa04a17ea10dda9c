-- Puts right what an audit has found.
--
-- KEYS   18 fixed keys
-- ARGV   a random word of this round of repairs, the number of this step; then, after step 0, which
--        begins the round, per fix: number of checks, each a command and what it must answer; number of writes, each
--        a command. A command is the number of its words and these; the second word is a key
--        without its prefix. Two commands are the script's own: PUSH "" id puts a job into its lane,
--        COUNT "" field by changes a counter
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

local OWN = {
  PUSH = function(id)
    local record = call('HGET', JOBS, id)
    local class = record and class_of(record, 0)
    if not class then return end
    local lane = lane_of(class)
    if not lane.sound then return end
    -- It may be back in its lane by now: more tickets than are stale.
    local tickets = #call('LPOS', lane.key, id, 'COUNT', 0)
    local gone = tonumber(try('HGET', PREFIX .. 'gone:' .. lane.name, id) or nil) or 0
    if tickets <= gone then push_tail(lane, id) end
  end,
  COUNT = function(field, by) tally(field, tonumber(by)) end,
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
save_meta()
return made
