-- The tables of version 1. States, here and in every query, are written as literals so that the
-- planner can prove that a partial index fits:
--   1 scheduled  2 retrying  3 ready  4 running  5 completed  6 dead  7 cancelled  8 quarantined
-- Times are milliseconds since 1970-01-01 UTC, at most 2^48 - 1.

-- What the store knows about itself; one row.
CREATE TABLE store (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    namespace  TEXT    NOT NULL,
    -- The latest time that the store has used: its clock never goes back.
    clock_ms   INTEGER NOT NULL CHECK (clock_ms BETWEEN 0 AND 281474976710655),
    -- Ticks when a lane gets its first job and when one is served.
    turn       INTEGER NOT NULL CHECK (turn >= 0),
    -- The last fence that was given out.
    fence      INTEGER NOT NULL CHECK (fence >= 0),
    -- Enqueues that met an existing job. Counted so that such an enqueue is a write too: its
    -- commit then makes the job that it met durable, whoever wrote that one and however.
    duplicates INTEGER NOT NULL CHECK (duplicates >= 0)
) STRICT;

-- The jobs of one queue, kind and priority: how many are in each state, and the order of the
-- ready ones. Exists while it has jobs.
CREATE TABLE lane (
    lane        INTEGER PRIMARY KEY,
    queue       TEXT    NOT NULL
                CHECK (octet_length(queue) BETWEEN 1 AND 64 AND queue NOT GLOB '*[^a-z0-9_.-]*'),
    kind        TEXT    NOT NULL
                CHECK (octet_length(kind) BETWEEN 1 AND 64 AND kind NOT GLOB '*[^a-z0-9_.-]*'),
    priority    INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    turn        INTEGER NOT NULL,
    -- Ready jobs stand at positions head <= position < tail; the next job that joins at the
    -- front gets head - 1.
    head        INTEGER NOT NULL,
    tail        INTEGER NOT NULL CHECK (head <= tail),
    scheduled   INTEGER NOT NULL CHECK (scheduled   >= 0),
    retrying    INTEGER NOT NULL CHECK (retrying    >= 0),
    ready       INTEGER NOT NULL CHECK (ready       >= 0),
    running     INTEGER NOT NULL CHECK (running     >= 0),
    completed   INTEGER NOT NULL CHECK (completed   >= 0),
    dead        INTEGER NOT NULL CHECK (dead        >= 0),
    cancelled   INTEGER NOT NULL CHECK (cancelled   >= 0),
    quarantined INTEGER NOT NULL CHECK (quarantined >= 0),
    UNIQUE (queue, kind, priority)
) STRICT;

-- A claim and its lease. Exists while it holds jobs.
CREATE TABLE claim (
    claim      INTEGER PRIMARY KEY,
    token      BLOB    NOT NULL UNIQUE CHECK (length(token) = 16),
    worker     TEXT    NOT NULL,
    claimed_ms INTEGER NOT NULL,
    until_ms   INTEGER NOT NULL CHECK (until_ms >= claimed_ms),
    -- The fence of its first job; job number n has fence + n.
    fence      INTEGER NOT NULL CHECK (fence > 0),
    jobs       INTEGER NOT NULL CHECK (jobs > 0)
) STRICT;
CREATE INDEX claim_until  ON claim (until_ms, token);
CREATE INDEX claim_worker ON claim (worker);

-- Finished records of one queue: the dead ones (dead = 1), and the completed and cancelled ones.
-- Exists while it has records.
CREATE TABLE shelf (
    shelf          INTEGER PRIMARY KEY,
    queue          TEXT    NOT NULL,
    dead           INTEGER NOT NULL CHECK (dead IN (0, 1)),
    records        INTEGER NOT NULL CHECK (records >= 0),
    -- The smallest expiry_ms of its records.
    next_expiry_ms INTEGER NOT NULL,
    UNIQUE (queue, dead)
) STRICT;
CREATE INDEX shelf_expiry ON shelf (next_expiry_ms);
-- Shelves with more records than are kept (FINISHED_MAX).
CREATE INDEX shelf_over   ON shelf (shelf) WHERE records > 10000;

