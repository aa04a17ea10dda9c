//! Large backlogs and long readers.

use std::time::Duration;

use queue_core::backend::FINISHED_MAX;
use queue_core::{Backend, JobId, JobState, ListRequest, NewJob, Retention};
use queue_sqlite::{Durability, SqliteBackend, SqliteOptions};

use crate::support::{STORED, assert_sound, beside, completion, count, job, open, request};

fn fast() -> SqliteOptions {
    SqliteOptions::default().durability(Durability::Memory)
}

#[tokio::test]
async fn a_file_that_was_large_gives_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("queue.db"), fast()).unwrap();
    let retention = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let big = "x".repeat(1024 * 1024);
    for _ in 0..20 {
        backend.enqueue(&[job(big.clone()).retention(retention)], STORED).await.unwrap();
    }
    // A claim gives so many bytes only, and says that there is more.
    let mut claims = 0;
    loop {
        let claim = backend.claim(&request(20)).await.unwrap();
        claims += 1;
        backend.settle(&completion(&claim.leases)).await.unwrap();
        if !claim.more {
            break;
        }
        assert_eq!(claim.leases.len(), 8);
    }
    assert_eq!(claims, 3);
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
async fn a_few_free_pages_are_kept_for_the_next_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("queue.db"), fast()).unwrap();
    let retention = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let big = job("x".repeat(1024 * 1024)).retention(retention);
    backend.enqueue(&[big], STORED).await.unwrap();
    let claim = backend.claim(&request(1)).await.unwrap();
    backend.settle(&completion(&claim.leases)).await.unwrap();
    let pragma = |name: &str| -> i64 {
        beside(backend.path()).pragma_query_value(None, name, |row| row.get(0)).unwrap()
    };
    let before = pragma("page_count");
    assert!(pragma("freelist_count") > before / 2);
    backend.maintain(100).await.unwrap();
    assert_eq!(pragma("page_count"), before);
}

/// A busy queue cannot outgrow its maintenance; and a count that is wrong costs no records.
#[tokio::test]
async fn a_full_shelf_drops_its_oldest_records_as_new_ones_come() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(directory.path().join("queue.db"), fast()).unwrap();
    let finish = async |jobs: usize| {
        let jobs: Vec<NewJob> = (0..jobs).map(|_| job("x")).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
        let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
        backend.cancel(&ids).await.unwrap();
        ids[0]
    };
    let is_there = async |id| backend.get(&[id]).await.unwrap()[0].is_some();
    let first = finish(1).await;
    beside(backend.path()).execute("UPDATE shelf SET records = 20000", []).unwrap();
    finish(1).await;
    assert!(is_there(first).await);
    backend.audit(true).await.unwrap();
    for _ in 0..FINISHED_MAX / 500 {
        // Later ones expire later.
        let later = "UPDATE store SET clock_ms = max(clock_ms, unixepoch() * 1000) + 2000";
        beside(backend.path()).execute(later, []).unwrap();
        finish(500).await;
    }
    assert_eq!(count(&backend, JobState::Cancelled).await, FINISHED_MAX);
    assert!(!is_there(first).await);
    assert_sound(&backend).await;
    // More than are kept, because they were counted wrongly for a while.
    beside(backend.path()).execute("UPDATE shelf SET records = 1", []).unwrap();
    finish(7).await;
    assert_eq!(backend.maintain(500).await.unwrap().dropped, 0);
    beside(backend.path()).execute("UPDATE shelf SET records = records + 9999", []).unwrap();
    assert_eq!(backend.maintain(500).await.unwrap().dropped, 7);
    assert_sound(&backend).await;
    // One that would be the first to go and cannot be read is put aside instead.
    let oldest =
        "SELECT job FROM job WHERE shelf IS NOT NULL ORDER BY shelf, expiry_ms, id LIMIT 1";
    let damage = format!("UPDATE job SET lane = 77 WHERE job = ({oldest})");
    assert_eq!(beside(backend.path()).execute(&damage, []).unwrap(), 1);
    finish(3).await;
    let aside = "SELECT state FROM job WHERE lane = 77";
    let aside: i64 = beside(backend.path()).query_row(aside, [], |row| row.get(0)).unwrap();
    assert_eq!(aside, 8);
    backend.audit(true).await.unwrap();
    assert_eq!(count(&backend, JobState::Cancelled).await, FINISHED_MAX);
}

#[tokio::test]
async fn a_long_reader_does_not_stop_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    backend.enqueue(&[job("before")], STORED).await.unwrap();
    let reader = beside(backend.path());
    reader.execute_batch("BEGIN").unwrap();
    let jobs = "SELECT count(*) FROM job";
    let seen = || reader.query_row(jobs, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(seen(), 1);
    for round in 0..20 {
        let batch: Vec<NewJob> = (0..100).map(|n| job(format!("{round}-{n}"))).collect();
        backend.enqueue(&batch, STORED).await.unwrap();
        let claim = backend.claim(&request(50)).await.unwrap();
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    // Listings are short reads of their own, page by page: they do not wait for it either.
    let completed = ListRequest { limit: 100, ..ListRequest::new(JobState::Completed) };
    assert_eq!(backend.list(&completed).await.unwrap().jobs.len(), 100);
    // It still sees what it saw; all others see what is there.
    assert_eq!(seen(), 1);
    assert_eq!(count(&backend, JobState::Completed).await, 1000);
    reader.execute_batch("COMMIT").unwrap();
    assert_sound(&backend).await;
}
