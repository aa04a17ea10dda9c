-- Hands a wake-up on that was taken for a worker that does not want it any more.
--
-- KEYS   21 fixed keys
-- ARGV   "<queue>/<kind>"
-- Reply  nil
--
-- Invariant: a wake list holds at most one token.

wake(ARGV[1])
