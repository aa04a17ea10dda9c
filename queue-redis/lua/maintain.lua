-- T3, T11 and T16: promotes due jobs, reaps expired claims, drops finished records.
--
-- KEYS   13 fixed keys
-- ARGV   the budget of each
-- Reply  { promoted, reaped, crash loops, dropped, more, ids that cannot be decoded (joined) }
--
-- Invariant: a claim is reaped as a whole and only after its end; each of its jobs goes to the
-- head of its lane (descending by id, so that the lane ends up ascending), or is finished.

local POSTPONED_MS = 3600000
local budget = tonumber(ARGV[1])

-- What is written later and not read on the way is looked at now.
call('ZCARD', LEASES)
call('HLEN', CLAIMS)
call('HLEN', RUN)
call('HLEN', ATT)
call('SCARD', CANCEL)
call('SCARD', BAD)
local promoted, more, bad = promote(budget)

local reaped, crash_loops = 0, 0
local new_atts, new_bad, postponed, lost, lapsed = {}, {}, {}, {}, {}

local function back_to_lane(id, class, att)
  local lane = lane_of(class)
  if lane.sound then
    push_head(lane, id)
  else
    wait_until(now + 60000, id, class.pair)
    tally(field_of(class, att.failures > 0 and RETRYING or SCHEDULED), 1)
  end
end

-- Takes one job back from its lapsed claim.
local function reap_job(id, run, token, packed_att, asked)
  local class = class_of(run, 16)
  if not class then
    new_bad[#new_bad + 1], lost[#lost + 1] = id, id
    return
  end
  release(id, token, class, asked)
  local att = parse_att(packed_att) or new_att(run, 16)
  att.stalls = min(att.stalls + 1, 255)
  local kept_s = class.completed_s
  if asked then
    finish(id, run, 16, class, CANCELLED, 0)
  elseif att.stalls >= class.max_stalls then
    finish(id, run, 16, class, DEAD, CRASH_LOOP)
    crash_loops = crash_loops + 1
    kept_s = class.dead_s
  else
    back_to_lane(id, class, att)
    kept_s = 1
  end
  if kept_s > 0 then new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att) end
end

local function reap_claim(token, packed)
  local all, ids, runs_of = ids_of(packed), {}, {}
  for i, run in ipairs(read('HMGET', RUN, all)) do
    if run and sub(run, 1, 16) == token then
      ids[#ids + 1] = all[i]
      runs_of[all[i]] = run
    end
  end
  lapsed[#lapsed + 1] = token
  sort_ids(ids)
  local atts = read('HMGET', ATT, ids)
  local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ids) or {}
  for i = #ids, 1, -1 do
    reap_job(ids[i], runs_of[ids[i]], token, atts[i], flags[i] == 1)
    reaped = reaped + 1
  end
end

local tokens = call('ZRANGE', LEASES, '-inf', now, 'BYSCORE', 'LIMIT', 0, budget + 1)
for i, token in ipairs(tokens) do
  if reaped >= budget or i > budget then
    more = true
    break
  end
  local packed = call('HGET', CLAIMS, token)
  if is_claim(packed) and #token == 16 then
    reap_claim(token, packed)
  else
    postponed[#postponed + 1], postponed[#postponed + 2] = now + POSTPONED_MS, token
  end
end

tally_lanes()
tally_released()
check_finish()
local counts = read_tallies()
save_tallies(counts)
save_released({}, lapsed) -- whole claims end, even those that hold nothing
each('HDEL', RUN, lost)
each('SADD', BAD, new_bad)
each('ZADD', LEASES, postponed)
each('HSET', ATT, new_atts)
save_finished()
save_due()
save_lanes()
trim_shelves(counts)

-- The shelves by queue (bytewise), done before dead.
local function before(a, b)
  local queue_a, queue_b = sub(a, 6), sub(b, 6)
  for i = 1, min(#queue_a, #queue_b) do
    local x, y = byte(queue_a, i), byte(queue_b, i)
    if x ~= y then return x < y end
  end
  if #queue_a ~= #queue_b then return #queue_a < #queue_b end
  return byte(a, 2) == 111 and byte(b, 2) ~= 111 -- "do" before "de"
end

local shelves = call('ZRANGE', AGES, 0, 499)
local sizes = read('HMGET', COUNT, shelves)
local size_of = {}
for i, shelf in ipairs(shelves) do size_of[shelf] = tonumber(sizes[i] or nil) or 0 end
table.sort(shelves, before)
local dropped = 0
for _, shelf in ipairs(shelves) do
  local count, rest = drop_from(shelf, budget - dropped, now)
  local over = size_of[shelf] - count - FINISHED_MAX
  dropped = dropped + count
  if over > 0 and not rest then
    count = drop_from(shelf, min(over, budget - dropped), TIME_MAX)
    dropped = dropped + count
    rest = count < over
  end
  more = more or rest
end
save_tallies(read_tallies())
save_meta()
for _, id in ipairs(new_bad) do bad[#bad + 1] = id end
return { promoted, reaped, crash_loops, dropped, more and 1 or 0, concat(bad) }
