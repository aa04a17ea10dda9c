-- Lanes that wait do so at one of their keys and are counted there; what queues count is right.
SELECT NULL, 'lane ' || lane || ' waits at ' || blocked_by || ', which it does not need'
  FROM lane
 WHERE blocked_by IS NOT NULL
   AND (ready = 0 OR instr(' ' || limits || ' ', ' ' || blocked_by || ' ') = 0)
UNION ALL
SELECT NULL, counted.lanes || ' lanes of ' || counted.queue || '/' || counted.kind || ' wait at '
       || counted.blocked_by || ', which counts ' || ifnull(limit_wait.lanes, 'none')
  FROM (SELECT blocked_by, queue, kind, count(*) AS lanes
          FROM lane WHERE blocked_by IS NOT NULL GROUP BY blocked_by, queue, kind) AS counted
  LEFT JOIN limit_wait ON limit_wait.key = counted.blocked_by
                      AND limit_wait.queue = counted.queue AND limit_wait.kind = counted.kind
 WHERE limit_wait.lanes IS NOT counted.lanes
UNION ALL
SELECT NULL, 'nobody of ' || queue || '/' || kind || ' waits at ' || key || ', which counts '
       || limit_wait.lanes
  FROM limit_wait
 WHERE NOT EXISTS (SELECT 1 FROM lane WHERE lane.blocked_by = limit_wait.key
                      AND lane.queue = limit_wait.queue AND lane.kind = limit_wait.kind)
UNION ALL
SELECT NULL, 'queue ' || queue_live.queue || ' counts ' || queue_live.live
       || ' live jobs instead of ' || ifnull(counted.live, 0)
  FROM queue_live
  LEFT JOIN (SELECT queue, CAST(total(scheduled + retrying + ready + running) AS INTEGER) AS live
               FROM lane GROUP BY queue) AS counted ON counted.queue = queue_live.queue
 WHERE queue_live.live <> ifnull(counted.live, 0)
UNION ALL
SELECT NULL, 'the store counts ' || queue_limits || ' limits of queues instead of '
       || (SELECT count(*) FROM limit_setting WHERE target > 'queue:' AND target < 'queue;')
  FROM store
 WHERE queue_limits
       <> (SELECT count(*) FROM limit_setting WHERE target > 'queue:' AND target < 'queue;');
