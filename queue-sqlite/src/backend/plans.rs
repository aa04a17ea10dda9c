//! Every statement uses the indexes that were made for it: what a call costs depends on what it
//! was asked for, not on the backlog.

use std::path::Path;

use rusqlite::Connection;

use super::{cancel, claim, enqueue, get, held, maintain, renew, settle, stats, taken};
use crate::SqliteOptions;
use crate::open::prepare;
use crate::session::{self, job, lanes, shelves};
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
const BODY: &str = "SEARCH body USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const LANE: &str = "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?)";
const LANE_OF_JOB: &str = "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
const LANES: &str = "SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=? AND kind=?)";
const SHELF: &str = "SEARCH shelf USING INTEGER PRIMARY KEY (rowid=?)";
const STORE: &str = "SEARCH store USING INTEGER PRIMARY KEY (rowid=?)";
const CLAIM: &str = "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?)";
const CLAIM_BY_TOKEN: &str = "SEARCH claim USING INDEX sqlite_autoindex_claim_1 (token=?)";

/// All statements. A SCAN is of a partial index of which the first entry is enough, or of what is
/// counted anyway.
#[rustfmt::skip]
const PLANNED: &[Planned] = planned![
    // The store's own row.
    session::SELECT_STORE => [STORE],
    session::UPDATE_STORE => [STORE],
    // Jobs.
    job::SELECT_HEAD_BY_ID => [JOB_BY_ID],
    job::SELECT_HEADS_OF_CLAIM => ["SEARCH job USING INDEX job_held (claim=?)"],
    job::SELECT_DUE_HEADS => ["SEARCH job USING INDEX job_due (due_ms<?)"],
    job::UPDATE_READY => [JOB],
    job::UPDATE_WAITING => [JOB],
    job::UPDATE_FINISHED => [JOB],
    job::UPDATE_QUARANTINED => [JOB],
    job::DELETE_JOB => [
        JOB,
        "SEARCH note USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH body USING INTEGER PRIMARY KEY (rowid=?)",
    ],
    job::SELECT_OLDEST => ["SEARCH job USING INDEX job_finished (shelf=?)"],
    // Lanes.
    lanes::SELECT_LANE => [LANE],
    lanes::SELECT_LANE_BY_NAME => [
        "SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=? AND kind=? AND priority=?)",
    ],
    lanes::SELECT_READY_LANES => [LANES],
    lanes::INSERT_LANE => [],
    lanes::UPDATE_LANE => [LANE],
    lanes::DELETE_LANE => [LANE],
    // Shelves.
    shelves::SELECT_SHELF => [
        "SEARCH shelf USING INDEX sqlite_autoindex_shelf_1 (queue=? AND dead=?)",
    ],
    shelves::INSERT_SHELF => [],
    shelves::UPDATE_SHELF => [SHELF],
    shelves::DELETE_SHELF => [SHELF],
    shelves::SELECT_NEXT_EXPIRY => ["SEARCH job USING COVERING INDEX job_finished (shelf=?)"],
    shelves::COUNT_RECORDS => ["SEARCH job USING COVERING INDEX job_finished (shelf=?)"],
    // What the watching thread asks after every commit.
    look::SELECT_HAS_READY => [LANES],
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
    claim::UPDATE_HELD => [JOB],
    claim::SELECT_FIRST_DUE => ["SCAN job USING INDEX job_due"],
    claim::SELECT_FIRST_LAPSED => ["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"],
    claim::SELECT_EXPIRED_SHELF => [
        "SEARCH shelf USING COVERING INDEX shelf_expiry (next_expiry_ms<?)",
    ],
    claim::SELECT_OVERFULL_SHELF => ["SCAN shelf USING INDEX shelf_over"],
    // Enqueue.
    enqueue::INSERT_JOB => [],
    enqueue::INSERT_BODY => [],
    enqueue::SELECT_MET_BY_ID => [JOB_BY_ID, LANE_OF_JOB, BODY],
    enqueue::SELECT_MET_BY_KEY => ["SEARCH job USING INDEX job_key (key=?)", LANE_OF_JOB, BODY],
    // Get.
    get::SELECT_RECORD => [
        JOB_BY_ID,
        LANE_OF_JOB,
        BODY,
        "SEARCH note USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    ],
    // Claims that let jobs go.
    held::UPDATE_JOBS => [CLAIM],
    held::DELETE_CLAIM => [CLAIM],
    // Maintain.
    maintain::SELECT_LAPSED => ["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"],
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
    // Renew.
    renew::UPDATE_LEASE => [CLAIM_BY_TOKEN],
    renew::SELECT_ASKED => ["SEARCH job USING INDEX job_asked (claim=?)"],
    // Settle.
    settle::SELECT_CLAIM_ID => [
        "SEARCH claim USING COVERING INDEX sqlite_autoindex_claim_1 (token=?)",
    ],
    settle::UPSERT_ERROR => [],
    settle::UPSERT_RESULT => [],
    // Counts: lanes only, in the order of their index.
    stats::SELECT_COUNTS => ["SCAN lane USING INDEX sqlite_autoindex_lane_1"],
    // What a claim reads of jobs.
    taken::SELECT_READY => ["SEARCH job USING INDEX job_ready (lane=? AND position>?)", BODY],
    taken::SELECT_HELD => ["SEARCH job USING INDEX job_held (claim=?)", BODY],
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
    for (name, sql, expected) in PLANNED {
        assert_eq!(plan(&conn, sql), *expected, "{name}");
    }
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
