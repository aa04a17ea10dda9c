-- Rows that lead nowhere.
SELECT job.id, 'its lane is missing'
  FROM job LEFT JOIN lane ON lane.lane = job.lane WHERE lane.lane IS NULL AND job.state <> 8
UNION ALL
SELECT job.id, 'its body is missing'
  FROM job LEFT JOIN body ON body.job = job.job
 WHERE body.job IS NULL AND job.codec IS NULL AND job.state <> 8
UNION ALL
SELECT NULL, 'body ' || body.job || ' has no job'
  FROM body LEFT JOIN job ON job.job = body.job WHERE job.job IS NULL
UNION ALL
SELECT NULL, 'note ' || note.job || ' has no job'
  FROM note LEFT JOIN job ON job.job = note.job WHERE job.job IS NULL
UNION ALL
SELECT NULL, 'log line ' || line.number || ' of job ' || line.job || ' has no note'
  FROM line LEFT JOIN note ON note.job = line.job WHERE note.job IS NULL
UNION ALL
SELECT NULL, 'quarantine ' || quarantine.job || ' has no quarantined job'
  FROM quarantine LEFT JOIN job ON job.job = quarantine.job AND job.state = 8
 WHERE job.job IS NULL
UNION ALL
SELECT job.id, 'it is quarantined but nobody noted why'
  FROM job LEFT JOIN quarantine ON quarantine.job = job.job
 WHERE job.state = 8 AND quarantine.job IS NULL
UNION ALL
SELECT job.id, 'it is running but its claim is missing'
  FROM job LEFT JOIN claim ON claim.claim = job.claim
 WHERE job.state = 4 AND claim.claim IS NULL
UNION ALL
SELECT job.id, 'it is finished but its shelf is missing or of another queue or kind of end'
  FROM job
  LEFT JOIN lane ON lane.lane = job.lane
  LEFT JOIN shelf ON shelf.shelf = job.shelf
 WHERE job.state BETWEEN 5 AND 7
   AND (shelf.shelf IS NULL OR shelf.queue <> lane.queue
        OR (shelf.part = 3) <> (job.state = 6) OR (shelf.part = 2) <> (job.state = 7)
        OR (shelf.part = 0 AND ifnull(job.hold_ms, -1) < 0))
UNION ALL
SELECT NULL, 'the store has ' || count(*) || ' rows about itself'
  FROM store HAVING count(*) <> 1;
