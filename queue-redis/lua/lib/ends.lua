-- What the ends of jobs mean for the limit keys that they held. An end is a job's id, the token of
-- its claim, the `keys` that it lets go of with the letter of its outcome as `ending` (none if that
-- says nothing about providers), or the keys that are closed as `throttled` and `until_ms`.

-- To be called before the first write, if there are ends; after the lanes are saved, the keys are.
local function plan_ends()
  local engine, names = limits(), {}
  for _, one in ipairs(ends) do
    for _, list in ipairs({ one.keys or {}, one.throttled or {} }) do
      for _, name in ipairs(list) do names[#names + 1] = name end
    end
  end
  engine.load(names)
  engine.check()
  local claimed = {} -- token → when
  for _, one in ipairs(ends) do
    local function claimed_ms()
      if not claimed[one.token] then
        local packed = call('HGET', CLAIMS, one.token)
        claimed[one.token] = is_claim(packed) and struct.unpack('>I6', packed, 2) or now
      end
      return claimed[one.token]
    end
    for _, name in ipairs(one.keys or {}) do
      engine.let_go(engine.get(name), one.id, one.ending, claimed_ms)
    end
    for _, name in ipairs(one.throttled or {}) do
      engine.throttle(engine.get(name), one.until_ms, claimed_ms)
    end
  end
end
