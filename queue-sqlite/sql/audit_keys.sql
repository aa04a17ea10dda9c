-- A key leads to a job that holds it, and each job that holds one is led to by it.
SELECT job.id, 'an idempotency key leads to it wrongly'
  FROM job LEFT JOIN shelf ON shelf.shelf = job.shelf
 -- On the shelf of held records its hold may be over, which is seen to when it leaves that.
 WHERE job.holds_key = 1 AND job.state = 5 AND job.hold_ms IS NOT NULL AND shelf.part IS NOT 0
UNION ALL
SELECT job.id, 'its idempotency key leads nowhere'
  FROM job, store
 WHERE job.key IS NOT NULL AND job.holds_key = 0
   AND (job.state <= 4 OR (job.state = 5
        AND (job.hold_ms IS NULL OR job.enqueued_ms + job.hold_ms > store.clock_ms)
        AND job.hold_ms IS NOT -1))
   AND NOT EXISTS (SELECT 1 FROM job AS holder WHERE holder.key = job.key AND holder.holds_key = 1);
