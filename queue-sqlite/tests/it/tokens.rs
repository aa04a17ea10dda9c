//! Settlements of several claims in one call.

use std::time::Duration;

use queue_core::{Backend, JobState, Retention, SettleRequest, Settled};

use crate::support::{STORED, assert_sound, completion, job, open, request};

/// All of them are read at once, but each counts for the claim of its own token only.
#[tokio::test]
async fn a_token_ends_no_job_of_another_claim_of_the_same_call() {
    let directory = tempfile::tempdir().unwrap();
    for (name, completed) in [("kept", Duration::from_secs(60)), ("fleeting", Duration::ZERO)] {
        let backend = open(&directory.path().join(name));
        let retention = Retention { completed, dead: Duration::ZERO };
        let jobs = [(); 4].map(|()| job("x").retention(retention));
        backend.enqueue(&jobs, STORED).await.unwrap();
        let mut leases = backend.claim(&request(2)).await.unwrap().leases;
        leases.extend(backend.claim(&request(2)).await.unwrap().leases);
        let mut settle = completion(&leases);
        let tokens = [0, 2, 1, 3].map(|lease: usize| leases[lease].token);
        for (settlement, token) in settle.settlements.iter_mut().zip(tokens) {
            settlement.token = token;
        }
        let settled = backend.settle(&settle).await.unwrap().settled;
        let (done, stale) =
            (Settled::Applied(JobState::Completed), Settled::Stale(JobState::Running));
        assert_eq!(settled, [done, stale, stale, done], "{name}");
        assert_sound(&backend).await;
        // The others still belong to their claims, and the first ones are gone or done already.
        let settled = backend.settle(&completion(&leases)).await.unwrap().settled;
        let again = match name {
            "kept" => Settled::AlreadyDone(JobState::Completed),
            _ => Settled::Gone,
        };
        assert_eq!(settled, [again, done, done, again], "{name}");
        assert_sound(&backend).await;
    }
}

/// A job that is settled twice in one call ends once.
#[tokio::test]
async fn a_job_that_is_dropped_is_gone_for_the_rest_of_the_call() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let retention = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let jobs = [(); 10].map(|()| job("x").retention(retention));
    backend.enqueue(&jobs, STORED).await.unwrap();
    for max in [1, 9] {
        let leases = backend.claim(&request(max)).await.unwrap().leases;
        let once = completion(&leases[..1]).settlements;
        let settlements = [once.clone(), once].concat();
        let settle = SettleRequest { settlements, claim: None };
        let settled = backend.settle(&settle).await.unwrap().settled;
        assert_eq!(settled, [Settled::Applied(JobState::Completed), Settled::Gone], "{max}");
        assert_sound(&backend).await;
    }
}
