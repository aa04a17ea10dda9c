-- Claims count their jobs rightly and are not empty; what they were given lies in the past.
SELECT NULL, 'a claim of worker ' || claim.worker || ' counts ' || claim.jobs
       || ' jobs instead of ' || count(job.job)
  FROM claim LEFT JOIN job ON job.claim = claim.claim AND job.state = 4
 GROUP BY claim.claim HAVING claim.jobs <> count(job.job)
UNION ALL
SELECT NULL, count(*) || ' running jobs share a place in a claim'
  FROM job WHERE state = 4 GROUP BY claim, position HAVING count(*) > 1
UNION ALL
SELECT job.id, 'its fence is beyond the last one that was given out'
  FROM job JOIN claim ON claim.claim = job.claim, store
 WHERE job.state = 4 AND claim.fence + job.position > store.fence
UNION ALL
SELECT NULL, 'a claim of worker ' || claim.worker || ' was made in the future'
  FROM claim, store WHERE claim.claimed_ms > store.clock_ms
UNION ALL
SELECT NULL, 'a claim of worker ' || claim.worker || ' has a lease without a legal end'
  FROM claim WHERE claim.until_ms NOT BETWEEN claim.claimed_ms AND 281474976710655;