-- A job's head: what changes. Kept small, since every move rewrites it.
--
-- There are no tables for the ready, due, held and finished jobs: each is a partial index of this
-- one, so a job cannot be listed in two of them, or in one that disagrees with its record.
-- Nor foreign keys to lane, claim and shelf: SQLite would search all jobs when one of those ends.
CREATE TABLE job (
    job              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    lane             INTEGER NOT NULL,
    state            INTEGER NOT NULL CHECK (state BETWEEN 1 AND 8),
    -- In its lane while ready, in its claim while running.
    position         INTEGER,
    due_ms           INTEGER NOT NULL,
    enqueued_ms      INTEGER NOT NULL,
    failures         INTEGER NOT NULL DEFAULT 0 CHECK (failures BETWEEN 0 AND 65535),
    stalls           INTEGER NOT NULL DEFAULT 0 CHECK (stalls   BETWEEN 0 AND 255),
    snoozes          INTEGER NOT NULL DEFAULT 0 CHECK (snoozes  BETWEEN 0 AND 4294967295),
    max_attempts     INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 65535),
    max_stalls       INTEGER NOT NULL CHECK (max_stalls   BETWEEN 1 AND 255),
    expires_ms       INTEGER,
    keep_completed_s INTEGER NOT NULL CHECK (keep_completed_s >= 0),
    keep_dead_s      INTEGER NOT NULL CHECK (keep_dead_s >= 0),
    -- In bytes: for a text, length() stops at a NUL, which a key may hold.
    key              TEXT    CHECK (octet_length(key) BETWEEN 1 AND 256),
    claim            INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    -- The token of the last settlement, so that a repeat can be told from a stale one.
    settled_by       BLOB    CHECK (length(settled_by) = 16),
    shelf            INTEGER,
    finished_ms      INTEGER,
    -- When the record may be dropped.
    expiry_ms        INTEGER,
    elapsed_ms       INTEGER CHECK (elapsed_ms >= 0),
    -- 1 attempts_exhausted  2 failed  3 crash_loop  4 expired
    dead_reason      INTEGER CHECK (dead_reason BETWEEN 1 AND 4),
    CHECK ((position IS NOT NULL) = (state BETWEEN 3 AND 4)),
    CHECK ((claim IS NOT NULL) = (state = 4)),
    CHECK (cancel_requested = 0 OR state = 4),
    CHECK (state <> 1 OR failures = 0),
    CHECK (state <> 2 OR failures > 0),
    CHECK ((shelf       IS NOT NULL) = (state BETWEEN 5 AND 7)),
    CHECK ((finished_ms IS NOT NULL) = (state BETWEEN 5 AND 7)),
    CHECK ((expiry_ms   IS NOT NULL) = (state BETWEEN 5 AND 7)),
    CHECK (elapsed_ms IS NULL OR state BETWEEN 5 AND 7),
    CHECK ((dead_reason IS NOT NULL) = (state = 6))
) STRICT;
CREATE INDEX job_ready    ON job (lane, position)        WHERE state = 3;
CREATE INDEX job_due      ON job (due_ms, id)            WHERE state <= 2;
CREATE INDEX job_held     ON job (claim, position)       WHERE state = 4;
CREATE INDEX job_asked    ON job (claim)                 WHERE cancel_requested = 1;
CREATE INDEX job_finished ON job (shelf, expiry_ms, id)  WHERE shelf IS NOT NULL;
-- A key belongs to at most one live or completed job.
CREATE UNIQUE INDEX job_key ON job (key) WHERE key IS NOT NULL AND state <= 5;

-- What a job carries: written once, whatever its size.
CREATE TABLE body (
    job     INTEGER PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    codec   INTEGER NOT NULL,
    options BLOB    NOT NULL,
    payload BLOB    NOT NULL
) STRICT;

-- What attempts left behind; only for jobs of which there is something to say.
CREATE TABLE note (
    job          INTEGER PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    error        BLOB,
    result_codec INTEGER,
    result       BLOB,
    CHECK ((result IS NULL) = (result_codec IS NULL))
) STRICT;
