-- Where jobs stand, for ids that have a record.

-- The states of these ids (which must have records), and the token of each one's last settlement.
local function states_of(ids)
  if #ids == 0 then return {}, {} end
  local fins, runs = read('HMGET', FIN, ids), read('HMGET', RUN, ids)
  local atts, dues = read('HMGET', ATT, ids), read('ZMSCORE', DUE, ids)
  local bad = call('EXISTS', BAD) == 1 and read('ZMSCORE', BAD, ids) or {}
  local states, tokens = {}, {}
  for i = 1, #ids do
    local fin, att = fins[i], parse_att(atts[i])
    tokens[i] = att and att.token or NO_TOKEN
    if bad[i] then
      states[i] = QUARANTINED
    elseif fin then
      states[i] = fin_state(fin)
      local token = sub(fin, 15, 30)
      if token ~= NO_TOKEN then tokens[i] = token end
    elseif runs[i] then
      states[i] = RUNNING
    elseif dues[i] then
      states[i] = att and att.failures > 0 and RETRYING or SCHEDULED
    else
      states[i] = READY
    end
  end
  return states, tokens
end
