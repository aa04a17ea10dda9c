-- Looks at a part of the namespace, or at all of it if it is small, for the audit.
--
-- KEYS   21 fixed keys
-- ARGV   what to look at, one of:
--        "all", the most items, and the names of the other keys of the namespace;
--        "scan", a fixed key without its prefix, a cursor, about how many items;
--        "shelf", the name of a shelf, a cursor, about how many entries;
--        "members" and "run", "due", "fin" or "bad", and the most items;
--        "ids" and ids; "in", the name of a lane, and ids;
--        "places", the name of an index of lanes, a cursor, about how many members; "lanes" and
--        the names of lanes with limit keys;
--        "keys" or "settings" (of limit keys), "", a cursor, about how many; "holders", a limit key,
--        a cursor, about how many; "types", a type, and names of keys: those of others are told
-- Reply  { now_ms, the next cursor or "large" if there are more items, about how many bytes were
--        read, and the parts of facts.lua }; hashes and sorted sets as flat lists, jobs by their
--        heads; of a shelf and of a small namespace `others` is name, type, content, …
--
-- Invariant: writes nothing, and looks at no more than it was asked for. Of an index only what has
-- no record is told: all about a job that has one is told with its record. Keys that came into
-- being after the names were listed are found by the counters and indexes that lead to them.

local what = ARGV[1]

local HASHES = {
  jobs = JOBS, att = ATT, fin = FIN, run = RUN, body = BODY, result = RESULT, history = HISTORY,
  log = LOG, whence = WHENCE, idem = IDEM, claims = CLAIMS,
}
local ZSETS = { due = DUE, bad = BAD, leases = LEASES }

local function numbered(from)
  local words = {}
  for i = from, #ARGV do words[#words + 1] = ARGV[i] end
  return words
end

-- The ids among these members.
local function ids_among(members, name)
  local ids, seen = {}, {}
  for _, id in ipairs(members) do
    if #id ~= 16 then
      add('strays', name, id)
    elseif not seen[id] then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  return ids
end

local function other(name, kind, content) add('others', name, kind, content) end

