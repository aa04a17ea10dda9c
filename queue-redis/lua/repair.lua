-- Puts right what an audit has found.
--
-- KEYS   18 fixed keys
-- ARGV   per fix: number of checks, each a command and what it must answer; number of writes, each
--        a command. A command is the number of its words and these; the second word is a key
--        without its prefix. Two commands are the script's own: PUSH "" id puts a job into its lane,
--        COUNT "" field by changes a counter
-- Reply  how many fixes were made
--
-- Invariant: a fix is made only if all its checks hold now, whatever has happened since the audit.

local at = 1
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
    if class then push_tail(lane_of(class), id) end
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
