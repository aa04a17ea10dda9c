-- Claims count their jobs rightly and are not empty; what they were given lies in the past.
WITH counted AS (SELECT claim, count(*) AS jobs FROM job WHERE state = 4 GROUP BY claim)
SELECT NULL, 'a claim of worker ' || claim.worker || ' counts ' || claim.jobs
       || ' jobs instead of ' || ifnull(counted.jobs, 0)
  FROM claim LEFT JOIN counted ON counted.claim = claim.claim
 WHERE claim.jobs <> ifnull(counted.jobs, 0)
UNION ALL
SELECT NULL, 'a claim of worker ' || claim.worker
       || ' has a fence beyond the last one that was given out'
  FROM claim, store WHERE claim.fence + claim.jobs - 1 > store.fence
UNION ALL
SELECT NULL, 'a claim of worker ' || claim.worker || ' was made in the future'
  FROM claim, store WHERE claim.claimed_ms > store.clock_ms
UNION ALL
SELECT NULL, 'a claim of worker ' || claim.worker || ' has a lease without a legal end'
  FROM claim WHERE claim.until_ms NOT BETWEEN claim.claimed_ms AND 281474976710655;
