-- Taking running jobs out of the claims that hold them.

local let_go, let_go_of = {}, {} -- ids; token → how many
local flagged = {} -- ids that had a cancel request
local ends = {} -- of jobs that held limit keys (ends.lua)
local has_lost_keys = false -- whether one could not say which keys its worker had added

-- Notes that a job is not running any more; `save_released` writes it. The class is nil if its
-- record cannot be read.
local function release(id, token, class, had_flag)
  let_go[#let_go + 1] = id
  let_go_of[token] = (let_go_of[token] or 0) + 1
  if had_flag then flagged[#flagged + 1] = id end
  if class then class.let_go = (class.let_go or 0) + 1 end
end

local function tally_released()
  for _, class in pairs(classes) do
    if class and class.let_go then tally(field_of(class, RUNNING), -class.let_go) end
  end
end

-- Reads the claims that jobs leave: those that go on with fewer jobs, and the tokens of those
-- that end with their last one. A lease whose claim is lost stays until it is over, because it may
-- hold more jobs: the reaper looks for them.
local function read_released()
  local tokens, kept, ended = {}, {}, {}
  for token in pairs(let_go_of) do tokens[#tokens + 1] = token end
  for i, packed in ipairs(read('HMGET', CLAIMS, tokens)) do
    local token = tokens[i]
    if is_claim(packed) then
      local left = left_of(packed) - let_go_of[token]
      if left > 0 then
        kept[#kept + 1], kept[#kept + 2] = token, with_left(packed, left)
      else
        ended[#ended + 1] = token
      end
    end
  end
  return kept, ended
end

local function save_released(kept, ended)
  -- They are found among the holders that are none: the next round of heal.lua begins at once.
  if has_lost_keys and limited then call('HDEL', META, 'tidied') end
  each('HDEL', RUN, let_go)
  each('HSET', CLAIMS, kept)
  each('HDEL', CLAIMS, ended)
  for i = 1, #ended, CHUNK do
    try('ZREM', LEASES, unpack(ended, i, min(i + CHUNK - 1, #ended)))
  end
  each('SREM', CANCEL, flagged)
end
