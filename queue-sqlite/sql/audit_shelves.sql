-- Shelves count their records rightly, know the first that may go, and are not empty.
WITH counted AS (
    SELECT shelf, count(*) AS records, min(expiry_ms) AS next_expiry_ms
      FROM job WHERE state BETWEEN 5 AND 7 GROUP BY shelf
)
SELECT NULL, 'shelf ' || shelf.queue || '/' || shelf.part || ' counts ' || shelf.records
       || ' records, the first until ' || shelf.next_expiry_ms || ', instead of '
       || ifnull(counted.records || ' until ' || counted.next_expiry_ms, 'none')
  FROM shelf LEFT JOIN counted ON counted.shelf = shelf.shelf
 WHERE (shelf.records, shelf.next_expiry_ms)
       IS NOT (counted.records, counted.next_expiry_ms);
