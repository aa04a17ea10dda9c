-- T17: jobs that cannot be decoded. BAD has their ids by the time at which they were met, WHENCE
-- the `<queue>/<kind>` that each is counted under, or nothing. Their bytes stay where they are.

local new_bad, met_bad = {}, {} -- ids of this call
local loosened = false
local bad_args, whence_args = {}, {}

-- Notes that a job is quarantined; `save_quarantined` writes it. The caller takes it out of the
-- index in which it was met.
local function quarantine(id, pair)
  if met_bad[id] then return end
  met_bad[id] = true
  local known = call('ZSCORE', BAD, id)
  local whence = call('HGET', WHENCE, id)
  if known and (whence or '') ~= '' then return end
  if pair then tally(pair .. '/quarantined', 1) end
  if not known then
    bad_args[#bad_args + 1], bad_args[#bad_args + 2] = now, id
    new_bad[#new_bad + 1] = id
  end
  whence_args[#whence_args + 1], whence_args[#whence_args + 2] = id, pair or ''
end

-- Notes that a ticket of a quarantined job may be left in a lane: claims look twice from now on.
local function set_loose() loosened = true end

local function save_quarantined()
  if loosened then call('HSET', META, 'loose', 1) end
  each('ZADD', BAD, bad_args)
  each('HSET', WHENCE, whence_args)
  bad_args, whence_args = {}, {}
end
