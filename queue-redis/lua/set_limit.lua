-- Sets or removes what a limit key or a class allows.
--
-- KEYS   21 fixed keys
-- ARGV   the target, its settings (limits.lua) or "", the most settings there may be
-- Reply  1 if that was a change, 0 if not, -1 if there are too many
--
-- Invariant: while there are settings META says so. Keys that have room now are shown to claims and
-- their waiters woken, the first of them in this step, the others by the next calls that claim or
-- maintain.

local target, bytes, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local before = call('HGET', LIMITS, target) or ''
if before == '' and bytes ~= '' and call('HLEN', LIMITS) >= most then return -1 end
if before == bytes then return 0 end
call('HLEN', LIMITED)
call('ZCARD', REOPEN)
if bytes == '' then
  call('HDEL', LIMITS, target)
else
  call('HSET', LIMITS, target, bytes)
  call('HSET', META, 'limits', 1)
  limited = '1'
end
call('HSET', META, 'relook', 0)
look_at_keys()
save_meta()
return 1