-- All keys without a fixed name, and what leads to them.
local function other_names()
  local names, known = {}, {}
  local function add_name(name)
    if not known[name] then
      known[name] = true
      names[#names + 1] = name
    end
  end
  for _, name in ipairs(numbered(3)) do add_name(name) end
  for i = 1, #found.ages, 2 do add_name(PREFIX .. found.ages[i]) end
  for i = 1, #found.count, 2 do
    local pair = string.match(found.count[i], '^([^/]+/[^/]+)/%a+$')
    if pair then
      for _, index in ipairs({ 'lanes:', 'parked:' }) do
        add_name(PREFIX .. index .. pair)
        local members = try('ZRANGE', PREFIX .. index .. pair, 0, -1)
        for _, member in ipairs(members.err and {} or members) do
          local keys = string.match(member, '^%d/(.+)$')
          if keys then
            add_name(PREFIX .. 'lane:' .. pair .. '/' .. member)
            add_name(PREFIX .. 'gone:' .. pair .. '/' .. member)
            for _, key in ipairs(split_keys(keys) or {}) do
              add_name(PREFIX .. 'waits:' .. pair .. ':' .. key)
            end
          end
        end
      end
      for priority = 0, 9 do
        add_name(PREFIX .. 'lane:' .. pair .. '/' .. priority)
        add_name(PREFIX .. 'gone:' .. pair .. '/' .. priority)
      end
    end
  end
  return names
end

local SIZES = { list = 'LLEN', set = 'SCARD', zset = 'ZCARD', hash = 'HLEN' }
local READERS = {
  list = function(key) return call('LRANGE', key, 0, -1) end,
  set = function(key) return call('SMEMBERS', key) end,
  zset = function(key) return call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  hash = function(key) return call('HGETALL', key) end,
}

local function look_at_all(most)
  local size = call('HLEN', COUNT) + call('ZCARD', AGES) + call('SCARD', CANCEL)
  for _, key in ipairs({ LIMITS, LIMITED, LIVE }) do size = size + call('HLEN', key) end
  for _, key in pairs(HASHES) do size = size + call('HLEN', key) end
  for _, key in pairs(ZSETS) do size = size + call('ZCARD', key) end
  if size > most then return answer('large', 0) end
  found.count, found.ages = counters(), call('ZRANGE', AGES, 0, -1, 'WITHSCORES')
  local names, kinds = other_names(), {}
  for _, name in ipairs(names) do
    kinds[name] = call('TYPE', name).ok
    local sizer = SIZES[kinds[name]]
    size = size + (sizer and call(sizer, name) or 0)
  end
  if size > most then return answer('large', 0) end
  for _, name in ipairs(names) do
    local reader = READERS[kinds[name]]
    other(name, kinds[name], reader and reader(name) or {})
    local key = string.match(sub(name, #PREFIX + 1), '^hold:(.*)$')
    if key and kinds[name] == 'set' then
      find_holders(key, call('SMEMBERS', name))
      add('running', key, call('SCARD', name))
    end
  end
  found.live = call('HGETALL', LIVE)
  found.limits = {
    call('HGETALL', LIMITS), call('HGETALL', LIMITED),
    call('ZRANGE', REOPEN, 0, -1, 'WITHSCORES'), limited or '', call('HGET', META, 'relook') or '',
  }
  local members = call('SMEMBERS', CANCEL)
  local ids, seen = {}, {}
  local function join(list, name)
    for _, id in ipairs(ids_among(list, name)) do
      if not seen[id] then
        seen[id] = true
        ids[#ids + 1] = id
      end
    end
  end
  join(members, 'cancel')
  for _, name in ipairs({ 'due', 'bad' }) do join(call('ZRANGE', ZSETS[name], 0, -1), name) end
  for name, key in pairs(HASHES) do
    if name ~= 'idem' and name ~= 'claims' then join(call('HKEYS', key), name) end
  end
  look_at(ids, true)
  found.idem, found.subjects = call('HGETALL', IDEM), {}
  local tokens, have = call('HKEYS', CLAIMS), {}
  for _, token in ipairs(tokens) do have[token] = true end
  for _, token in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    if not have[token] then tokens[#tokens + 1] = token end
  end
  look_at_claims(tokens)
  add('stale', call('HGET', META, 'stale') or '')
  return answer('', size)
end

-- The members of a page, and for those of `idem` what they lead to.
local function page_of(name, cursor, count)
  if HASHES[name] then
    local page = call('HSCAN', HASHES[name], cursor, 'COUNT', count)
    local members, values, bytes = {}, {}, 0
    for i = 1, #page[2], 2 do
      members[#members + 1], values[#values + 1] = page[2][i], page[2][i + 1]
      bytes = bytes + #page[2][i + 1]
    end
    return page[1], members, values, bytes
  end
  if name == 'cancel' then
    local page = call('SSCAN', CANCEL, cursor, 'COUNT', count)
    return page[1], page[2], {}, 0
  end
  local page = call('ZSCAN', ZSETS[name], cursor, 'COUNT', count)
  local members = {}
  for i = 1, #page[2], 2 do members[#members + 1] = page[2][i] end
  return page[1], members, {}, 0
end

local function without_record(ids)
  local left = {}
  for _, id in ipairs(ids) do
    if call('HEXISTS', JOBS, id) == 0 then left[#left + 1] = id end
  end
  return left
end

-- Keys that lead to no record, or to one that has another key.
local function odd_keys(keys, ids)
  local odd = {}
  for i, record in ipairs(read('HMGET', JOBS, ids)) do
    local class = record and class_of(record)
    if not record or class and key_of(record, class) ~= keys[i] then
      add('idem', keys[i], ids[i])
      if #ids[i] == 16 then odd[#odd + 1] = ids[i] end
    end
  end
  return odd
end

local function scan(name, cursor, count)
  local next_cursor, members, values, bytes = page_of(name, cursor, count)
  if name == 'claims' then
    look_at_claims(members)
    for _, packed in ipairs(values) do bytes = bytes + 16 * #packed end
  elseif name == 'leases' then
    local tokens = {}
    for _, token in ipairs(members) do
      if call('HEXISTS', CLAIMS, token) == 0 then tokens[#tokens + 1] = token end
    end
    look_at_claims(tokens)
  elseif name == 'idem' then
    look_at(odd_keys(members, values))
  elseif name == 'jobs' then
    look_at(ids_among(members, name))
  else
    look_at(without_record(ids_among(members, name)))
  end
  return answer(next_cursor, bytes)
end

-- Whether a finished job is what the tag says of the entry that it is in.
local function is_as_tagged(record, class, fin, kind)
  return class.pair == class.queue .. '/' .. kind
    and not (class.apart or key_of(record, class) or has_result_apart(fin))
end

-- Which of these ids, of one entry of a shelf, are not where they should be, or may be not.
local function odd_on_shelf(ids, shelf, expiry, kind)
  local odd, fins = {}, read('HMGET', FIN, ids)
  for i, record in ipairs(read('HMGET', JOBS, ids)) do
    local class, fin = record and class_of(record), fins[i]
    local is_plain = class and not class.at_least and fin and fin_state(fin) ~= QUARANTINED
    local places = is_plain and resting_places(record, class, fin)
    if
      not places
      or places[1] ~= shelf
      or places[2] ~= expiry
      or kind and not is_as_tagged(record, class, fin, kind)
    then
      odd[#odd + 1] = ids[i]
    end
  end
  return odd
end

local function look_at_shelf(name, cursor, count)
  local page = try('ZSCAN', PREFIX .. name, cursor, 'COUNT', count)
  if page.err then return answer('0', 0) end
  local no_ids, members, bytes = {}, {}, 0
  for i = 1, #page[2], 2 do
    local entry, expiry = page[2][i], tonumber(page[2][i + 1])
    local ids_bytes, kind = read_entry(entry)
    local ids = split_ids(sub(entry, 1, ids_bytes))
    if #ids == 0 then no_ids[#no_ids + 1], no_ids[#no_ids + 2] = entry, page[2][i + 1] end
    for _, id in ipairs(odd_on_shelf(ids, name, expiry, kind)) do
      members[#members + 1] = id
      add('shelved', id, name, page[2][i + 1], entry)
    end
    bytes = bytes + #entry
  end
  other(PREFIX .. name, 'zset', no_ids)
  look_at(ids_among(members, name))
  return answer(page[1], 64 * bytes)
end

local function look_at_members(name, most)
  local key = HASHES[name] or ZSETS[name]
  if call(HASHES[name] and 'HLEN' or 'ZCARD', key) > most then return answer('large', 0) end
  found.count = counters()
  local members = HASHES[name] and call('HKEYS', key) or call('ZRANGE', key, 0, most - 1)
  look_at(ids_among(members, name))
  return answer('', 0)
end

local function look_at_index(name, cursor, count)
  local page = try('ZSCAN', PREFIX .. name, cursor, 'COUNT', count)
  if page.err then
    other(PREFIX .. name, call('TYPE', PREFIX .. name).ok, {})
    return answer('0', 0)
  end
  local pair = string.match(name, '^[^:]*:(.*)$')
  for i = 1, #page[2], 2 do
    local member = page[2][i]
    if byte(member) == 64 then -- "@"
      look_at_shown(pair, sub(member, 2))
    elseif not string.find(member, '^%d$') then
      look_at_place(pair, member)
    end
  end
  tell_places()
  return answer(page[1], 0)
end

local function look_at_lanes()
  for _, lane in ipairs(numbered(2)) do
    local pair, index = string.match(lane, '^([^/]+/[^/]+)/(.+)$')
    if pair then look_at_place(pair, index) end
  end
  tell_places()
  return answer('', 0)
end

local function look_at_limits(key, cursor, count)
  local page = call('HSCAN', key, cursor, 'COUNT', count)
  local names = {}
  for i = 1, #page[2], 2 do names[#names + 1] = page[2][i] end
  look_at_keys_of(names)
  return answer(page[1], 0)
end

local function look_at_holders(key, cursor, count)
  local page = try('SSCAN', PREFIX .. 'hold:' .. key, cursor, 'COUNT', count)
  if page.err then
    add('others', PREFIX .. 'hold:' .. key, call('TYPE', PREFIX .. 'hold:' .. key).ok, {})
    return answer('0', 0)
  end
  find_holders(key, page[2])
  return answer(page[1], 0)
end

local function look_at_types(kind)
  for _, name in ipairs(numbered(3)) do
    local found_kind = call('TYPE', PREFIX .. name).ok
    if found_kind ~= kind then other(PREFIX .. name, found_kind, {}) end
  end
  return answer('', 0)
end

if what == 'types' then return look_at_types(ARGV[2]) end
if what == 'places' then return look_at_index(ARGV[2], ARGV[3], ARGV[4]) end
if what == 'lanes' then return look_at_lanes() end
if what == 'keys' then return look_at_limits(LIMITED, ARGV[3], ARGV[4]) end
if what == 'settings' then return look_at_limits(LIMITS, ARGV[3], ARGV[4]) end
if what == 'holders' then return look_at_holders(ARGV[2], ARGV[3], ARGV[4]) end
if what == 'all' then return look_at_all(tonumber(ARGV[2])) end
if what == 'scan' then return scan(ARGV[2], ARGV[3], ARGV[4]) end
if what == 'shelf' then return look_at_shelf(ARGV[2], ARGV[3], ARGV[4]) end
if what == 'members' then return look_at_members(ARGV[2], tonumber(ARGV[3])) end
if what == 'in' then
  local ids = numbered(3)
  look_at_stale(ARGV[2], ids)
  look_at(ids)
  return answer('', 0)
end
look_at(numbered(2))
return answer('', 0)
