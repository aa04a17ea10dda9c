-- Limit keys are put right and forgotten a page a call, without anybody's asking.
--
-- A *round* looks first at all keys of which something is remembered. What cannot count any more is
-- forgotten, holders that are none are dropped (a job whose entry of `run` was damaged cannot say
-- what it let go of), and who has room is shown. Then it looks at the lanes that are parked: one
-- that waits nowhere gets its place back, and a key that knows nothing of who waits for it learns
-- it. `tidied` in META is where the round goes on, see `place_of_round`; or "t" and when the last
-- one was over. Without it, the next one begins at once: whoever meets damage removes it.
--
-- A set of holders of a wrong type closes its key (limits.lua). Its holders are gathered anew from
-- all running jobs, in `mend:<key>`, which takes its place in the end: the key is never open with
-- fewer holders than it has. `mending` in META is how far that is, and the key.

local function make_healer()
  local NAMES_MAX, HOLDERS_MAX, PARKED_LANES_MAX, RUNS_MAX, PAGE = 100, 500, 250, 500, 100
  local AGAIN_MS = 10000 -- between two rounds

  local engine = limits()

  local function cursor_of(text)
    return text and text ~= '' and #text <= CURSOR_BYTES_MAX and text or '0'
  end

  -- Where the round is: "p" once it looks at lanes, the cursor of a page of keys or of counters, "!"
  -- once it has changed something, and within that page the cursor of holders or of parked lanes, and
  -- of what. Nil while the last round has just been over.
  local function place_of_round()
    local note = call('HGET', META, 'tidied') or ''
    local over_ms = tonumber(string.match(note, '^t(%d+)$') or nil)
    if over_ms and over_ms <= now and over_ms + AGAIN_MS > now then return nil end
    local phase, cursor, mark, inner, name = string.match(note, '^(p?)(%d+)(!?) ?(%d*) ?(.*)$')
    return {
      looks_at_lanes = phase == 'p', cursor = cursor_of(cursor), has_changed = mark == '!',
      inner = cursor_of(inner), name = name or '',
    }
  end

  local function save_place_of(at)
    local note = (at.looks_at_lanes and 'p' or '') .. at.cursor .. (at.has_changed and '!' or '')
    if at.name ~= '' then note = note .. ' ' .. at.inner .. ' ' .. at.name end
    call('HSET', META, 'tidied', note)
  end

  -- Goes on through sets of these names, in the order of their bytes, page by page: `see(name,
  -- cursor)` looks at a page, and answers the next cursor and how many members it had. Answers
  -- whether it got through.
  local function walk(at, names, most, see)
    table.sort(names, is_before)
    for _, name in ipairs(names) do
      if not is_before(name, at.name) then
        local cursor = name == at.name and at.inner or '0'
        repeat
          if most <= 0 then
            at.inner, at.name = cursor, name
            return false
          end
          local count
          cursor, count = see(name, cursor)
          most = most - count
        until cursor == '0'
      end
    end
    at.inner, at.name = '0', ''
    return true
  end

  -- Begins to gather the holders of a key, unless those of another one are being gathered.
  local function mend(name)
    call('HSETNX', META, 'mending', '0 ' .. name)
  end

  -- Looks at a page of a key's holders; those that are none are dropped with the keys' writes.
  local function see_holders(at, name, cursor)
    local page = try('SSCAN', PREFIX .. 'hold:' .. name, cursor, 'COUNT', PAGE)
    if page.err then
      mend(name)
      return '0', 1
    end
    local key = engine.get(name)
    for _, id in ipairs(strays_among(name, page[2])) do
      key.dropped[#key.dropped + 1] = id
      at.has_changed = true
    end
    return page[1], #page[2]
  end

  -- Looks at a page of keys; answers whether it was the last one.
  local function look_at_keys_of(at)
    local is_through
    local cursor, forgotten = engine.look_at_some(at.cursor, NAMES_MAX, function(names)
      local used = {}
      for _, name in ipairs(names) do
        local key = engine.get(name)
        -- Where nobody waits, a stray keeps nobody out.
        if #key.pairs > 0 or key.open and key.open.probe then used[#used + 1] = name end
      end
      is_through = walk(at, used, HOLDERS_MAX, function(name, from)
        return see_holders(at, name, from)
      end)
    end)
    if forgotten > 0 then at.has_changed = true end
    if is_through then at.cursor = cursor end
    return is_through and cursor == '0'
  end

  -- Looks at a page of the parked lanes of a pair: notes those that wait nowhere as `lost`, and
  -- the keys at which the others wait in `waits`.
  local function see_parked(pair, cursor, lost, waits)
    local parked = PREFIX .. 'parked:' .. pair
    local page = try('ZSCAN', parked, cursor, 'COUNT', PAGE)
    if page.err then
      try('UNLINK', parked) -- of a wrong type: those that wait are found by their keys
      return '0', 1
    end
    for i = 1, #page[2], 2 do
      local index, is_found = page[2][i], false
      local keys = split_keys(string.match(index, '^%d/(.+)$') or '')
      for _, key in ipairs(keys or {}) do
        local name = PREFIX .. 'waits:' .. pair .. ':' .. key
        local score = try('ZSCORE', name, index)
        if type(score) == 'table' then
          try('UNLINK', name) -- of a wrong type: what should wait there is lost, and found
        elseif score then
          is_found = true
          waits[key] = waits[key] or {}
          waits[key][pair] = true
        end
      end
      if keys and not is_found then
        lost[#lost + 1] = { pair = pair, index = index, keys = keys, score = page[2][i + 1] }
      end
    end
    return page[1], #page[2] / 2
  end

  -- Gives a lane back its place among those that claims meet. If it has no room, a claim parks it.
  local function place_again(lane)
    if type(try('ZCARD', PREFIX .. 'lanes:' .. lane.pair)) ~= 'number' then return false end
    local priority = tonumber(sub(lane.index, 1, 1))
    local least, score = priority * 2 ^ 48, tonumber(lane.score) or 0
    lane.priority, lane.live, lane.parked = priority, 1, true
    lane.turn = floor(score / 2 ^ 48) == priority and score - least or 0
    save_place(lane)
    wake(lane.pair)
    return true
  end

  -- Whoever waits at a key is known to it, or shown to claims; answers whether that was so.
  local function let_know(waits)
    local names, has_changed = {}, false
    for name in pairs(waits) do names[#names + 1] = name end
    table.sort(names, is_before)
    engine.load(names)
    for _, name in ipairs(names) do
      local key = engine.get(name)
      for pair in pairs(waits[name]) do
        local index = PREFIX .. 'lanes:' .. pair
        if not key.waits[pair] and try('ZSCORE', index, '@' .. name) == false then
          engine.wait_for(key, pair)
          key.may_open, has_changed = true, true
        end
      end
    end
    if has_changed then engine.save() end
    return has_changed
  end

  -- Looks at a page of queues and kinds; answers whether it was the last one.
  local function look_at_lanes_of(at)
    local page = call('HSCAN', COUNT, at.cursor, 'COUNT', NAMES_MAX)
    local names, lost, waits = {}, {}, {}
    for i = 1, #page[2], 2 do
      names[#names + 1] = string.match(page[2][i], '^([a-z0-9_.-]+/[a-z0-9_.-]+)/ready$')
    end
    local is_through = walk(at, names, PARKED_LANES_MAX, function(pair, cursor)
      return see_parked(pair, cursor, lost, waits)
    end)
    for _, lane in ipairs(lost) do
      if place_again(lane) then at.has_changed = true end
    end
    if let_know(waits) then at.has_changed = true end
    if is_through then at.cursor = page[1] end
    return is_through and page[1] == '0'
  end

  -- A page of the round, or its end; answers whether to go on at once.
  local function go_round()
    local at = place_of_round()
    if not at then return false end
    local is_over = false
    if not at.looks_at_lanes then at.looks_at_lanes = look_at_keys_of(at) end
    if at.looks_at_lanes then is_over = look_at_lanes_of(at) end
    if not is_over then
      save_place_of(at)
      return at.has_changed
    end
    call('HSET', META, 'tidied', string.format('t%.0f', now))
    if call('EXISTS', PREFIX .. 'limits', PREFIX .. 'limited', PREFIX .. 'reopen') == 0 then
      call('HDEL', META, 'limits', 'tidied')
    end
    return false
  end

  -- Gathers a page of the holders of a key whose set is of a wrong type; answers whether to go on at
  -- once.
  local function gather()
    local note = call('HGET', META, 'mending')
    if not note then return false end
    local cursor, name = string.match(note, '^(%d+) (.+)$')
    local keys = name and split_keys(name)
    local hold, gathered = PREFIX .. 'hold:' .. (name or ''), PREFIX .. 'mend:' .. (name or '')
    if not keys or #keys > 1 or type(try('SCARD', hold)) == 'number' then
      -- Not what this program notes, or somebody has mended it by hand.
      call('HDEL', META, 'mending')
      if keys then try('UNLINK', gathered) end
      return false
    end
    local page = call('HSCAN', RUN, cursor_of(cursor), 'COUNT', RUNS_MAX)
    local ids = holders_among(page[2], name)
    if type(try('SCARD', gathered)) ~= 'number' then try('UNLINK', gathered) end
    each('SADD', gathered, ids)
    if page[1] ~= '0' then
      call('HSET', META, 'mending', page[1] .. ' ' .. name)
      return true
    end
    try('SUNIONSTORE', hold, gathered)
    try('UNLINK', gathered)
    call('HDEL', META, 'mending', 'tidied') -- there may be others
    engine.load({ name })
    local key = engine.get(name)
    key.running, key.is_broken = nil, nil
    engine.look_again({ name })
    return true
  end

  -- Does a part of all of this; answers whether to go on at once.
  return function()
    local goes_on = go_round()
    return gather() or goes_on
  end
end
