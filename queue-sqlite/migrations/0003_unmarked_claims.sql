-- Version 3: a claim may leave the rows of its jobs as they are and name these jobs in its own row.
-- Most jobs end before anybody but their worker asks for them: then their rows are never written.

-- The rowids of jobs that the claim holds although their rows say that they are ready, in order;
-- NULL if the rows of all its jobs say that they run. Such jobs stand before the head of their lane.
ALTER TABLE claim ADD COLUMN unmarked TEXT
      CHECK (unmarked IS NULL
             OR (octet_length(unmarked) <= 16384 AND unmarked NOT GLOB '*[^0-9+ -]*'));
CREATE INDEX claim_unmarked ON claim (claim) WHERE unmarked IS NOT NULL;

-- A program of version 2 that has the file open would take such jobs for ready ones. All its calls
-- begin with reading this column, and fail from now on.
ALTER TABLE store RENAME COLUMN starts TO lately;

-- Claims that are made before this time mark their jobs at once: somebody reads jobs.
ALTER TABLE store ADD COLUMN mark_until_ms INTEGER NOT NULL DEFAULT 0 CHECK (mark_until_ms >= 0);
