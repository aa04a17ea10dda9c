//! Every statement uses the indexes that were made for it: what a call costs depends on what it
//! was asked for, not on the backlog.

use std::path::Path;

use rusqlite::Connection;

use super::claim::{lanes as claimed, next};
use super::enqueue::alike;
use super::{
    attempts, cancel, claim, enqueue, get, inspect, limits as set, list, maintain, operate,
    quarantine, renew, repair, report, settle, stats, taken, workers,
};
use crate::SqliteOptions;
use crate::open::prepare;
use crate::session::limits::{save, settings};
use crate::session::{
    self, caps, claims, completed, holding, job, lanes, limits, quarantine as aside, queues,
    shelves,
};
use crate::watch::look;

/// A statement's name and text, and the lines of its plan.
type Planned = (&'static str, &'static str, &'static [&'static str]);

macro_rules! planned {
    ($($module:ident :: $name:ident => $plan:expr,)*) => {
        &[$((stringify!($name), $module::$name, &$plan)),*]
    };
}

const JOB: &str = "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)";
const JOB_BY_ID: &str = "SEARCH job USING INDEX sqlite_autoindex_job_1 (id=?)";
const JOB_BY_KEY: &str = "SEARCH job USING INDEX job_key (key=?)";
const NOTE: &str = "SEARCH note USING INTEGER PRIMARY KEY (rowid=?)";
const NOTE_OF_JOB: &str = "SEARCH note USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const WHY: &str = "SEARCH quarantine USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const READY_OF_LANE: &str = "SEARCH job USING INDEX job_place (lane=? AND position>?)";
const JOBS: &str = "SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
const PAUSE: &str = "SEARCH pause USING PRIMARY KEY (queue=?)";
const BODY: &str = "SEARCH body USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const LANE: &str = "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?)";
const LANE_OF_JOB: &str = "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const LANES: &str =
    "SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=? AND kind=? AND limits=?)";
const SHELF: &str = "SEARCH shelf USING INTEGER PRIMARY KEY (rowid=?)";
const STORE: &str = "SEARCH store USING INTEGER PRIMARY KEY (rowid=?)";
const CLAIM: &str = "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?)";
const LIMIT_KEY: &str = "SEARCH limit_key USING PRIMARY KEY (name=?)";
const SETTING: &str = "SEARCH limit_setting USING PRIMARY KEY (target=?)";
const WAIT: &str = "SEARCH limit_wait USING PRIMARY KEY (key=? AND queue=? AND kind=?)";
const RUNNABLE: &str = "SEARCH lane USING INDEX lane_runnable (queue=? AND kind=?)";
const QUEUE_LIVE: &str = "SEARCH queue_live USING PRIMARY KEY (queue=?)";
const WORKER: &str = "SEARCH worker USING PRIMARY KEY (id=? AND instance=?)";
const CLAIM_BY_TOKEN: &str = "SEARCH claim USING INDEX sqlite_autoindex_claim_1 (token=?)";

