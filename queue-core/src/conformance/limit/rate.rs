//! How many jobs may start in a time.

use super::*;

/// A schedule of days is none for settings that start jobs by the second, and what a large burst has let
/// start is none of a smaller one.
pub async fn other_rates_count_from_their_beginning_on<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let (day, second) = (Duration::from_secs(86_400), Duration::from_secs(1));
    let fill = async |key: &str| {
        let jobs: Vec<NewJob> = (0..20).map(|_| job("a").limit(key)).collect();
        store.enqueue_all(&jobs).await;
    };
    for own in ["tenant:a", "tenant:*", "tenant:b"] {
        let key = if own == "tenant:*" { "tenant:c" } else { own };
        store.limit(own, &rate(3, day, 3)).await;
        fill(key).await;
        assert_eq!(store.takes(20).await.len(), 3);
        if own == "tenant:b" {
            // Those of the class count again.
            store.limit("tenant:*", &rate(4, second, 2)).await;
            store.unlimit(own).await;
        } else {
            store.limit(own, &rate(4, second, 2)).await;
        }
        let mut at = store.now();
        for started in [1, 1, 2] {
            assert_eq!(store.takes(20).await.len(), 0, "{own}");
            let [Blocked::Rate { next_at }] = store.status(key).await.blocked[..] else {
                panic!("the rate is used up")
            };
            at = at.after(second / 4);
            assert_eq!(next_at, at, "{own}");
            at = at.after(second / 4 * (started - 1));
            store.advance(second / 4 * started).await;
            assert_eq!(store.takes(20).await.len(), started as usize);
        }
        for _ in 0..10 {
            store.advance(second).await;
            store.takes(20).await;
        }
    }
    let key = "tenant:d";
    store.limit(key, &rate(1, second * 60, 10)).await;
    fill(key).await;
    assert_eq!(store.takes(20).await.len(), 10);
    for burst in (1..10).rev() {
        store.limit(key, &rate(1, second * 60, burst)).await;
        assert_eq!(store.takes(20).await.len(), 0, "a burst of {burst}");
    }
    store.audit().await;
}

pub async fn a_rate_lets_so_many_start<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &rate(10, Duration::from_secs(1), 3)).await;
    store.enqueue_all(&[(); 20].map(|()| job("a").limit("tenant:a"))).await;
    let first = store.claim(9).await;
    assert_eq!((first.leases.len(), first.more), (3, false));
    assert_eq!(first.next_due, Some(Duration::from_millis(100)));
    // What ends gives no token back.
    store.complete(&first.leases[0]).await;
    let step = Duration::from_millis(50);
    let mut started = Vec::new();
    for _ in 0..8 {
        store.advance(step).await;
        started.push(store.takes(9).await.len());
    }
    assert_eq!(started, [0, 1, 0, 1, 0, 1, 0, 1]);
    store.advance(Duration::from_secs(60)).await;
    store.maintain().await;
    assert_eq!(store.takes(9).await.len(), 3, "what was not used does not pile up");
    store.audit().await;
}

pub async fn an_expired_job_takes_no_token<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &rate(1, Duration::from_secs(60), 1)).await;
    let expires_at = store.now().after(Duration::from_millis(5));
    let expiring = store.enqueue(&job("a").limit("tenant:a").expires_at(expires_at)).await.id;
    let lasting = store.enqueue(&job("a").limit("tenant:a")).await.id;
    store.advance(Duration::from_millis(5)).await;
    assert_eq!(store.takes(9).await, [lasting]);
    assert_eq!(store.state(expiring).await, JobState::Dead);
    store.audit().await;
}

/// Keys of a class that have nothing else in common are reached one page after the other, whoever calls.
pub async fn another_rate_reaches_each_of_many_keys<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let (day, second) = (Duration::from_secs(86_400), Duration::from_secs(1));
    store.limit("tenant:*", &rate(1, day, 1)).await;
    let jobs: Vec<NewJob> =
        (0..1200).map(|n| job("a").limit(format!("tenant:{}", n % 600))).collect();
    for some in jobs.chunks(500) {
        store.enqueue_all(some).await;
    }
    let drain = async || {
        let mut taken = 0;
        loop {
            let claim = store.claim(500).await;
            if claim.leases.is_empty() && !claim.more {
                return taken;
            }
            taken += claim.leases.len();
        }
    };
    assert_eq!(drain().await, 600);
    store.limit("tenant:*", &rate(4, second, 1)).await;
    while store.maintain().await.more {}
    assert_eq!(drain().await, 0, "the next ones start a quarter of a second later");
    for n in [0, 17, 599] {
        let [Blocked::Rate { next_at }] = store.status(&format!("tenant:{n}")).await.blocked[..]
        else {
            panic!("the rate is used up")
        };
        assert!(next_at <= store.now().after(second / 4), "tenant {n}: {next_at:?}");
    }
    store.advance(second / 4).await;
    while store.maintain().await.more {}
    assert_eq!(drain().await, 600);
    store.audit().await;
}
