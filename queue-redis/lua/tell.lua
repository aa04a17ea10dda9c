-- Leaves words in a worker's own list, also when the store is full.
--
-- KEYS   21 fixed keys
-- ARGV   the worker, then the words; the last one is read first
-- Reply  nil
--
-- Invariant: a word is in the list at most once, and the list is short.

for i = 2, #ARGV do tell(ARGV[1], ARGV[i]) end
