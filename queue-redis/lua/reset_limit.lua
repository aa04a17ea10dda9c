-- Ends what has closed or narrowed a limit key for a time.
--
-- KEYS   21 fixed keys
-- ARGV   the key
-- Reply  1 if there was anything to end, 0 if not
--
-- Invariant: what the rate has counted and who holds the key stay. If it has room now it is shown to
-- claims, and its waiters are woken, in this step.

if not limited then return 0 end
local was_closed = limits().reset(ARGV[1])
save_meta()
return was_closed and 1 or 0
