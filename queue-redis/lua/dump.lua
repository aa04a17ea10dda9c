-- Reads everything but payloads and large results, for the audit.
--
-- KEYS   15 fixed keys
-- ARGV   the names of the other keys of the namespace
-- Reply  { jobs, att, fin, run, claims, leases, cancel, due, idem, count, ages, bad, meta,
--          ids of bodies, ids of results, { name, type, content, … } }; hashes and zsets as flat
--          lists, jobs by their heads
--
-- Invariant: writes nothing.

local jobs = call('HGETALL', JOBS)
for i = 2, #jobs, 2 do
  local class, head_bytes = class_of(jobs[i], 0)
  jobs[i] = class and sub(jobs[i], 1, head_bytes) or ''
end

local READERS = {
  list = function(key) return call('LRANGE', key, 0, -1) end,
  zset = function(key) return call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  hash = function(key) return call('HGETALL', key) end,
}
local others = {}
for i = 1, #ARGV do
  local kind = call('TYPE', ARGV[i]).ok
  local reader = READERS[kind]
  others[#others + 1], others[#others + 2] = ARGV[i], kind
  others[#others + 1] = reader and reader(ARGV[i]) or {}
end

return {
  jobs, call('HGETALL', ATT), call('HGETALL', FIN), call('HGETALL', RUN), call('HGETALL', CLAIMS),
  call('ZRANGE', LEASES, 0, -1, 'WITHSCORES'), call('SMEMBERS', CANCEL),
  call('ZRANGE', DUE, 0, -1, 'WITHSCORES'), call('HGETALL', IDEM), call('HGETALL', COUNT),
  call('ZRANGE', AGES, 0, -1, 'WITHSCORES'), call('SMEMBERS', BAD), call('HGETALL', META),
  call('HKEYS', BODY), call('HKEYS', RESULT), others,
}
