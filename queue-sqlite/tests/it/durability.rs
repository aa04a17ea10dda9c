//! What an acknowledged enqueue survives, and what is refused.

use queue_core::{Backend, Durability, EnqueueOutcome, Error, JobState, NewJob};
use queue_sqlite::SqliteBackend;

use crate::support::{assert_sound, count, fast, job, open};

async fn reached(backend: &SqliteBackend, job: &NewJob, asked: Durability) -> Durability {
    match backend.enqueue(std::slice::from_ref(job), asked).await.unwrap().remove(0) {
        EnqueueOutcome::Done(done) => done.durability,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_level_that_was_reached_is_told() {
    use Durability::{Fsync, Memory};
    let directory = tempfile::tempdir().unwrap();
    let synced = open(&directory.path().join("synced.db"));
    let unsynced = fast(&directory.path().join("unsynced.db"));
    for (backend, asked, expected) in [
        (&synced, Memory, Fsync),
        (&synced, Fsync, Fsync),
        (&unsynced, Memory, Memory),
        (&unsynced, Fsync, Fsync),
        (&unsynced, Memory, Memory),
    ] {
        let job = job("x");
        assert_eq!(reached(backend, &job, asked).await, expected, "{asked}");
        // A repeat may ask for more than the first time, and gets it.
        assert_eq!(reached(backend, &job, Fsync).await, Fsync);
    }
}

#[tokio::test]
async fn replicas_are_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let error = backend.enqueue(&[job("x")], Durability::Replicas(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Unsupported(why) if why.contains("replicas:1")), "{error}");
    assert_eq!(count(&backend, JobState::Ready).await, 0);
    assert_sound(&backend).await;
}
