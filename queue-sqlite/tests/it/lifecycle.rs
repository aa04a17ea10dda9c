//! Opening and closing.

use std::path::Path;

use queue_core::{Backend, Error, JobState};
use queue_sqlite::SqliteBackend;

use crate::support::{STORED, count, job, open};

/// How often this process has the file open.
fn descriptors(path: &Path) -> usize {
    let name = path.file_name().unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.ends_with(name)).count()
}

#[tokio::test]
async fn closing_leaves_one_complete_file() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let path = backend.path().to_owned();
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    backend.close().await;
    // Beside it only the space that is kept, in which there is nothing.
    let reserve = directory.path().join("queue.db-reserve");
    assert!(std::fs::read(&reserve).unwrap().iter().all(|byte| *byte == 0));
    std::fs::remove_file(reserve).unwrap();
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files, std::slice::from_ref(&path));
    assert_eq!(count(&open(&path), JobState::Ready).await, 1);
}

#[tokio::test]
async fn opening_and_closing_leaks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("leaky.db");
    for round in 0..100 {
        let backend = open(&path);
        backend.enqueue(&[job(round.to_string())], STORED).await.unwrap();
        assert!(descriptors(&path) > 0);
        backend.close().await;
        assert_eq!(descriptors(&path), 0, "round {round}");
    }
    assert_eq!(count(&open(&path), JobState::Ready).await, 100);
}

#[tokio::test]
async fn what_was_asked_for_is_finished_although_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let path = backend.path().to_owned();
    for number in 0..50 {
        let jobs = [job(number.to_string())];
        // Sent by the first poll, and then dropped.
        let call = std::pin::pin!(backend.enqueue(&jobs, STORED));
        assert!(poll_once(call).is_pending());
    }
    backend.close().await;
    assert_eq!(count(&open(&path), JobState::Ready).await, 50);
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test]
async fn a_call_that_meets_damage_fails_alone() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let conn = crate::support::beside(backend.path());
    conn.execute_batch("DROP TABLE body").unwrap();
    let error = backend.enqueue(&[job("x".repeat(1000))], STORED).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    // It is undone, and the store goes on.
    assert_eq!(count(&backend, JobState::Ready).await, 0);
}

/// What users hold across threads.
#[test]
fn a_backend_can_be_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<SqliteBackend>();
}
