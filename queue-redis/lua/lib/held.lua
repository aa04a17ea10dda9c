-- What running jobs hold.

-- The limit keys that a running job holds: its own, and those that its worker added, which are
-- behind the head in its entry of `run`.
local function held_keys(run, class, head_bytes)
  if #run == head_bytes then return class.keys end
  local added = split_keys(sub(run, head_bytes + 1))
  if not added or not class.keys then return added or class.keys end
  local keys, has = {}, {}
  for _, list in ipairs({ class.keys, added }) do
    for _, key in ipairs(list) do
      if not has[key] then keys[#keys + 1] = key end
      has[key] = true
    end
  end
  return keys
end

-- Which of these holders of a limit key are none: they do not run, or run without it. One whose
-- entry of `run` cannot be read may be one.
local function strays_among(name, holders)
  local strays = {}
  for i, run in ipairs(read('HMGET', RUN, holders)) do
    local class, head_bytes
    if run then class, head_bytes = class_of(run, IN_RUN) end
    local holds = run and not class
    for _, key in ipairs(class and held_keys(run, class, head_bytes) or {}) do
      holds = holds or key == name
    end
    if not holds then strays[#strays + 1] = holders[i] end
  end
  return strays
end

-- The ids among a page of RUN of jobs that hold a limit key.
local function holders_among(page, name)
  local ids = {}
  for i = 1, #page, 2 do
    local class, head_bytes = class_of(page[i + 1], IN_RUN)
    local keys
    if class then
      keys = held_keys(page[i + 1], class, head_bytes)
    else
      local record = read('HMGET', JOBS, { page[i] })[1] -- what `run` holds is a copy
      class = record and class_of(record)
      keys = class and class.keys
    end
    for _, key in ipairs(keys or {}) do
      if key == name then ids[#ids + 1] = page[i] end
    end
  end
  return ids
end
