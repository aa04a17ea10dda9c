if meta[1] and meta[1] ~= '4' then
  local remedy = (tonumber(meta[1]) or 0) > 4 and 'upgrade this program'
    or 'let the older program finish its jobs, or use another namespace'
  return redis.error_reply('SCHEMA the store has schema ' .. meta[1] .. ', this program knows 4: ' .. remedy)
end
local clock_ms = tonumber(meta[2]) or 0
if not (clock_ms >= 0 and clock_ms <= TIME_MAX) then clock_ms = 0 end
-- Set if there may be settings of limits or something to remember of limit keys: without it no key
-- is closed, and nothing of all that is read.
local limited = meta[3]

-- TIME is not frozen inside a script: it is read once. The store's clock never goes back.
local time = call('TIME')
local now_text = time[1] .. sub(#time[2] == 6 and time[2] or '00000' .. time[2], -6, -4)
local now = now_text + 0
if now <= clock_ms then now, now_text = clock_ms, meta[2] end

