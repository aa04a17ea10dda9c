//! Large backlogs and long readers.

use std::time::Duration;

use queue_core::backend::PASS_MAX;
use queue_core::{Backend, JobState, NewJob, Payload, Retention};
use queue_sqlite::{Durability, SqliteBackend, SqliteOptions};

use crate::support::{assert_sound, beside, completion, count, job, open, request};

fn fast() -> SqliteOptions {
    SqliteOptions::default().durability(Durability::Memory)
}

/// A claim of ten jobs takes the same steps of SQLite's virtual machine for any backlog, of its
/// own kind and of others. Which queries it makes is tested beside them, with their plans.
#[tokio::test]
async fn a_claim_does_not_read_the_backlog() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("queue.db"), fast()).unwrap();
    let other = || NewJob::new("other".parse().unwrap(), Payload::raw("y"));
    let mut steps = Vec::new();
    for jobs in [1_000, 100_000] {
        while count(&backend, JobState::Ready).await < jobs {
            let batch: Vec<NewJob> =
                (0..PASS_MAX).map(|n| if n % 2 == 0 { job("x") } else { other() }).collect();
            backend.enqueue(&batch).await.unwrap();
        }
        steps.push(steps_of_reads(&backend));
        let claim = backend.claim(&request(10)).await.unwrap();
        assert_eq!(claim.leases.len(), 10);
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    assert_eq!(steps[0], steps[1], "steps for 1 000 and for 100 000 jobs");
}

/// The steps that the reads of a claim take.
fn steps_of_reads(backend: &SqliteBackend) -> i32 {
    let conn = beside(backend.path());
    let lanes = "SELECT lane FROM lane WHERE queue = 'default' AND kind = 'k' AND ready > 0";
    let jobs = "SELECT job.job, payload FROM job LEFT JOIN body ON body.job = job.job \
         WHERE lane = (SELECT lane FROM lane WHERE kind = 'k') AND state = 3 AND position > -9 \
         ORDER BY position LIMIT 10";
    let due = "SELECT due_ms, id FROM job WHERE state <= 2 ORDER BY due_ms, id LIMIT 1";
    let mut steps = 0;
    for sql in [lanes, jobs, due] {
        let mut statement = conn.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        steps += statement.get_status(rusqlite::StatementStatus::VmStep);
        assert_eq!(statement.get_status(rusqlite::StatementStatus::FullscanStep), 0, "{sql}");
    }
    steps
}

#[tokio::test]
async fn a_file_that_was_large_gives_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("queue.db"), fast()).unwrap();
    let retention = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let big = "x".repeat(1024 * 1024);
    for _ in 0..20 {
        backend.enqueue(&[job(big.clone()).retention(retention)]).await.unwrap();
    }
    let claim = backend.claim(&request(20)).await.unwrap();
    backend.settle(&completion(&claim.leases)).await.unwrap();
    let pages = || -> i64 {
        let conn = beside(backend.path());
        conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
    };
    let before = pages();
    assert!(before > 5000, "{before} pages");
    backend.maintain(100).await.unwrap();
    // Some at a time, so that nobody waits long.
    assert_eq!(pages(), before - 200);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_long_reader_does_not_stop_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    backend.enqueue(&[job("before")]).await.unwrap();
    let reader = beside(backend.path());
    reader.execute_batch("BEGIN").unwrap();
    let jobs = "SELECT count(*) FROM job";
    let seen = || reader.query_row(jobs, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(seen(), 1);
    for round in 0..20 {
        let batch: Vec<NewJob> = (0..100).map(|n| job(format!("{round}-{n}"))).collect();
        backend.enqueue(&batch).await.unwrap();
        let claim = backend.claim(&request(50)).await.unwrap();
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    // It still sees what it saw; all others see what is there.
    assert_eq!(seen(), 1);
    assert_eq!(count(&backend, JobState::Completed).await, 1000);
    reader.execute_batch("COMMIT").unwrap();
    assert_sound(&backend).await;
}
