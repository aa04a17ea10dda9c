-- Lanes count their jobs rightly, hold ready jobs at positions of their own, and are not empty.
WITH counted AS (
    SELECT lane,
           sum(state = 1) AS scheduled, sum(state = 2) AS retrying,
           sum(state = 3) AS ready,     sum(state = 4) AS running,
           sum(state = 5) AS completed, sum(state = 6) AS dead,
           sum(state = 7) AS cancelled, sum(state = 8) AS quarantined
      FROM job GROUP BY lane
)
SELECT NULL, 'lane ' || lane.queue || '/' || lane.kind || '/' || lane.priority || ' counts '
       || lane.scheduled || ' ' || lane.ready || ' ' || lane.running || ' ' || lane.retrying || ' '
       || lane.completed || ' ' || lane.dead || ' ' || lane.cancelled || ' ' || lane.quarantined
       || ' jobs per state instead of '
       || ifnull(counted.scheduled || ' ' || counted.ready || ' ' || counted.running || ' '
       || counted.retrying || ' ' || counted.completed || ' ' || counted.dead || ' '
       || counted.cancelled || ' ' || counted.quarantined, 'none')
  FROM lane LEFT JOIN counted ON counted.lane = lane.lane
 WHERE (lane.scheduled, lane.ready, lane.running, lane.retrying,
        lane.completed, lane.dead, lane.cancelled, lane.quarantined)
       IS NOT (counted.scheduled, counted.ready, counted.running, counted.retrying,
               counted.completed, counted.dead, counted.cancelled, counted.quarantined)
UNION ALL
SELECT job.id, 'its position ' || job.position || ' is outside of its lane, '
       || lane.head || ' to ' || lane.tail
  FROM job JOIN lane ON lane.lane = job.lane
 WHERE job.state = 3 AND NOT (job.position >= lane.head AND job.position < lane.tail)
UNION ALL
SELECT NULL, count(*) || ' ready jobs share position ' || position || ' of lane ' || lane
  FROM job WHERE state = 3 GROUP BY lane, position HAVING count(*) > 1
UNION ALL
SELECT NULL, 'lane ' || lane.queue || '/' || lane.kind || '/' || lane.priority
       || ' has a turn that the store has not reached'
  FROM lane, store WHERE lane.turn > store.turn
UNION ALL
SELECT NULL, count(*) || ' lanes with ready jobs share turn ' || turn
  FROM lane WHERE ready > 0 GROUP BY turn HAVING count(*) > 1;
