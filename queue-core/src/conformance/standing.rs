//! Promise P9 with standing claims: what the store claims for who waits is run once, or given back.
//! A store may make such a claim or leave it to the caller; a case holds in both.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, ids, job};
use crate::{
    Backend, Claim, ClaimRequest, Error, Interest, JobState, Kind, KindLimits, QueueName, Wake,
    Woken, WorkerId,
};

/// Long enough that only a wake-up that was lost for good reaches it.
const LONG: Duration = Duration::from_secs(20);

/// As `worker`, for kinds `a` and `b`.
fn waiter(worker: &str, max: u32) -> (Interest, ClaimRequest) {
    let worker = WorkerId::new(worker).unwrap();
    let kinds = ["a", "b"].map(|kind| KindLimits::new(Kind::new(kind).unwrap()));
    let interest = Interest {
        worker: worker.clone(),
        queues: vec![QueueName::default()],
        kinds: kinds.to_vec(),
    };
    (interest, ClaimRequest { worker, ..claim_request(max) })
}

/// What a worker does: waits, and claims if it was woken without jobs.
async fn claim_when_woken(backend: &impl Backend, worker: &str, max: u32) -> Claim {
    loop {
        let (interest, request) = waiter(worker, max);
        let (_wanted, revoked) = oneshot::channel();
        let woken = backend.wait_and_claim(&interest, &request, revoked, LONG).await.unwrap();
        let claim = match (woken.claim, woken.wake) {
            (Some(claim), _) => {
                assert!(woken.claimed_ago < LEASE);
                claim
            }
            (None, Wake::Work) => backend.claim(&request).await.unwrap(),
            (None, wake) => panic!("{wake:?}"),
        };
        if !claim.leases.is_empty() {
            return claim;
        }
    }
}

pub async fn a_standing_claim_gets_the_job_that_ends_the_wait<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let producer = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..20 {
        assert!(store.claim(1).await.leases.is_empty());
        let jobs = [job("a")];
        let waits = claim_when_woken(&store.backend, "tester", 8);
        let (claim, _) = tokio::join!(waits, enqueue_on(producer, &jobs));
        assert_eq!(ids(&claim), [jobs[0].job_id()]);
        assert!(!claim.more);
        store.complete(&claim.leases[0]).await;
    }
    store.audit().await;
}

pub async fn standing_claims_share_a_batch<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..5 {
        store.claim(1).await;
        let jobs = [job("a"), job("b"), job("a"), job("a")];
        let (first, second, _) = tokio::join!(
            claim_when_woken(&store.backend, "first", 2),
            claim_when_woken(other, "second", 2),
            enqueue_on(&store.backend, &jobs),
        );
        let mut found = [ids(&first), ids(&second)].concat();
        // Who was woken first may have found only a part of it.
        found.extend(ids(&store.claim(4).await));
        let mut expected: Vec<_> = jobs.iter().map(crate::NewJob::job_id).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
    store.audit().await;
}

/// Lets a wait begin; whether it goes on. It may end by a left-over wake-up, without jobs.
async fn goes_on(
    wait: &mut (impl Future<Output = Result<Woken, Error>> + Unpin),
    pause: Duration,
) -> bool {
    match tokio::time::timeout(pause, wait).await {
        Ok(woken) => {
            assert!(woken.unwrap().claim.is_none_or(|claim| claim.leases.is_empty()));
            false
        }
        Err(_) => true,
    }
}

pub async fn a_standing_claim_that_is_revoked_takes_nothing_afterwards<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for _ in 0..20 {
        store.claim(1).await;
        let (interest, request) = waiter("tester", 8);
        let (wanted, revoked) = oneshot::channel();
        let mut wait = pin!(store.backend.wait_and_claim(&interest, &request, revoked, LONG));
        let goes_on = goes_on(&mut wait, Duration::from_millis(5)).await;
        drop(wanted);
        if goes_on {
            let woken = wait.await.unwrap();
            assert!(woken.claim.is_none_or(|claim| claim.leases.is_empty()));
        }
        store.enqueue(&job("a")).await;
        store.complete(&store.claim_one().await).await;
    }
    store.audit().await;
}

pub async fn a_job_that_comes_as_a_claim_is_revoked_is_not_lost<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let producer = other.as_ref().unwrap_or(&store.backend);
    for round in 0..40 {
        store.claim(1).await;
        let (interest, request) = waiter("tester", 8);
        let (wanted, revoked) = oneshot::channel();
        let mut wait = pin!(store.backend.wait_and_claim(&interest, &request, revoked, LONG));
        let goes_on = goes_on(&mut wait, Duration::from_millis(round % 3)).await;
        let jobs = [job("a")];
        let revoke = async move { drop(wanted) };
        let end = async {
            let claim = if goes_on { wait.await.unwrap().claim } else { None };
            claim.map_or_else(Vec::new, |claim| claim.leases)
        };
        let mut leases = if round % 2 == 0 {
            tokio::join!(revoke, enqueue_on(producer, &jobs), end).2
        } else {
            tokio::join!(enqueue_on(producer, &jobs), revoke, end).2
        };
        leases.extend(store.claim(8).await.leases);
        assert_eq!(leases.len(), 1, "round {round}");
        assert_eq!((leases[0].stalls, leases[0].failures), (0, 0));
        store.complete(&leases[0]).await;
    }
    store.audit().await;
}

pub async fn a_dropped_wait_gives_back_what_its_claim_gets<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for round in 0..20 {
        store.claim(1).await;
        let (interest, request) = waiter("tester", 8);
        let (_wanted, revoked) = oneshot::channel();
        let mut wait = Box::pin(store.backend.wait_and_claim(&interest, &request, revoked, LONG));
        let pause = Duration::from_millis(3);
        goes_on(&mut wait, pause).await;
        let jobs = [job("a")];
        if round % 2 == 0 {
            // Time for the job to reach the wait; nobody looks at it any more.
            enqueue_on(other, &jobs).await;
            tokio::time::sleep(pause).await;
            drop(wait);
        } else {
            drop(wait);
            enqueue_on(other, &jobs).await;
        }
        let claim = claim_when_woken(other, "second", 8).await;
        assert_eq!(ids(&claim), [jobs[0].job_id()]);
        assert_eq!((claim.leases[0].stalls, claim.leases[0].failures), (0, 0));
        store.complete(&claim.leases[0]).await;
    }
    assert_eq!(store.count(JobState::Running).await, 0);
    store.audit().await;
}

pub async fn a_standing_claim_ends_with_its_time<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for _ in 0..5 {
        store.claim(1).await;
        let (interest, request) = waiter("tester", 8);
        let (_wanted, revoked) = oneshot::channel();
        let short = Duration::from_millis(20);
        let mut wait = pin!(store.backend.wait_and_claim(&interest, &request, revoked, short));
        assert!(!goes_on(&mut wait, LONG).await);
    }
    store.enqueue(&job("a")).await;
    store.complete(&store.claim_one().await).await;
}

pub async fn a_cancel_request_ends_a_wait_with_a_claim<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    store.claim(1).await;
    let (interest, request) = waiter("tester", 8);
    let (_wanted, revoked) = oneshot::channel();
    let cancels = [id];
    let wait = store.backend.wait_and_claim(&interest, &request, revoked, LONG);
    let (woken, cancelled) = tokio::join!(wait, store.backend.cancel(&cancels));
    cancelled.unwrap();
    assert_eq!(woken.unwrap().wake, Wake::Cancel);
    let renewal = store.renew(&lease, LEASE).await;
    assert_eq!(renewal, crate::Renewal::Held { cancel_requested: vec![id] });
}
