//! Every query that runs while jobs wait uses the index that was made for it: what a call costs
//! depends on what it was asked for, not on the backlog.

use queue_core::Namespace;
use rusqlite::Connection;

use super::{cancel, claim, enqueue, get, held, maintain, renew, stats, taken};
use crate::open::prepare;
use crate::session::{SELECT_DUE_HEADS, SELECT_HEADS_OF_CLAIM};
use crate::{SqliteOptions, session, watch};

/// The lines of a plan.
fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = vec![1; explain.parameter_count()];
    let parameters = rusqlite::params_from_iter(parameters);
    explain.query_map(parameters, |row| row.get(3)).unwrap().map(Result::unwrap).collect()
}

/// Queries, and the lines of their plans: each must occur, and no others may.
fn expected() -> Vec<(&'static str, &'static [&'static str])> {
    const BY_ID: &str = "SEARCH job USING INDEX sqlite_autoindex_job_1 (id=?)";
    const BY_ROWID: &str = "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)";
    const BODY: &str = "SEARCH body USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
    vec![
        // Claim: the lanes, their first jobs, what the answer tells.
        (
            session::SELECT_READY_LANES,
            &["SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=? AND kind=?)"],
        ),
        (taken::SELECT_READY, &["SEARCH job USING INDEX job_ready (lane=? AND position>?)", BODY]),
        (taken::SELECT_HELD, &["SEARCH job USING INDEX job_held (claim=?)", BODY]),
        (claim::UPDATE_HELD, &[BY_ROWID]),
        (claim::SELECT_FIRST_DUE, &["SCAN job USING INDEX job_due"]),
        (
            claim::SELECT_FIRST_LAPSED,
            &["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"],
        ),
        // Promote.
        (SELECT_DUE_HEADS, &["SEARCH job USING INDEX job_due (due_ms<?)"]),
        // Reap.
        (maintain::SELECT_LAPSED, &["SEARCH claim USING COVERING INDEX claim_until (until_ms<?)"]),
        (SELECT_HEADS_OF_CLAIM, &["SEARCH job USING INDEX job_held (claim=?)"]),
        (held::UPDATE_JOBS, &["SEARCH claim USING INTEGER PRIMARY KEY (rowid=?)"]),
        // Drop.
        (
            maintain::COUNT_EXPIRED,
            &[
                "CO-ROUTINE (subquery-1)",
                "SEARCH job USING COVERING INDEX job_finished (shelf=? AND expiry_ms<?)",
                "SCAN (subquery-1)",
            ],
        ),
        (session::SELECT_OLDEST, &["SEARCH job USING INDEX job_finished (shelf=?)"]),
        (session::SELECT_NEXT_EXPIRY, &["SEARCH job USING COVERING INDEX job_finished (shelf=?)"]),
        (
            session::DELETE_JOB,
            &[
                BY_ROWID,
                "SEARCH note USING INTEGER PRIMARY KEY (rowid=?)",
                "SEARCH body USING INTEGER PRIMARY KEY (rowid=?)",
            ],
        ),
        // By id and by key.
        (session::SELECT_HEAD_BY_ID, &[BY_ID]),
        (
            enqueue::SELECT_MET_BY_ID,
            &[BY_ID, "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?)", BODY],
        ),
        (
            enqueue::SELECT_MET_BY_KEY,
            &[
                "SEARCH job USING INDEX job_key (key=?)",
                "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?)",
                BODY,
            ],
        ),
        (
            get::SELECT_RECORD,
            &[
                BY_ID,
                "SEARCH lane USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
                BODY,
                "SEARCH note USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
                "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
            ],
        ),
        // Renew and cancel.
        (renew::UPDATE_LEASE, &["SEARCH claim USING INDEX sqlite_autoindex_claim_1 (token=?)"]),
        (renew::SELECT_ASKED, &["SEARCH job USING INDEX job_asked (claim=?)"]),
        (cancel::UPDATE_ASKED, &[BY_ROWID]),
        // What the watching thread asks after every commit.
        (
            watch::SELECT_HAS_READY,
            &["SEARCH lane USING INDEX sqlite_autoindex_lane_1 (queue=? AND kind=?)"],
        ),
        (
            watch::SELECT_ALL_ASKED,
            &["SCAN job USING INDEX job_asked", "SEARCH claim USING INTEGER PRIMARY KEY (rowid=?)"],
        ),
        // Counts: lanes only, in the order of their index.
        (stats::SELECT_COUNTS, &["SCAN lane USING INDEX sqlite_autoindex_lane_1"]),
    ]
}

#[test]
fn queries_use_the_indexes_that_were_made_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().namespace(Namespace::default());
    let (_, conn) = prepare(&directory.path().join("queue.db"), &options).unwrap();
    for (sql, expected) in expected() {
        assert_eq!(plan(&conn, sql), expected, "{sql}");
    }
}