/// All statements. A SCAN is of a partial index of which the first entry is enough, or of what is
/// counted anyway.
#[rustfmt::skip]
const PLANNED: &[Planned] = planned![
    // The store's own row.
    session::SELECT_STORE => [STORE],
    session::UPDATE_STORE => [STORE],
    // Jobs.
    job::SELECT_HEAD => [JOB],
    job::SELECT_RUNNING_BY_ID => [JOB_BY_ID],
    job::SELECT_HEAD_BY_ID => [JOB_BY_ID],
    job::SELECT_HEAD_BY_KEY => [JOB_BY_KEY],
    job::SELECT_RUNNING_HELD => [JOBS],
    job::SELECT_DUE_HEADS => ["SEARCH job USING INDEX job_due (due_ms<?)"],
    job::UPDATE_READY => [JOB],
    job::UPDATE_WAITING => [JOB],
    job::UPDATE_FINISHED => [JOB],
    job::UPDATE_SHELVED => [JOB],
    job::UPDATE_KEY_FREED => [JOB],
    job::DELETE_JOBS => [JOBS],
    completed::DELETE_FLEETING => [JOBS],
    completed::UPDATE_COMPLETED => [JOBS],
    job::DELETE_BODIES => ["SEARCH body USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    job::HAS_PARTS => [
        "SCAN CONSTANT ROW", "SCALAR SUBQUERY 1", "SCAN body", "SCALAR SUBQUERY 2", "SCAN note",
    ],
    job::DELETE_NOTES => ["SEARCH note USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    job::DELETE_ALL_LINES => ["SEARCH line USING PRIMARY KEY (job>? AND job<?)"],
    job::SELECT_OLDEST => ["SEARCH job USING INDEX job_finished (shelf=?)"],
    caps::SELECT_OLDEST_PLACES => ["SEARCH job USING INDEX job_finished (shelf=?)"],
    // Jobs that cannot be read.
    aside::UPDATE_QUARANTINED => [JOB],
    aside::UPSERT_QUARANTINE => [],
    aside::DELETE_QUARANTINE => ["SEARCH quarantine USING INTEGER PRIMARY KEY (rowid=?)"],
    aside::SELECT_ID_TEXT => [JOB],
    aside::UPDATE_ID => [JOB],
    // Lanes.
    lanes::SELECT_LANE => [LANE],
    lanes::SELECT_LANE_BY_NAME => [
        "SEARCH lane USING INDEX sqlite_autoindex_lane_1 \
         (queue=? AND kind=? AND limits=? AND priority=?)",
    ],
    lanes::SELECT_READY_LANES => [LANES, "CORRELATED SCALAR SUBQUERY 1", READY_OF_LANE],
    lanes::COUNT_READY => ["SEARCH job USING INDEX job_place (lane=? AND position>?)"],
    lanes::INSERT_LANE => [],
    lanes::UPDATE_LANE => [LANE],
    lanes::UPDATE_LANE_COUNTS => [LANE],
    lanes::DELETE_LANE => [LANE],
    // Shelves.
    shelves::SELECT_SHELF => [SHELF],
    shelves::SELECT_SHELF_BY_NAME => [
        "SEARCH shelf USING INDEX sqlite_autoindex_shelf_1 (queue=? AND part=?)",
    ],
    shelves::INSERT_SHELF => [],
    shelves::UPDATE_SHELF => [SHELF],
    shelves::DELETE_SHELF => [SHELF],
    shelves::SELECT_NEXT_EXPIRY => [
        "SEARCH job USING COVERING INDEX job_finished (shelf=? AND expiry_ms>?)",
    ],
    shelves::COUNT_RECORDS => ["SEARCH job USING COVERING INDEX job_finished (shelf=?)"],
    // What the watching thread asks after every commit.
    look::SELECT_HAS_READY => [
        LANES,
        "SCALAR SUBQUERY 2",
        PAUSE,
        "CORRELATED SCALAR SUBQUERY 1",
        READY_OF_LANE,
    ],
    look::SELECT_LANE_NAMES => [LANE],
    look::HAS_ASKED => ["SCAN job USING COVERING INDEX job_asked"],
    look::SELECT_ASKED_OF_WORKER => [
        "SEARCH claim USING INDEX claim_worker (worker=?)",
        "SEARCH job USING INDEX job_asked (claim=?)",
    ],
    // Cancel.
    cancel::UPDATE_ASKED => [JOB],
    // Claim.
    claim::SELECT_CLAIM => [CLAIM_BY_TOKEN],
    claim::INSERT_CLAIM => [],
    claim::UPDATE_HELD => [JOBS],
    claim::SELECT_FIRST_DUE => ["SCAN job USING INDEX job_due"],
    claim::SELECT_FIRST_LAPSED => ["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"],
    claim::SELECT_EXPIRED_SHELF => [
        "SEARCH shelf USING COVERING INDEX shelf_expiry (next_expiry_ms<?)",
    ],
    claim::SELECT_OVERFULL_SHELF => ["SCAN shelf USING INDEX shelf_over"],
    claim::HAS_PAUSE => [PAUSE],
    // Enqueue.
    enqueue::INSERT_JOB => [],
    alike::INSERT_READY => ["SCAN 16-ROW VALUES CLAUSE"],
    alike::INSERT_SCHEDULED => ["SCAN 16-ROW VALUES CLAUSE"],
    alike::SELECT_IDS => [JOBS],
    enqueue::INSERT_BODY => [],
    enqueue::SELECT_MET_BY_ID => [JOB_BY_ID, LANE_OF_JOB, BODY],
    enqueue::SELECT_MET_BY_KEY => [JOB_BY_KEY, LANE_OF_JOB, BODY],
    // Get.
    get::SELECT_RECORD => [
        JOB_BY_ID,
        LANE_OF_JOB,
        BODY,
        NOTE_OF_JOB,
        "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        WHY,
    ],
    // What attempts leave behind.
    attempts::SELECT_HISTORY => [NOTE],
    attempts::UPSERT_HISTORY => [],
    attempts::SELECT_WORKER => [CLAIM],
    // Claims that let jobs go.
    claims::UPDATE_LEFT => [CLAIM],
    claims::UPDATE_HELD_COUNT => [CLAIM],
    claims::SELECT_RUNS => [CLAIM],
    claims::COUNT_HELD => [JOBS],
    claims::SELECT_HEADS_HELD => [JOBS],
    claims::DELETE_CLAIM => [CLAIM],
    // Listings: from where the page before ended.
    list::SELECT_LISTED_DUE => [
        "SEARCH job USING INDEX job_due ((due_ms,id)>(?,?))", LANE_OF_JOB, NOTE_OF_JOB,
    ],
    list::SELECT_LISTED_READY => [
        READY_OF_LANE, LANE_OF_JOB, NOTE_OF_JOB,
    ],
    list::SELECT_LISTED_RUNNING => [JOBS, LANE_OF_JOB, NOTE_OF_JOB],
    list::SELECT_NEXT_CLAIMS => ["SEARCH claim USING INTEGER PRIMARY KEY (rowid>?)"],
    list::SELECT_LISTED_FINISHED => [
        "SEARCH job USING INDEX job_finished (shelf=? AND (expiry_ms,id)<(?,?))",
        LANE_OF_JOB,
        NOTE_OF_JOB,
    ],
    list::SELECT_LISTED_ASIDE => [
        JOB,
        "LIST SUBQUERY 1",
        "SEARCH quarantine USING INTEGER PRIMARY KEY (rowid>?)",
        LANE_OF_JOB,
        NOTE_OF_JOB,
    ],
    list::SELECT_NEXT_LANES => [
        "SEARCH lane USING INDEX sqlite_autoindex_lane_1 \
         ((queue,kind,limits,priority)>(?,?,?,?))",
    ],
    list::SELECT_NEXT_SHELVES => [
        "SEARCH shelf USING COVERING INDEX sqlite_autoindex_shelf_1 ((queue,part)>(?,?))",
    ],
    // Limits.
    limits::SELECT_LIMIT_KEY => [LIMIT_KEY],
    save::UPSERT_LIMIT_KEY => [],
    save::DELETE_LIMIT_KEY => [LIMIT_KEY],
    save::UPSERT_WAIT => [],
    save::UPDATE_WAIT_LEFT => [WAIT],
    save::COUNT_BLOCKED => ["SEARCH lane USING COVERING INDEX lane_blocked (blocked_by=? AND queue=? AND kind=?)"],
    save::DELETE_WAIT => [WAIT],
    save::HAS_WAITS => ["SCAN limit_wait USING COVERING INDEX limit_wait_open"],
    save::UPDATE_OPENS => ["SEARCH limit_wait USING PRIMARY KEY (key=?)"],
    // Of damaged stores.
    save::SELECT_LIMIT_KEYS => ["SCAN limit_key"],
    // The running jobs.
    save::SELECT_ALL_RUNS => ["SCAN claim"],
    save::SELECT_HOLDERS => [JOBS, LANE_OF_JOB],
    settings::SELECT_SETTING => [SETTING],
    settings::HAS_SETTING => ["SCAN limit_setting"],
    holding::SELECT_HOLDING => [CLAIM],
    holding::SELECT_HOLDING_BY_TOKEN => [CLAIM_BY_TOKEN],
    queues::SELECT_QUEUE_LIVE => [QUEUE_LIVE],
    queues::COUNT_QUEUE_LIVE => ["SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=?)"],
    queues::INSERT_QUEUE_LIVE => [],
    queues::UPDATE_QUEUE_LIVE => [QUEUE_LIVE],
    queues::DELETE_QUEUE_LIVE => ["SEARCH queue_live USING PRIMARY KEY (queue=?)", "SCALAR SUBQUERY 1", "SEARCH lane USING COVERING INDEX sqlite_autoindex_lane_1 (queue=?)"],
    set::COUNT_SETTINGS => ["SCAN limit_setting"],
    set::UPSERT_SETTING => [],
    set::DELETE_SETTING => [SETTING],
    set::SELECT_SETTINGS => ["SCAN limit_setting"],
    set::COUNT_QUEUE_SETTINGS => ["SEARCH limit_setting USING PRIMARY KEY (target>? AND target<?)"],
    set::DELETE_QUEUES_LIVE => [],
    set::UPSERT_RECHECK => [],
    set::DELETE_RECHECK => ["SEARCH limit_recheck USING PRIMARY KEY (class=?)"],
    set::SELECT_RECHECK => ["SCAN limit_recheck"],
    set::HAS_RECHECK => ["SCAN limit_recheck"],
    set::SELECT_REMEMBERED => ["SEARCH limit_key USING PRIMARY KEY (name>? AND name<?)"],
    set::SELECT_WAITED_FOR => ["SEARCH limit_wait USING PRIMARY KEY (key>? AND key<?)"],
    claimed::HAS_LIMITED => [
        "SCAN CONSTANT ROW",
        "SCALAR SUBQUERY 1",
        "SCAN lane USING INDEX lane_runnable",
        "SCALAR SUBQUERY 2",
        "SCAN limit_wait USING COVERING INDEX limit_wait_open",
        "SCALAR SUBQUERY 3",
        "SCAN limit_recheck",
    ],
    claimed::SELECT_RUNNABLE => ["SEARCH lane USING INDEX lane_runnable (queue=? AND kind=? AND (priority,turn)>(?,?))"],
    claimed::SELECT_BLOCKED => ["SEARCH lane USING INDEX lane_blocked (blocked_by=? AND queue=? AND kind=? AND (priority,turn)>(?,?))"],
    claimed::SELECT_OPEN => ["SEARCH limit_wait USING INDEX limit_wait_open (queue=? AND kind=? AND opens_ms<?)"],
    next::HAS_RUNNABLE => [RUNNABLE],
    next::HAS_WAITING => ["SEARCH limit_wait USING COVERING INDEX limit_wait_open (queue=? AND kind=? AND opens_ms>?)"],
    next::SELECT_FIRST_OPEN => ["SEARCH limit_wait USING COVERING INDEX limit_wait_open (queue=? AND kind=? AND opens_ms>?)"],
    look::HAS_OPEN => ["SEARCH limit_wait USING COVERING INDEX limit_wait_open (queue=? AND kind=? AND opens_ms<?)"],
    maintain::SELECT_LOOKED_AT => ["SEARCH limit_key USING COVERING INDEX limit_key_look (look_ms<?)"],
    // Explanations.
    inspect::SELECT_READY_JOB => ["SEARCH job USING INDEX sqlite_autoindex_job_1 (id=?)", "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?)"],
    inspect::COUNT_AHEAD => ["CO-ROUTINE (subquery-1)", "SEARCH job USING INDEX job_place (lane=? AND position>? AND position<?)", "SCAN (subquery-1)"],
    inspect::SELECT_NEXT_KIND => ["SEARCH lane USING COVERING INDEX sqlite_autoindex_lane_1 (queue=? AND kind>?)"],
    inspect::SELECT_LANE_DUE => [READY_OF_LANE, "SCALAR SUBQUERY 1", LANE],
    inspect::SELECT_KEYLESS => [LANES],
    inspect::SELECT_KEYED => [RUNNABLE],
    inspect::SELECT_WAITS => ["SEARCH limit_wait USING COVERING INDEX limit_wait_open (queue=? AND kind=?)"],
    inspect::SELECT_WAITING => ["SEARCH lane USING INDEX lane_blocked (blocked_by=? AND queue=? AND kind=?)"],
    // Workers.
    workers::UPSERT_WORKER => [],
    workers::DELETE_WORKER => [WORKER],
    workers::COUNT_WORKERS => ["SCAN worker USING COVERING INDEX worker_until"],
    workers::DELETE_FIRST_WORKERS => ["SEARCH worker USING PRIMARY KEY (id=? AND instance=?)", "LIST SUBQUERY 2", "SCAN worker USING COVERING INDEX worker_until"],
    workers::DELETE_PAST_WORKERS => ["SEARCH worker USING PRIMARY KEY (id=? AND instance=?)", "LIST SUBQUERY 2", "SEARCH worker USING COVERING INDEX worker_until (until_ms<?)"],
    workers::SELECT_WORKERS => ["SEARCH worker USING INDEX worker_until (until_ms>?)"],
    // Maintain.
    maintain::SELECT_LAPSED => ["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"],
    maintain::SELECT_ENDLESS => ["SEARCH claim USING COVERING INDEX claim_until (until_ms>?)"],
    maintain::SELECT_DROPPABLE_SHELVES => [
        SHELF,
        "LIST SUBQUERY 2",
        "COMPOUND QUERY",
        "LEFT-MOST SUBQUERY",
        "SEARCH shelf USING COVERING INDEX shelf_expiry (next_expiry_ms<?)",
        "UNION ALL",
        "SCAN shelf USING INDEX shelf_over",
        "USE TEMP B-TREE FOR ORDER BY",
    ],
    maintain::COUNT_EXPIRED => [
        "CO-ROUTINE (subquery-1)",
        "SEARCH job USING COVERING INDEX job_finished (shelf=? AND expiry_ms<?)",
        "SCAN (subquery-1)",
    ],
    // What operators do.
    operate::SELECT_KEY => [JOB],
    operate::UPDATE_RETRIED => [JOB],
    operate::UPDATE_NO_RESULT => [NOTE],
    operate::INSERT_PAUSE => [],
    operate::DELETE_PAUSE => [PAUSE],
    operate::SELECT_PAUSED => ["SCAN pause"],
    quarantine::SELECT_RAW_JOB => [JOB_BY_ID, WHY],
    quarantine::SELECT_RAW_LANE => [LANE],
    quarantine::SELECT_RAW_BODY => ["SEARCH body USING INTEGER PRIMARY KEY (rowid=?)"],
    quarantine::SELECT_RAW_NOTE => [NOTE],
    quarantine::SELECT_ASIDE => [JOB_BY_ID, LANE_OF_JOB, BODY, NOTE_OF_JOB, WHY],
    quarantine::UPDATE_RECOVERED => [JOB],
    // Repair.
    repair::UPDATE_PLACES => [JOB],
    repair::HAS_OTHER_HOLDER => [
        "SEARCH holder USING COVERING INDEX job_key (key=?)", "SCALAR SUBQUERY 1", JOB,
    ],
    // Reports.
    report::SELECT_LOG => [NOTE],
    report::UPSERT_LOG => [],
    report::SELECT_LINE_SIZES => ["SEARCH line USING PRIMARY KEY (job=?)"],
    report::DELETE_LINES => ["SEARCH line USING PRIMARY KEY (job=? AND number<?)"],
    report::INSERT_LINE => [],
    report::SELECT_WATCHED => [JOB_BY_ID, NOTE_OF_JOB],
    report::SELECT_LINES => ["SEARCH line USING PRIMARY KEY (job=? AND number>?)"],
    // Renew.
    renew::UPDATE_LEASE => [CLAIM_BY_TOKEN],
    renew::SELECT_ASKED => ["SEARCH job USING INDEX job_asked (claim=?)"],
    // Settle.
    settle::SELECT_CLAIM_ID => [
        "SEARCH claim USING COVERING INDEX sqlite_autoindex_claim_1 (token=?)",
    ],
    settle::UPSERT_RESULT => [],
    // Counts: lanes only, in the order of their index.
    stats::SELECT_COUNTS => ["SCAN lane USING INDEX sqlite_autoindex_lane_1"],
    // What a claim reads of jobs.
    taken::SELECT_FIRST_READY => [READY_OF_LANE, BODY],
    taken::SELECT_READY => [READY_OF_LANE, BODY],
    taken::SELECT_FIRST_READY_WHOLE => [READY_OF_LANE, BODY],
    taken::SELECT_READY_WHOLE => [READY_OF_LANE, BODY],
    taken::SELECT_HELD => [JOBS, BODY],
];

/// The lines of a plan.
fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = vec![1; explain.parameter_count()];
    let parameters = rusqlite::params_from_iter(parameters);
    explain.query_map(parameters, |row| row.get(3)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn statements_use_the_indexes_that_were_made_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let conn = prepare(&path, &SqliteOptions::default()).unwrap().conn;
    let wrong: Vec<_> = PLANNED
        .iter()
        .map(|(name, sql, expected)| (name, plan(&conn, sql), expected))
        .filter(|(_, found, expected)| found != *expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names of the constants in a directory that hold statements.
fn statements(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            statements(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let constants =
            text.lines().filter_map(|line| line.split_once("const ")?.1.split_once(':'));
        let verbs = ["SELECT_", "INSERT_", "UPDATE_", "DELETE_", "UPSERT_", "COUNT_", "HAS_"];
        let is_statement = |name: &&str| verbs.iter().any(|verb| name.starts_with(verb));
        found.extend(constants.map(|(name, _)| name).filter(is_statement).map(str::to_owned));
    }
}

#[test]
fn no_statement_is_left_out() {
    let mut found = Vec::new();
    statements(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // Runs once, when a file is made.
    found.retain(|name| name != "INSERT_STORE");
    found.sort_unstable();
    let mut listed: Vec<_> = PLANNED.iter().map(|(name, ..)| (*name).to_owned()).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
