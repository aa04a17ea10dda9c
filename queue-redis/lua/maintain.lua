-- T3, T11 and T16: promotes due jobs, reaps expired claims, drops finished records.
--
-- KEYS   21 fixed keys
-- ARGV   the budget of each
-- Reply  { promoted, reaped, crash loops, dropped, more, ids that cannot be decoded (joined),
--        queue, how many of those reaped are of it, … }
--
-- Invariant: a claim is reaped as a whole and only after its end; each of its jobs goes to the
-- head of its lane (descending by id, so that the lane ends up ascending), or is finished. Of
-- leases whose claims are lost the jobs are found by a sweep over all running ones. Of limit keys
-- that nothing is to be remembered of any more nothing is left in the end.

local SHELVES_MAX = 500
local budget = tonumber(ARGV[1])

-- What is written later and not read on the way is looked at now.
call('ZCARD', LEASES)
for _, key in ipairs({ CLAIMS, RUN, COUNT, PREFIX .. 'limits', PREFIX .. 'limited' }) do call('HLEN', key) end
call('SCARD', CANCEL)
check_forget()
local promoted, more = promote(budget)
if look_at_keys() then more = true end

local reaped, crash_loops = 0, 0
local new_atts, postponed, lost, lapsed = {}, {}, {}, {}
local reaped_of = {} -- by queue

local function back_to_lane(id, class, att)
  local lane = lane_of(class)
  if lane.sound then
    push_head(lane, id)
  else
    wait_until(now + PARKED_MS, id, class.pair)
    tally(field_of(class, att.failures > 0 and RETRYING or SCHEDULED), 1)
  end
end

