-- Reads everything but payloads, large results and logs, for the audit.
--
-- KEYS   18 fixed keys
-- ARGV   the names of the other keys of the namespace
-- Reply  { now_ms, jobs, att, fin, run, claims, leases, cancel, due, idem, count, ages, bad, whence,
--          meta, ids of bodies, of results, of histories, of logs, { name, type, content, … } };
--          hashes and zsets as flat lists, jobs by their heads
--
-- Invariant: writes nothing. Keys that came into being after ARGV was made are found by the
-- counters and indexes that lead to them.

local jobs = call('HGETALL', JOBS)
for i = 2, #jobs, 2 do
  local class, head_bytes = class_of(jobs[i], 0)
  jobs[i] = class and sub(jobs[i], 1, head_bytes) or ''
end
local counts, ages = call('HGETALL', COUNT), call('ZRANGE', AGES, 0, -1, 'WITHSCORES')

local names, known = {}, {}
local function add(name)
  if not known[name] then
    known[name] = true
    names[#names + 1] = name
  end
end
for _, name in ipairs(ARGV) do add(name) end
for i = 1, #ages, 2 do add(PREFIX .. ages[i]) end
for i = 1, #counts, 2 do
  local pair = string.match(counts[i], '^([^/]+/[^/]+)/%a+$')
  if pair then
    add(PREFIX .. 'lanes:' .. pair)
    for priority = 0, 9 do
      add(PREFIX .. 'lane:' .. pair .. '/' .. priority)
      add(PREFIX .. 'gone:' .. pair .. '/' .. priority)
    end
  end
end

local READERS = {
  list = function(key) return call('LRANGE', key, 0, -1) end,
  zset = function(key) return call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  hash = function(key) return call('HGETALL', key) end,
}
local others = {}
for _, name in ipairs(names) do
  local kind = call('TYPE', name).ok
  local reader = READERS[kind]
  others[#others + 1], others[#others + 2] = name, kind
  others[#others + 1] = reader and reader(name) or {}
end

return {
  now, jobs, call('HGETALL', ATT), call('HGETALL', FIN), call('HGETALL', RUN),
  call('HGETALL', CLAIMS), call('ZRANGE', LEASES, 0, -1, 'WITHSCORES'), call('SMEMBERS', CANCEL),
  call('ZRANGE', DUE, 0, -1, 'WITHSCORES'), call('HGETALL', IDEM), counts, ages, call('ZRANGE', BAD, 0, -1),
  call('HGETALL', WHENCE), call('HGETALL', META), call('HKEYS', BODY), call('HKEYS', RESULT),
  call('HKEYS', HISTORY), call('HKEYS', LOG), others,
}
