//! Data that nobody wrote with this program, and disks that are full.

use queue_core::{Backend, CancelOutcome, Error, JobId, JobState};
use queue_sqlite::{SqliteBackend, SqliteOptions};

use crate::support::{assert_sound, beside, completion, count, job, open, request};

fn break_job(backend: &SqliteBackend, what: &str, id: JobId) {
    let sql = format!("UPDATE {what} WHERE job = (SELECT job FROM job WHERE id = ?1)");
    assert_eq!(beside(backend.path()).execute(&sql, [id.as_bytes()]).unwrap(), 1);
}

#[tokio::test]
async fn an_unreadable_job_is_put_aside_and_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = [job("a"), job("b"), job("c"), job("d")];
    backend.enqueue(&jobs).await.unwrap();
    break_job(&backend, "body SET options = x'c1'", jobs[0].job_id());
    break_job(&backend, "body SET codec = 99", jobs[2].job_id());

    let claim = backend.claim(&request(10)).await.unwrap();
    let given: Vec<JobId> = claim.leases.iter().map(|lease| lease.spec.id).collect();
    assert_eq!(given, [jobs[1].job_id(), jobs[3].job_id()]);
    assert_eq!(count(&backend, JobState::Quarantined).await, 2);
    assert_sound(&backend).await;

    // Asked for alone it is an error that names it; among others it hides nobody.
    let error = backend.get(&[jobs[0].job_id()]).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains(&jobs[0].job_id().to_string()), "{error}");
    let records = backend.get(&[jobs[0].job_id(), jobs[1].job_id()]).await.unwrap();
    assert!(records[0].is_none() && records[1].is_some());

    // Its bytes are kept until somebody calls it off.
    let bytes = "SELECT payload FROM body JOIN job USING (job) WHERE id = ?1";
    let bytes: Vec<u8> = beside(backend.path())
        .query_row(bytes, [jobs[2].job_id().as_bytes()], |row| row.get(0))
        .unwrap();
    assert_eq!(bytes, b"c");
    let cancelled = backend.cancel(&[jobs[0].job_id()]).await.unwrap();
    assert_eq!(cancelled, [CancelOutcome::Cancelled]);
    assert_sound(&backend).await;
}

/// What somebody might do to the file, and a part of what the audit says about it.
const DAMAGE: &[(&str, &str)] = &[
    ("UPDATE lane SET ready = 7", "counts"),
    ("UPDATE lane SET tail = head", "outside of its lane"),
    ("UPDATE lane SET turn = 1000", "turn"),
    ("UPDATE claim SET jobs = 9", "instead of 1"),
    ("DELETE FROM claim", "its claim is missing"),
    ("UPDATE shelf SET records = 5", "counts 5 records"),
    ("UPDATE shelf SET next_expiry_ms = 5", "until 5"),
    ("UPDATE shelf SET dead = 1", "another queue or kind of end"),
    ("DELETE FROM body WHERE job = 1", "its body is missing"),
    ("UPDATE job SET lane = 77 WHERE job = 3", "its lane is missing"),
    ("INSERT INTO lane SELECT 9, 'q', 'k', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0", "instead of none"),
    ("UPDATE store SET fence = 1", "fence"),
    ("UPDATE store SET clock_ms = 1", "future"),
    ("DELETE FROM store", "0 rows about itself"),
    ("PRAGMA ignore_check_constraints = 1; UPDATE job SET state = 1 WHERE state = 4", "CHECK"),
];

#[tokio::test]
async fn the_audit_finds_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    for (index, (damage, found)) in DAMAGE.iter().enumerate() {
        let backend = open(&directory.path().join(index.to_string()));
        backend.enqueue(&[job("a"), job("b"), job("c")]).await.unwrap();
        let claim = backend.claim(&request(2)).await.unwrap();
        backend.settle(&completion(&claim.leases[..1])).await.unwrap();
        assert_sound(&backend).await;
        beside(backend.path()).execute_batch(damage).unwrap();
        let violations = backend.audit().await.unwrap();
        assert!(violations.iter().any(|v| v.what.contains(found)), "{damage}: {violations:?}");
    }
}

#[tokio::test]
async fn a_full_store_refuses_jobs_but_lets_workers_finish() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().max_bytes(1024 * 1024);
    let backend = SqliteBackend::open(directory.path().join("queue.db"), options).unwrap();
    let big = "x".repeat(16 * 1024);
    let mut taken_in = 0;
    let refused = loop {
        match backend.enqueue(&[job(big.clone()), job("small")]).await {
            Ok(jobs) => taken_in += jobs.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::StoreFull(_)) && refused.is_retryable(), "{refused:?}");
    assert!(taken_in > 20, "{taken_in}");
    // None of a refused batch is there.
    assert_eq!(count(&backend, JobState::Ready).await, taken_in as u64);

    // Work goes on, and finished records that are dropped make room.
    let drop_at_once = "UPDATE job SET keep_completed_s = 0";
    beside(backend.path()).execute(drop_at_once, []).unwrap();
    let claim = backend.claim(&request(500)).await.unwrap();
    assert_eq!(claim.leases.len(), taken_in);
    backend.settle(&completion(&claim.leases)).await.unwrap();
    assert_sound(&backend).await;
    backend.enqueue(&[job(big)]).await.unwrap();
}
