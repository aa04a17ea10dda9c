//! Opening and closing.

use std::path::Path;
use std::time::Duration;

use queue_core::{
    Backend, EnqueueOutcome, Error, JobId, JobState, Outcome, Payload, Retention, Settled,
};
use queue_sqlite::SqliteBackend;

use crate::support::{STORED, assert_sound, completion, count, job, open, request};

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

/// A claim remembers its jobs, and somebody changes them behind it.
#[tokio::test]
async fn jobs_end_as_the_file_has_them_not_as_they_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let kept = Retention { completed: Duration::from_secs(60), ..Retention::default() };
    let dropped = Retention { completed: Duration::ZERO, ..kept };
    let jobs: Vec<_> = (0..5).map(|n: u8| job(n.to_string()).retention(dropped)).collect();
    backend.enqueue(&jobs, STORED).await.unwrap();
    let leases = backend.claim(&request(5)).await.unwrap().leases;
    let by_hand = "DELETE FROM job WHERE job = 2; UPDATE lane SET running = running - 1;
         UPDATE claim SET jobs = jobs - 1; UPDATE job SET keep_completed_s = 60 WHERE job = 4";
    crate::support::beside(backend.path()).execute_batch(by_hand).unwrap();
    let done = Settled::Applied(JobState::Completed);
    // In two parts, since a part of them is what is remembered then.
    for (range, expected) in [(0..3, vec![done, Settled::Gone, done]), (3..5, vec![done, done])] {
        let request = completion(&leases[range]);
        assert_eq!(backend.settle(&request).await.unwrap().settled, expected);
        let again = backend.settle(&request).await.unwrap().settled;
        let is_over = |settled: &Settled| {
            matches!(settled, Settled::Gone | Settled::AlreadyDone(JobState::Completed))
        };
        assert!(again.iter().all(is_over), "{again:?}");
    }
    assert_eq!(count(&backend, JobState::Completed).await, 1);
    assert_eq!(count(&backend, JobState::Running).await, 0);
    assert_sound(&backend).await;
}

/// The same for jobs that are kept, which are moved in one statement.
#[tokio::test]
async fn kept_jobs_end_as_the_file_has_them_not_as_they_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs: Vec<_> = (0..15).map(|n: u8| job(n.to_string())).collect();
    backend.enqueue(&jobs, STORED).await.unwrap();
    let leases = backend.claim(&request(15)).await.unwrap().leases;
    let done = Settled::Applied(JobState::Completed);
    // What is done to the second one of three, and its answer.
    let by_hand = [
        (
            "DELETE FROM job WHERE job = 2; UPDATE lane SET running = running - 1;
             UPDATE claim SET jobs = jobs - 1",
            Settled::Gone,
        ),
        ("UPDATE job SET keep_completed_s = 0 WHERE job = 5", done),
        (
            "UPDATE job SET state = 3, claim = NULL WHERE job = 8; UPDATE claim SET jobs = jobs - 1;
             UPDATE lane SET head = 0, running = running - 1, ready = ready + 1",
            Settled::Stale(JobState::Ready),
        ),
        ("UPDATE job SET key = 'x', hold_ms = -1, holds_key = 1 WHERE job = 11", done),
        ("UPDATE job SET lane = 77 WHERE job = 14", Settled::Stale(JobState::Quarantined)),
    ];
    let over = Settled::AlreadyDone(JobState::Completed);
    for ((by_hand, second), leases) in by_hand.into_iter().zip(leases.chunks(3)) {
        crate::support::beside(backend.path()).execute_batch(by_hand).unwrap();
        let request = completion(leases);
        assert_eq!(backend.settle(&request).await.unwrap().settled, [done, second, done]);
        let again = backend.settle(&request).await.unwrap().settled;
        assert_eq!([again[0], again[2]], [over, over]);
        assert!(again[1] == second || [over, Settled::Gone].contains(&again[1]), "{again:?}");
    }
    assert_eq!(count(&backend, JobState::Completed).await, 11);
    // Its key was for the time until it ended.
    let held = "SELECT count(*) FROM job WHERE holds_key = 1";
    let held = crate::support::beside(backend.path()).query_row(held, [], |row| row.get(0));
    assert_eq!(held, Ok(0));
    let other = job("another").idempotency_key("x");
    let met = backend.enqueue(std::slice::from_ref(&other), STORED).await.unwrap();
    assert!(matches!(&met[0], EnqueueOutcome::Done(done) if !done.duplicate), "{met:?}");
    let ready = backend.claim(&request(15)).await.unwrap().leases;
    let ready: Vec<_> = ready.iter().map(|lease| lease.spec.id).collect();
    assert_eq!(ready, [jobs[7].job_id(), other.job_id()]);
    for violation in backend.audit(false).await.unwrap() {
        assert!(violation.what.contains("lane"), "{violation:?}");
    }
}

#[tokio::test]
async fn jobs_that_complete_together_keep_what_each_has_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let kept = |s| Retention { completed: Duration::from_secs(s), ..Retention::default() };
    let jobs: Vec<_> = (0..24)
        .map(|n: u8| {
            job(n.to_string())
                .priority(n % 3)
                .retention(kept([60, 60, 60, 3600, 0][n as usize / 5]))
        })
        .collect();
    backend.enqueue(&jobs, STORED).await.unwrap();
    let leases = backend.claim(&request(24)).await.unwrap().leases;
    let number_of = |id: JobId| jobs.iter().position(|job| job.job_id() == id).unwrap();
    let elapsed = |n: usize| Duration::from_millis([0, 9, 10, 12_345, u64::from(u32::MAX)][n % 5]);
    let result = |n: usize| n.is_multiple_of(4).then(|| Payload::raw(format!("result {n}")));
    let mut request = completion(&leases);
    for settlement in &mut request.settlements {
        let number = number_of(settlement.id);
        settlement.elapsed = elapsed(number);
        settlement.outcome = Outcome::Completed { result: result(number) };
    }
    // Some of them twice.
    request.settlements.extend_from_within(..10);
    let settled = backend.settle(&request).await.unwrap().settled;
    assert_eq!(settled[..24], [Settled::Applied(JobState::Completed); 24]);
    let is_kept = |n: usize| n < 20;
    for (settlement, settled) in request.settlements.iter().zip(&settled).skip(24) {
        let expected = match is_kept(number_of(settlement.id)) {
            true => Settled::AlreadyDone(JobState::Completed),
            false => Settled::Gone,
        };
        assert_eq!(*settled, expected);
    }
    let ids: Vec<_> = jobs.iter().map(queue_core::NewJob::job_id).collect();
    for (number, record) in backend.get(&ids).await.unwrap().into_iter().enumerate() {
        assert_eq!(record.is_some(), is_kept(number), "{number}");
        let Some(record) = record else { continue };
        assert_eq!((record.state, record.elapsed), (JobState::Completed, Some(elapsed(number))));
        assert_eq!(record.result, result(number));
    }
    assert_eq!(count(&backend, JobState::Completed).await, 20);
    assert_sound(&backend).await;
}
