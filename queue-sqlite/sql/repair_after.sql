-- What is counted, once every job is where it belongs.

-- Places in lanes: of their own, and with room on both sides.
UPDATE job SET position = placed.position
  FROM (SELECT job, row_number() OVER (PARTITION BY lane ORDER BY position, job) AS position
          FROM job
         WHERE state = 3 AND lane IN (
               SELECT lane FROM job WHERE state = 3 GROUP BY lane, position HAVING count(*) > 1
               UNION ALL
               SELECT lane FROM job WHERE state = 3
                  AND position NOT BETWEEN -1152921504606846976 AND 1152921504606846976)
       ) AS placed
 WHERE placed.job = job.job;

DELETE FROM lane WHERE lane NOT IN (SELECT lane FROM job);
UPDATE lane
   SET scheduled = counted.scheduled, retrying = counted.retrying, ready = counted.ready,
       running = counted.running, completed = counted.completed, dead = counted.dead,
       cancelled = counted.cancelled, quarantined = counted.quarantined,
       head = ifnull(counted.first, 0), tail = ifnull(counted.last + 1, 0)
  FROM (SELECT lane,
               sum(state = 1) AS scheduled, sum(state = 2) AS retrying,
               sum(state = 3) AS ready,     sum(state = 4) AS running,
               sum(state = 5) AS completed, sum(state = 6) AS dead,
               sum(state = 7) AS cancelled, sum(state = 8) AS quarantined,
               min(position) FILTER (WHERE state = 3) AS first,
               max(position) FILTER (WHERE state = 3) AS last
          FROM job GROUP BY lane) AS counted
 WHERE counted.lane = lane.lane;
-- In the same order, each with a turn of its own.
UPDATE lane SET turn = placed.turn
  FROM (SELECT lane, row_number() OVER (ORDER BY turn, lane) AS turn FROM lane) AS placed
 WHERE placed.lane = lane.lane;
UPDATE store SET turn = max(min(turn, 4611686018427387904), (SELECT count(*) FROM lane));

DELETE FROM claim WHERE claim NOT IN (SELECT claim FROM job WHERE state = 4);
UPDATE claim SET jobs = counted.jobs, runs = counted.runs
  FROM (SELECT claim, count(*) AS jobs, group_concat(job, ' ' ORDER BY job) AS runs
          FROM job WHERE state = 4 GROUP BY claim) AS counted
 WHERE counted.claim = claim.claim;

DELETE FROM shelf WHERE shelf NOT IN (SELECT shelf FROM job WHERE shelf IS NOT NULL);
UPDATE shelf SET records = counted.records, next_expiry_ms = counted.next_expiry_ms
  FROM (SELECT shelf, count(*) AS records, min(expiry_ms) AS next_expiry_ms
          FROM job WHERE shelf IS NOT NULL GROUP BY shelf) AS counted
 WHERE counted.shelf = shelf.shelf;

-- Whoever waited is looked at again, and waits again if there is no room.
UPDATE lane SET blocked_by = NULL WHERE blocked_by IS NOT NULL;
DELETE FROM limit_wait;
DELETE FROM limit_recheck;
-- Counted when somebody wants to know.
DELETE FROM queue_live;
UPDATE store SET starts = ''
 WHERE octet_length(starts) > 3500 OR starts GLOB '*[^a-z0-9_.; -]*';
UPDATE store SET queue_limits = (SELECT count(*) FROM limit_setting
                                  WHERE target > 'queue:' AND target < 'queue;');

DELETE FROM line WHERE (job, number) IN (
       SELECT job, number
         FROM (SELECT job, number,
                      count(*) OVER newer AS lines, sum(octet_length(text)) OVER newer AS bytes
                 FROM line WINDOW newer AS (PARTITION BY job ORDER BY number DESC))
        WHERE lines > 100 OR bytes > 65536);
UPDATE note SET last_line = counted.last
  FROM (SELECT job, max(number) AS last FROM line GROUP BY job) AS counted
 WHERE counted.job = note.job AND counted.last > note.last_line;