-- Takes one job back from its lapsed claim.
local function reap_job(id, run, record, token, worker, packed_att, asked)
  local head = run
  local class, head_bytes = class_of(head, IN_RUN)
  local keys = class and held_keys(run, class, head_bytes)
  if not class then
    -- What `run` holds is a copy.
    head = record or ''
    class = class_of(head)
    keys = class and class.keys
    has_lost_keys = true
  end
  if not class then
    lost[#lost + 1] = id
    if asked then flagged[#flagged + 1] = id end
    if head ~= '' then quarantine(id) end
    return
  end
  reaped_of[class.queue] = (reaped_of[class.queue] or 0) + 1
  release(id, token, class, asked)
  if keys then ends[#ends + 1] = { id = id, keys = keys, token = token } end
  local att = parse_att(packed_att) or new_att(record)
  att.stalls = min(att.stalls + 1, 255)
  local is_kept = true
  if asked then
    is_kept = finish(id, head, class, CANCELLED, 0)
  elseif att.stalls >= class.max_stalls then
    is_kept = finish(id, head, class, DEAD, CRASH_LOOP)
    crash_loops = crash_loops + 1
  else
    back_to_lane(id, class, att)
  end
  if is_kept then
    new_atts[#new_atts + 1], new_atts[#new_atts + 2] = id, pack_att(att)
    note(id, att.failures + 1, worker, nil, '')
  end
end

-- Takes the jobs of one token back; `runs_of` has what `run` says of each.
local function reap_jobs(token, ids, runs_of, worker)
  sort_ids(ids)
  local records, atts = read('HMGET', JOBS, ids), read('HMGET', ATT, ids)
  local flags = call('SCARD', CANCEL) > 0 and read('SMISMEMBER', CANCEL, ids) or {}
  for i = #ids, 1, -1 do
    reap_job(ids[i], runs_of[ids[i]], records[i], token, worker, atts[i], flags[i] == 1)
    reaped = reaped + 1
  end
end

-- Whether an entry of `run` names no claim that is there.
local function is_nobodys(run) return not is_claim(call('HGET', CLAIMS, sub(run, 1, 16))) end

local function reap_claim(token, packed)
  local all, ids, runs_of = ids_of(packed), {}, {}
  for i, run in ipairs(read('HMGET', RUN, all)) do
    if run and (sub(run, 1, 16) == token or is_nobodys(run)) then
      ids[#ids + 1] = all[i]
      runs_of[all[i]] = run
    end
  end
  lapsed[#lapsed + 1] = token
  reap_jobs(token, ids, runs_of, worker_of(packed))
end

-- Leases whose claims are lost do not say which jobs they hold, so all running jobs are looked
-- through for jobs without a claim, one page a call: `sweep` in META is when that began and where
-- it goes on. The leases that were over when it began end with it.
local sweep = nil -- what to write: false for nothing any more

local function sweep_running(orphaned)
  local began_ms, cursor = string.match(call('HGET', META, 'sweep') or '', '^(%d+):(%d+)$')
  began_ms, cursor = tonumber(began_ms) or now, cursor or '0'
  local page = call('HSCAN', RUN, cursor, 'COUNT', budget)
  local tokens, ids_by, runs_of = {}, {}, {}
  for i = 1, #page[2], 2 do
    local id, run = page[2][i], page[2][i + 1]
    local token = sub(run, 1, 16)
    if #id == 16 then
      if not ids_by[token] then
        tokens[#tokens + 1] = token
        ids_by[token] = {}
      end
      table.insert(ids_by[token], id)
      runs_of[id] = run
    end
  end
  local ends = read('ZMSCORE', LEASES, tokens)
  for i, token in ipairs(tokens) do
    local is_over = not ends[i] or tonumber(ends[i]) <= now
    if is_over and not is_claim(call('HGET', CLAIMS, token)) then
      reap_jobs(token, ids_by[token], runs_of, '')
    end
  end
  if page[1] ~= '0' then
    sweep = string.format('%.0f:%s', began_ms, page[1])
    more = true
    return
  end
  sweep = false
  for i = 1, #orphaned, 2 do
    if orphaned[i + 1] <= began_ms then
      lapsed[#lapsed + 1] = orphaned[i]
    else
      more = true
    end
  end
end

do -- or there would be more locals than a function may have
  local orphaned = {} -- tokens of leases without a claim, and their ends
  local tokens = call('ZRANGE', LEASES, '-inf', now, 'BYSCORE', 'LIMIT', 0, budget + 1, 'WITHSCORES')
  for i = 1, #tokens, 2 do
    local token = tokens[i]
    if reaped >= budget or i > 2 * budget then
      more = true
      break
    end
    local packed = call('HGET', CLAIMS, token)
    if #token ~= 16 then
      -- Not a token: no job can run under it. It is put off for an hour.
      postponed[#postponed + 1], postponed[#postponed + 2] = now + 3600000, token
    elseif is_claim(packed) then
      reap_claim(token, packed)
    else
      orphaned[#orphaned + 1], orphaned[#orphaned + 2] = token, tonumber(tokens[i + 1])
    end
  end
  if #orphaned > 0 then
    if reaped < budget then sweep_running(orphaned) else more = true end
  end
end

do -- a script may have 200 locals
  tally_lanes()
  tally_released()
  local counts = read_tallies()
  check_finish(counts)
  local histories = read_history()
  if #ends > 0 then plan_ends() end
  save_tallies(counts)
  save_released({}, lapsed) -- whole claims end, even those that hold nothing
  each('HDEL', RUN, lost)
  save_quarantined()
  each('HSET', HISTORY, histories)
  each('ZADD', LEASES, postponed)
  if sweep then call('HSET', META, 'sweep', sweep) end
  if sweep == false then call('HDEL', META, 'sweep') end
  each('HSET', ATT, new_atts)
  if new_atts[1] then widen(ATT, 16) end
  save_finished()
  save_due()
  save_lanes()
  if #ends > 0 then limits().save() end
  trim_shelves(counts)
end

-- The shelves by queue, and of a queue in this order.
local RANKS = { held = 1, done = 2, void = 3, dead = 4 }
local function before(a, b)
  if sub(a, 6) ~= sub(b, 6) then return is_before(sub(a, 6), sub(b, 6)) end
  return RANKS[sub(a, 1, 4)] < RANKS[sub(b, 1, 4)]
end

-- The shelves with something to drop. The budget is that of all of them together.
local ages, due_shelves, size_of = call('ZRANGE', AGES, 0, SHELVES_MAX - 1, 'WITHSCORES'), {}, {}
local names = {}
for i = 1, #ages, 2 do names[#names + 1] = ages[i] end
for i, size in ipairs(read('HMGET', COUNT, names)) do
  local shelf = names[i]
  size_of[shelf] = tonumber(size or nil) or 0
  if not RANKS[sub(shelf, 1, 4)] then
    call('ZREM', AGES, shelf) -- not a shelf
  elseif tonumber(ages[2 * i]) <= now or size_of[shelf] > FINISHED_MAX then
    due_shelves[#due_shelves + 1] = shelf
  end
end
table.sort(due_shelves, before)

local handled, dropped = 0, 0
local function drop(shelf, most, horizon_ms)
  local count, gone, rest = drop_from(shelf, min(most, budget - handled), horizon_ms)
  handled, dropped = handled + count, dropped + gone
  return count, rest
end

for i, shelf in ipairs(due_shelves) do
  local count, rest = drop(shelf, budget, now)
  local kind, queue = sub(shelf, 1, 4), sub(shelf, 6)
  local size = size_of[shelf]
  if kind == 'held' then
    -- What was held for its key may have joined a shelf whose time has not come.
    local done = 'done:' .. queue
    local counts_now = tonumber(call('HGET', COUNT, done) or nil) or 0
    size_of[done] = counts_now + (tallies[done] or 0)
    local is_listed = due_shelves[i + 1] == done
    if not is_listed and size_of[done] > FINISHED_MAX then
      table.insert(due_shelves, i + 1, done)
    end
  else
    local over = size - count - FINISHED_MAX
    if over > 0 and not rest then
      count = drop(shelf, over, TIME_MAX)
      rest = count < over
    end
  end
  more = more or rest
end
save_tallies(read_tallies())

if limited then
  if make_healer()() then more = true end
elseif call('EXISTS', PREFIX .. 'limits', PREFIX .. 'limited', PREFIX .. 'reopen') > 0 then
  call('HSET', META, 'limits', 1) -- somebody has lost that
end
look_for_rare()
save_meta()
local counted = {}
for queue, count in pairs(reaped_of) do
  counted[#counted + 1], counted[#counted + 2] = queue, count
end
return { promoted, reaped, crash_loops, dropped, more and 1 or 0, concat(new_bad), counted }
