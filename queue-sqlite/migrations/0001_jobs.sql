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
    duplicates INTEGER NOT NULL CHECK (duplicates >= 0),
    -- How many limits of queues are set: without any, nobody counts the live jobs of queues.
    queue_limits INTEGER NOT NULL CHECK (queue_limits >= 0),
    -- How often jobs of queues have started lately: "queue span current previous", with a semicolon
    -- between two; the span is one of 30 s. Here, because every claim writes this row anyway: a page
    -- more is what a claim of one job feels.
    starts     TEXT    NOT NULL
               CHECK (octet_length(starts) <= 3500 AND starts NOT GLOB '*[^a-z0-9_.; -]*')
) STRICT;

-- The jobs of one queue, kind, priority and list of limit keys: how many are in each state, and
-- the order of the ready ones. Exists while it has jobs.
CREATE TABLE lane (
    lane        INTEGER PRIMARY KEY,
    queue       TEXT    NOT NULL
                CHECK (octet_length(queue) BETWEEN 1 AND 64 AND queue NOT GLOB '*[^a-z0-9_.-]*'),
    kind        TEXT    NOT NULL
                CHECK (octet_length(kind) BETWEEN 1 AND 64 AND kind NOT GLOB '*[^a-z0-9_.-]*'),
    priority    INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    -- The limit keys of its jobs, sorted, with a space between two; most have none.
    limits      TEXT    NOT NULL
                CHECK (octet_length(limits) <= 515 AND limits NOT GLOB '*[^A-Za-z0-9_.:@+ -]*'),
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
    -- The one of its keys at which it waits because that has had no room; it keeps its turn.
    blocked_by  TEXT,
    UNIQUE (queue, kind, limits, priority)
) STRICT;
-- Claims look at lanes without keys as they are (there is one per priority), at those with keys in
-- the order of their turns, and at those that wait only when their key has room.
CREATE INDEX lane_runnable ON lane (queue, kind, priority, turn)
       WHERE limits <> '' AND ready > 0 AND blocked_by IS NULL;
CREATE INDEX lane_blocked  ON lane (blocked_by, queue, kind, priority, turn)
       WHERE blocked_by IS NOT NULL;

-- A claim and its lease. Exists while it holds jobs.
CREATE TABLE claim (
    claim      INTEGER PRIMARY KEY,
    token      BLOB    NOT NULL UNIQUE CHECK (length(token) = 16),
    worker     TEXT    NOT NULL,
    claimed_ms INTEGER NOT NULL,
    until_ms   INTEGER NOT NULL,
    -- The fence of its first job; job number n has fence + n.
    fence      INTEGER NOT NULL CHECK (fence > 0),
    jobs       INTEGER NOT NULL CHECK (jobs > 0),
    -- The limit keys that the worker added, which its jobs hold beside those of their lanes:
    -- `kind key key,kind key`.
    added      TEXT
) STRICT;
CREATE INDEX claim_until  ON claim (until_ms, token);
CREATE INDEX claim_worker ON claim (worker);

-- The queues from which nothing is claimed.
CREATE TABLE pause (
    queue TEXT PRIMARY KEY
          CHECK (octet_length(queue) BETWEEN 1 AND 64 AND queue NOT GLOB '*[^a-z0-9_.-]*')
) STRICT, WITHOUT ROWID;

