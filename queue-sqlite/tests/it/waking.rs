//! Who is woken, and what a repeat of a claim does.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{Backend, ClaimRequest, Interest, KindSlots, Timestamp, Wake, WorkerId};

use crate::support::{STORED, interest, job, kind, open, request, set_clock};

#[tokio::test]
async fn a_worker_that_has_no_slots_left_leaves_the_job_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let backend = Arc::new(open(&directory.path().join("queue.db")));
    let waiting = ["one", "two"].map(|name| {
        let backend = Arc::clone(&backend);
        let interest = Interest { worker: WorkerId::new(name).unwrap(), ..interest() };
        tokio::spawn(async move {
            let woken = backend.wait(&interest, Duration::from_secs(20)).await.unwrap();
            // Its slots went to something else meanwhile.
            let kinds = vec![KindSlots::new(kind(), 0)];
            let worker = interest.worker;
            let claim = ClaimRequest { worker, kinds, ..request(1) };
            let claim = backend.claim(&claim).await.unwrap();
            assert!(claim.leases.is_empty());
            woken
        })
    });
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Wake::Work);
    }
}

/// Its claim has told it when the next job is due, and it sleeps until then.
#[tokio::test]
async fn a_worker_is_not_woken_again_for_what_it_knows() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let delayed = |seconds| job("x").delay(Duration::from_secs(seconds));
    backend.enqueue(&[delayed(3600)], STORED).await.unwrap();
    let claim = backend.claim(&request(1)).await.unwrap();
    assert!(claim.leases.is_empty() && claim.next_due.is_some());
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(20));
    let wait = async |time| backend.wait(&interest(), time).await.unwrap();
    assert_eq!(wait(short).await, Wake::Timeout);
    // Nor after waits that ended in another way: dropped, or woken.
    assert!(tokio::time::timeout(short, wait(long)).await.is_err());
    assert_eq!(wait(short).await, Wake::Timeout);
    backend.enqueue(&[delayed(60)], STORED).await.unwrap();
    assert_eq!(wait(long).await, Wake::Work);
    assert_eq!(wait(short).await, Wake::Timeout);
}

#[tokio::test]
async fn a_repeated_claim_extends_its_lease_and_never_shortens_it() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let at = |seconds: u64| Timestamp::from_ms((4_102_444_800 + seconds) * 1000);
    set_clock(backend.path(), at(0));
    let job = job("x");
    backend.enqueue(std::slice::from_ref(&job), STORED).await.unwrap();
    let claim = request(1);
    let until = async || {
        let record = backend.get(&[job.job_id()]).await.unwrap().remove(0).unwrap();
        record.lease_until.unwrap()
    };
    let first = backend.claim(&claim).await.unwrap();
    assert_eq!(until().await, at(30));
    set_clock(backend.path(), at(20));
    let repeated = backend.claim(&claim).await.unwrap();
    assert_eq!(repeated.leases, first.leases);
    assert_eq!(until().await, at(50));
    let shorter = ClaimRequest { lease: Duration::from_secs(1), ..claim };
    backend.claim(&shorter).await.unwrap();
    assert_eq!(until().await, at(50));
}
