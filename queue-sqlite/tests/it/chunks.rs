//! Bulk enqueues, whose chunks are on their way together.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::future::join_all;
use queue_core::{JobId, NewJob, Queue};
use tempfile::TempDir;
use tokio::task::coop::consume_budget;

use crate::support::{beside, fast, job};

fn store() -> (TempDir, PathBuf, Queue) {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let path = backend.path().to_owned();
    (directory, path, Queue::new(backend))
}

fn jobs(count: usize, queue: &str) -> (Vec<NewJob>, Vec<JobId>) {
    let jobs: Vec<NewJob> = (0..count).map(|n| job(n.to_string()).queue(queue)).collect();
    let ids = jobs.iter().map(NewJob::job_id).collect();
    (jobs, ids)
}

/// The ready jobs of a queue, in their order.
fn ready(path: &Path, queue: &str) -> Vec<JobId> {
    let conn = beside(path);
    let mut select = conn
        .prepare("SELECT id FROM job JOIN lane USING (lane) WHERE queue = ?1 ORDER BY position")
        .unwrap();
    let ids = select.query_map([queue], |row| row.get(0).map(JobId::from_bytes)).unwrap();
    ids.map(Result::unwrap).collect()
}

/// A task that has worked for long is made to wait wherever it might have to: here at each place in the
/// line of the writer.
#[tokio::test]
async fn chunks_keep_their_order_whatever_the_task_has_done_before() {
    for done in [0, 113, 125, 128] {
        let (_directory, path, queue) = store();
        let (jobs, ids) = jobs(8_123, "q");
        let task = async move {
            for _ in 0..done {
                consume_budget().await;
            }
            queue.enqueue_all(jobs).await.map(drop)
        };
        tokio::spawn(task).await.unwrap().unwrap();
        assert!(ready(&path, "q") == ids, "after {done}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bulks_of_one_task_keep_their_orders() {
    let (_directory, path, queue) = store();
    let bulks: Vec<_> = (0..12).map(|n| (format!("q{n}"), jobs(8_000, &format!("q{n}")))).collect();
    let task = {
        let all: Vec<_> = bulks.iter().map(|(_, (jobs, _))| jobs.clone()).collect();
        async move { join_all(all.into_iter().map(|jobs| queue.enqueue_all(jobs))).await }
    };
    for answer in tokio::spawn(task).await.unwrap() {
        assert_eq!(answer.unwrap().len(), 8_000);
    }
    for (name, (_, ids)) in &bulks {
        assert!(ready(&path, name) == *ids, "{name}");
    }
}

/// Nobody finds jobs later of a bulk that was given up.
#[tokio::test]
async fn a_bulk_that_is_given_up_is_not_taken_in_any_further() {
    let (_directory, path, queue) = store();
    let lock = beside(&path);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    {
        let mut bulk = pin!(queue.enqueue_all(jobs(8_000, "q").0));
        for _ in 0..20 {
            assert!(poll_fn(|cx| Poll::Ready(bulk.as_mut().poll(cx).is_pending())).await);
        }
    }
    lock.execute_batch("ROLLBACK").unwrap();
    // Behind what the writer had begun.
    queue.enqueue(job("last".to_owned())).await.unwrap();
    let there = ready(&path, "q").len();
    assert!(there <= 500, "{there} jobs of the first chunk");
}

/// A chunk is sent before the next one is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_begins_before_it_is_made() {
    let (_directory, path, queue) = store();
    let made = AtomicUsize::new(0);
    let jobs = (0..3_000).map(|n: usize| {
        made.store(n + 1, Ordering::Relaxed);
        if n == 1_000 {
            // It would wait here for ever if nothing were sent.
            while ready(&path, "default").len() < 500 {
                std::thread::yield_now();
            }
        }
        job(n.to_string())
    });
    assert_eq!(queue.enqueue_all(jobs).await.unwrap().len(), 3_000);
    assert_eq!(made.load(Ordering::Relaxed), 3_000);
}
