//! Waiting: what has no room is no work, and room wakes.

use super::*;
use crate::{Interest, Kind, KindLimits, Wake, WorkerId};

/// Long enough that only a wake-up that was lost for good reaches it.
pub(super) const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

pub(super) fn interest(added: &[&str]) -> Interest {
    let kind = KindLimits { kind: Kind::new("a").unwrap(), limits: keys(added) };
    Interest {
        worker: WorkerId::new("tester").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![kind],
    }
}

/// What a worker does that finds nothing: it claims and waits until it is not called any more.
async fn calm<H: Harness>(store: &Store<'_, H>, added: &[&str]) {
    let mut calls = 0;
    loop {
        let claim = store.claim_with(9, added).await;
        assert!(claim.leases.is_empty(), "it has no room");
        match store.backend.wait(&interest(added), SHORT).await.unwrap() {
            Wake::Work => calls += 1,
            _ => return,
        }
        assert!(calls < 4, "called again and again for jobs that have no room");
    }
}

pub async fn a_blocked_job_is_no_work_until_there_is_room<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(1)).await;
    store.enqueue_all(&[(); 4].map(|()| job("a").limit("tenant:a"))).await;
    let mut running = store.claim_one().await;
    calm(&store, &[]).await;
    let waiter = interest(&[]);
    // By the end of a job, of a lease, and by a change of the settings.
    let (woken, _) =
        tokio::join!(store.backend.wait(&waiter, LONG), async { store.complete(&running).await });
    assert_eq!(woken.unwrap(), Wake::Work);
    running = store.claim_one().await;
    calm(&store, &[]).await;
    store.advance(LEASE).await;
    let (woken, _) = tokio::join!(store.backend.wait(&waiter, LONG), store.maintain());
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim_one().await.spec.id, running.spec.id);
    calm(&store, &[]).await;
    let two = concurrency(2);
    let (woken, _) = tokio::join!(store.backend.wait(&waiter, LONG), store.limit("tenant:a", &two));
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim(9).await.leases.len(), 1);
    store.audit().await;
}

pub async fn room_at_a_worker_s_own_key_wakes_it<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    store.enqueue_all(&[job("a"), job("a")]).await;
    let running = store.claim_with(1, &["provider:x"]).await.leases.remove(0);
    calm(&store, &["provider:x"]).await;
    let waiter = interest(&["provider:x"]);
    let (woken, _) =
        tokio::join!(store.backend.wait(&waiter, LONG), async { store.complete(&running).await });
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim_with(9, &["provider:x"]).await.leases.len(), 1);
    store.audit().await;
}

pub async fn room_is_told_to_each_of_many_queues<H: Harness>(harness: &H) {
    const QUEUES: usize = 250;
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    let queue = |n: usize| QueueName::new(format!("q{n}")).unwrap();
    let of = async |n: usize| {
        let request = ClaimRequest { queues: vec![queue(n)], ..claim_request(1) };
        store.backend.claim(&request).await.unwrap()
    };
    let jobs: Vec<NewJob> =
        (0..QUEUES).map(|n| job("a").queue(queue(n)).limit("provider:x")).collect();
    store.enqueue_all(&jobs).await;
    let mut running = of(0).await.leases.remove(0);
    for n in 1..QUEUES {
        assert_eq!(of(n).await.leases, []);
    }
    // Whoever came last, or is in the middle, gets the place before the others ask for it.
    for n in [QUEUES - 1, QUEUES / 2] {
        store.complete(&running).await;
        let mut claim = of(n).await;
        for _ in 0..8 {
            if claim.leases.is_empty() {
                let is_soon = |due: Duration| due <= Duration::from_millis(1);
                assert!(claim.more || claim.next_due.is_some_and(is_soon), "{claim:?}");
                claim = of(n).await;
            }
        }
        running = claim.leases.remove(0);
        store.audit().await;
    }
}

pub async fn the_time_of_the_next_room_is_told<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &rate(1, Duration::from_secs(1), 1)).await;
    store.limit("tenant:a", &rate(1, Duration::from_secs(7), 1)).await;
    let both = || job("a").limit("tenant:a").limit("provider:x");
    store.enqueue_all(&[both(), both()]).await;
    assert_eq!(store.takes(1).await.len(), 1);
    let told = store.claim(9).await.next_due.expect("the next token");
    assert!(told <= Duration::from_secs(7) && told > Duration::ZERO, "{told:?}");
    // A worker that asks when it is told to gets the job in the end, in few steps.
    let mut asked = 0;
    loop {
        let claim = store.claim(9).await;
        if !claim.leases.is_empty() {
            break;
        }
        store.advance(claim.next_due.expect("a time")).await;
        asked += 1;
        assert!(asked <= 4);
    }
    store.audit().await;
}
