-- Version 2: a job writes less on its way. A claim names its jobs, so running ones need no index of
-- their own, and a job that starts stays where it stands in its lane, so that its start touches no
-- index at all. A small payload stands beside the job's head. What belongs to a job goes with it in
-- a statement of the same call rather than by foreign keys, which SQLite enforces row by row.

-- The rowids of the jobs that the claim took, in their order: `7+2 3` are 7, 8, 9 and 3. It holds
-- those of them that are running and name it. The fence of its job number n is fence + n.
ALTER TABLE claim ADD COLUMN runs TEXT NOT NULL DEFAULT ''
      CHECK (octet_length(runs) <= 16384 AND runs NOT GLOB '*[^0-9+ -]*');
UPDATE claim SET runs = listed.runs
  FROM (SELECT claim, group_concat(job, ' ' ORDER BY position) AS runs
          FROM job WHERE state = 4 GROUP BY claim) AS listed
 WHERE listed.claim = claim.claim;

-- From now on, no ready job stands before the head of its lane.
UPDATE lane SET head = ifnull(
       (SELECT min(position) FROM job WHERE job.lane = lane.lane AND state = 3), tail);

CREATE TABLE new_line (
    job     INTEGER NOT NULL,
    number  INTEGER NOT NULL CHECK (number > 0),
    at_ms   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    text    TEXT    NOT NULL,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
INSERT INTO new_line SELECT * FROM line;
DROP TABLE line;
ALTER TABLE new_line RENAME TO line;

CREATE TABLE new_note (
    job          INTEGER PRIMARY KEY,
    error        BLOB,
    history      BLOB,
    result_codec INTEGER,
    result       BLOB,
    percent      INTEGER,
    doing        TEXT,
    last_line    INTEGER NOT NULL DEFAULT 0,
    seen_token   BLOB,
    seen_lines   INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO new_note SELECT * FROM note;
DROP TABLE note;
ALTER TABLE new_note RENAME TO note;

-- Payloads that are not small, and those of version 1.
CREATE TABLE new_body (
    job     INTEGER PRIMARY KEY,
    codec   INTEGER NOT NULL,
    options BLOB    NOT NULL,
    payload BLOB    NOT NULL
) STRICT;
INSERT INTO new_body SELECT * FROM body;
DROP TABLE body;
ALTER TABLE new_body RENAME TO body;

CREATE TABLE new_job (
    job              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    lane             INTEGER NOT NULL,
    state            INTEGER NOT NULL,
    -- While ready: in its lane. While running: the one that it had, which says nothing any more.
    position         INTEGER,
    due_ms           INTEGER NOT NULL,
    enqueued_ms      INTEGER NOT NULL,
    failures         INTEGER NOT NULL DEFAULT 0,
    stalls           INTEGER NOT NULL DEFAULT 0,
    snoozes          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    max_stalls       INTEGER NOT NULL,
    expires_ms       INTEGER,
    keep_completed_s INTEGER NOT NULL,
    keep_dead_s      INTEGER NOT NULL,
    key              TEXT    CHECK (key IS NULL OR octet_length(key) BETWEEN 1 AND 256),
    hold_ms          INTEGER,
    holds_key        INTEGER NOT NULL DEFAULT 0,
    claim            INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    settled_by       BLOB    CHECK (settled_by IS NULL OR length(settled_by) = 16),
    shelf            INTEGER,
    finished_ms      INTEGER,
    expiry_ms        INTEGER,
    elapsed_ms       INTEGER,
    dead_reason      INTEGER,
    -- What it carries, if that is small: then there is no row in the table `body`. Never changed.
    codec            INTEGER,
    options          BLOB,
    payload          BLOB,
    -- The place that its state has. What numbers are legal is looked at when they are read: whoever
    -- writes them has them from types that hold no others, and each rule costs each job. As ORs of
    -- ANDs, of which SQLite looks at no more than it has to.
    CHECK ((state = 3
            AND position IS NOT NULL AND claim IS NULL AND shelf IS NULL AND finished_ms IS NULL
            AND expiry_ms IS NULL AND elapsed_ms IS NULL AND dead_reason IS NULL
            AND cancel_requested = 0 AND (holds_key = 0 OR key IS NOT NULL))
        OR (state = 4
            AND position IS NOT NULL AND claim IS NOT NULL AND shelf IS NULL
            AND finished_ms IS NULL AND expiry_ms IS NULL AND elapsed_ms IS NULL
            AND dead_reason IS NULL AND (holds_key = 0 OR key IS NOT NULL))
        OR (state = 5
            AND position IS NULL AND claim IS NULL AND shelf IS NOT NULL
            AND finished_ms IS NOT NULL AND expiry_ms IS NOT NULL AND dead_reason IS NULL
            AND cancel_requested = 0 AND (holds_key = 0 OR key IS NOT NULL))
        OR (state >= 1 AND state <= 2
            AND position IS NULL AND claim IS NULL AND shelf IS NULL AND finished_ms IS NULL
            AND expiry_ms IS NULL AND elapsed_ms IS NULL AND dead_reason IS NULL
            AND cancel_requested = 0 AND (failures = 0) = (state = 1)
            AND (holds_key = 0 OR key IS NOT NULL))
        OR (state >= 6 AND state <= 7
            AND position IS NULL AND claim IS NULL AND shelf IS NOT NULL
            AND finished_ms IS NOT NULL AND expiry_ms IS NOT NULL
            AND (dead_reason IS NULL) = (state = 7) AND cancel_requested = 0 AND holds_key = 0)
        OR (state = 8
            AND position IS NULL AND claim IS NULL AND shelf IS NULL AND cancel_requested = 0
            AND holds_key = 0))
) STRICT;
-- Damaged jobs come along as they are; whoever meets them puts them aside.
PRAGMA ignore_check_constraints = 1;
INSERT INTO new_job SELECT *, NULL, NULL, NULL FROM job;
PRAGMA ignore_check_constraints = 0;
DROP TABLE job;
ALTER TABLE new_job RENAME TO job;
-- Ready and running jobs.
CREATE INDEX job_place       ON job (lane, position)        WHERE position IS NOT NULL;
CREATE INDEX job_due         ON job (due_ms, id)            WHERE state <= 2;
CREATE INDEX job_asked       ON job (claim)                 WHERE cancel_requested = 1;
CREATE INDEX job_finished    ON job (shelf, expiry_ms, id)  WHERE shelf IS NOT NULL;
CREATE UNIQUE INDEX job_key  ON job (key) WHERE holds_key = 1;
