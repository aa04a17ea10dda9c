-- Leaves a word in a worker's own list, also when the store is full.
--
-- KEYS   21 fixed keys
-- ARGV   the worker, the word
-- Reply  nil
--
-- Invariant: a word is in the list at most once, and the list is short.

tell(ARGV[1], ARGV[2])
