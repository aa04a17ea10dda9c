-- What is put right before the jobs themselves are looked at.
DELETE FROM body WHERE job NOT IN (SELECT job FROM job);
DELETE FROM line WHERE job NOT IN (SELECT job FROM note);
DELETE FROM note WHERE job NOT IN (SELECT job FROM job);
DELETE FROM line WHERE job NOT IN (SELECT job FROM note);
DELETE FROM quarantine WHERE job NOT IN (SELECT job FROM job WHERE state = 8);
INSERT OR IGNORE INTO quarantine (job, state, at_ms, reason)
SELECT job, 8, (SELECT clock_ms FROM store), 'nobody noted why' FROM job WHERE state = 8;

-- Nobody could resume these.
DELETE FROM pause WHERE octet_length(queue) NOT BETWEEN 1 AND 64 OR queue GLOB '*[^a-z0-9_.-]*';

-- Nobody could settle what these hold.
DELETE FROM claim WHERE length(token) <> 16;
-- A lease ends when it should have ended at a time that there is, and was given in the past.
UPDATE claim SET claimed_ms = (SELECT clock_ms FROM store)
 WHERE claimed_ms NOT BETWEEN 0 AND (SELECT clock_ms FROM store);
UPDATE claim SET until_ms = claimed_ms WHERE until_ms NOT BETWEEN claimed_ms AND 281474976710655;
-- A fence that may have been given out (they are microseconds, if none was given out ahead of the
-- time) counts as given out; another one cannot have been.
UPDATE claim SET fence = 1
 WHERE fence NOT BETWEEN 1 AND (SELECT max(fence, clock_ms * 1000 + 1000000000000) FROM store);
UPDATE store SET fence = max(fence, ifnull((SELECT max(fence + 1000) FROM claim), 0))
 WHERE EXISTS (SELECT 1 FROM claim WHERE claim.fence + claim.jobs - 1 > store.fence);