-- What limit keys (`class:name`), classes (`class:*`) and queues (`queue:name`) allow, as JSON.
CREATE TABLE limit_setting (
    target   TEXT PRIMARY KEY,
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What is known of a limit key beside its settings. Exists while live jobs carry it, running ones
-- hold it, or something is remembered of it.
CREATE TABLE limit_key (
    name    TEXT    PRIMARY KEY,
    -- Scheduled, retrying, ready and running jobs that carry it.
    live    INTEGER NOT NULL CHECK (live >= 0),
    -- Running jobs that hold it: those whose lane has it, or to whose claim it was added.
    running INTEGER NOT NULL CHECK (running >= 0),
    -- Its rate, breaker and so on; `rows/limit_state.rs` has the format. NULL if nothing happened.
    state   BLOB,
    -- When to look whether the state can be forgotten.
    look_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX limit_key_look ON limit_key (look_ms) WHERE look_ms IS NOT NULL;

-- Lanes of one queue and kind that wait at a limit key. Exists while there are some.
CREATE TABLE limit_wait (
    key      TEXT    NOT NULL,
    queue    TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    lanes    INTEGER NOT NULL CHECK (lanes > 0),
    -- From when on the key has room: 0 if it has, NULL if a job has to end first.
    opens_ms INTEGER,
    PRIMARY KEY (key, queue, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX limit_wait_open ON limit_wait (queue, kind, opens_ms);

-- Classes whose settings have changed, as long as lanes wait at keys of theirs after this one.
CREATE TABLE limit_recheck (
    class TEXT PRIMARY KEY,
    after TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- How many jobs of a queue are live, once somebody had to know it; only while queues have limits.
CREATE TABLE queue_live (
    queue TEXT    PRIMARY KEY,
    live  INTEGER NOT NULL CHECK (live >= 0)
) STRICT, WITHOUT ROWID;

-- What workers say about themselves, and until when that is believed.
CREATE TABLE worker (
    id       TEXT    NOT NULL,
    instance INTEGER NOT NULL,
    info     BLOB    NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (id, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX worker_until ON worker (until_ms);

-- Finished records of one queue, in four parts that retention treats differently:
--   0 completed ones that hold their key for a time   1 other completed ones   2 cancelled   3 dead
-- Exists while it has records.
CREATE TABLE shelf (
    shelf          INTEGER PRIMARY KEY,
    queue          TEXT    NOT NULL,
    part           INTEGER NOT NULL CHECK (part BETWEEN 0 AND 3),
    records        INTEGER NOT NULL CHECK (records >= 0),
    -- The smallest expiry_ms of its records.
    next_expiry_ms INTEGER NOT NULL,
    UNIQUE (queue, part)
) STRICT;
CREATE INDEX shelf_expiry ON shelf (next_expiry_ms);
-- Shelves with more records than are kept (FINISHED_MAX).
CREATE INDEX shelf_over   ON shelf (shelf) WHERE records > 10000 AND part > 0;

-- A job's head: what changes. Kept small, since every move rewrites it.
--
-- There are no tables for the ready, due, held and finished jobs: each is a partial index of this
-- one, so a job cannot be listed in two of them, or in one that disagrees with its record.
-- Nor foreign keys to lane, claim and shelf: SQLite would search all jobs when one of those ends.
--
-- A quarantined job is in no index, and else is kept as it was found, with whatever is wrong with
-- it. It can be: SQLite does not evaluate the CHECKs of columns that an UPDATE does not set.
-- `session/head.rs` says the same rules again, for what is read.
CREATE TABLE job (
    job              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    lane             INTEGER NOT NULL,
    state            INTEGER NOT NULL CHECK (state BETWEEN 1 AND 8),
    -- In its lane while ready, in its claim while running.
    position         INTEGER,
    due_ms           INTEGER NOT NULL CHECK (due_ms      BETWEEN 0 AND 281474976710655),
    enqueued_ms      INTEGER NOT NULL CHECK (enqueued_ms BETWEEN 0 AND 281474976710655),
    failures         INTEGER NOT NULL DEFAULT 0 CHECK (failures BETWEEN 0 AND 65535),
    stalls           INTEGER NOT NULL DEFAULT 0 CHECK (stalls   BETWEEN 0 AND 255),
    snoozes          INTEGER NOT NULL DEFAULT 0 CHECK (snoozes  BETWEEN 0 AND 4294967295),
    max_attempts     INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 65535),
    max_stalls       INTEGER NOT NULL CHECK (max_stalls   BETWEEN 1 AND 255),
    expires_ms       INTEGER CHECK (expires_ms BETWEEN 0 AND 281474976710655),
    keep_completed_s INTEGER NOT NULL CHECK (keep_completed_s BETWEEN 0 AND 4294967295),
    keep_dead_s      INTEGER NOT NULL CHECK (keep_dead_s      BETWEEN 0 AND 4294967295),
    -- In bytes: for a text, length() stops at a NUL, which a key may hold.
    key              TEXT    CHECK (octet_length(key) BETWEEN 1 AND 256),
    -- How long it keeps its key: NULL as long as it is kept as completed, -1 while it is live, else
    -- so many milliseconds from its enqueue.
    hold_ms          INTEGER CHECK (hold_ms BETWEEN -1 AND 4294967295000),
    -- Whether its key leads to it.
    holds_key        INTEGER NOT NULL DEFAULT 0 CHECK (holds_key BETWEEN 0 AND 1),
    claim            INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested BETWEEN 0 AND 1),
    -- The token of the last settlement, so that a repeat can be told from a stale one.
    settled_by       BLOB    CHECK (length(settled_by) = 16),
    shelf            INTEGER,
    finished_ms      INTEGER CHECK (finished_ms BETWEEN 0 AND 281474976710655),
    -- When the record may be dropped.
    expiry_ms        INTEGER CHECK (expiry_ms BETWEEN 0 AND 281474976710655),
    elapsed_ms       INTEGER CHECK (elapsed_ms >= 0),
    -- 1 attempts_exhausted  2 failed  3 crash_loop  4 expired
    dead_reason      INTEGER CHECK (dead_reason BETWEEN 1 AND 4),
    CHECK ((position IS NOT NULL) = (state BETWEEN 3 AND 4)),
    CHECK ((claim IS NOT NULL) = (state = 4)),
    CHECK (cancel_requested = 0 OR state = 4),
    CHECK (state <> 1 OR failures = 0),
    CHECK (state <> 2 OR failures > 0),
    CHECK (holds_key = 0 OR (state <= 5 AND key IS NOT NULL)),
    CHECK ((shelf       IS NOT NULL) = (state BETWEEN 5 AND 7)),
    CHECK ((finished_ms IS NOT NULL) = (state BETWEEN 5 AND 7) OR state = 8),
    CHECK ((expiry_ms   IS NOT NULL) = (state BETWEEN 5 AND 7) OR state = 8),
    CHECK (elapsed_ms IS NULL OR state >= 5),
    CHECK ((dead_reason IS NOT NULL) = (state = 6) OR state = 8)
) STRICT;
CREATE INDEX job_ready       ON job (lane, position)        WHERE state = 3;
CREATE INDEX job_due         ON job (due_ms, id)            WHERE state <= 2;
CREATE INDEX job_held        ON job (claim, position)       WHERE state = 4;
CREATE INDEX job_asked       ON job (claim)                 WHERE cancel_requested = 1;
CREATE INDEX job_finished    ON job (shelf, expiry_ms, id)  WHERE shelf IS NOT NULL;
CREATE INDEX job_quarantined ON job (job)                   WHERE state = 8;
-- A key leads to at most one job.
CREATE UNIQUE INDEX job_key  ON job (key) WHERE holds_key = 1;

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
    -- The last attempts that failed or were lost; `rows/history.rs` has the format.
    history      BLOB,
    result_codec INTEGER,
    result       BLOB,
    -- The last progress that was reported: 0 to 100, and a text.
    percent      INTEGER,
    doing        TEXT,
    -- The number of the last line ever logged.
    last_line    INTEGER NOT NULL DEFAULT 0,
    -- Whose lines were counted last, and how many of them have been seen.
    seen_token   BLOB,
    seen_lines   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A line of a job's log.
CREATE TABLE line (
    job     INTEGER NOT NULL REFERENCES note ON DELETE CASCADE,
    number  INTEGER NOT NULL CHECK (number > 0),
    at_ms   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    text    TEXT    NOT NULL,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

-- Why a job is quarantined, and in which state it was found.
CREATE TABLE quarantine (
    job    INTEGER PRIMARY KEY,
    state  INTEGER NOT NULL,
    at_ms  INTEGER NOT NULL,
    reason TEXT    NOT NULL
) STRICT;
