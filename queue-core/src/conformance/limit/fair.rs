//! Who goes first when lanes take turns and some of them wait at a limit.

use super::*;

pub async fn a_small_tenant_waits_for_one_turn_at_most<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let of_large: Vec<NewJob> = (0..400).map(|_| job("a").limit("tenant:large")).collect();
    store.enqueue_all(&of_large).await;
    assert_eq!(store.takes(5).await.len(), 5);
    let small = store.enqueue(&job("a").limit("tenant:small")).await.id;
    let next = [store.takes(1).await, store.takes(1).await].concat();
    assert!(next.contains(&small), "one turn of the large tenant is all that goes before");
    let shared = store.enqueue_all(&[(); 6].map(|()| job("a").limit("tenant:other"))).await;
    let claim = store.takes(8).await;
    assert_eq!(claim.iter().filter(|id| shared.contains(id)).count(), 4, "half of the places");
    store.audit().await;
}

pub async fn a_heavier_tenant_gets_more_of_each_turn<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:gold", &LimitSettings { weight: Some(3), ..concurrency(99) }).await;
    for tenant in ["tenant:gold", "tenant:plain"] {
        store.enqueue_all(&[(); 40].map(|()| job("a").limit(tenant))).await;
    }
    let claim = store.claim(12).await;
    let of_gold = |lease: &&Lease| *lease.spec.limits == *keys(&["tenant:gold"]);
    assert_eq!(claim.leases.iter().filter(of_gold).count(), 9);
    // The heaviest of a lane's keys counts.
    store.limit("provider:*", &LimitSettings { weight: Some(2), ..concurrency(99) }).await;
    let both = || job("b").limit("tenant:gold").limit("provider:x");
    let heavy = store.enqueue_all(&[(); 40].map(|()| both())).await;
    let claim = store.takes(7).await;
    assert_eq!(claim.iter().filter(|id| heavy.contains(id)).count(), 3, "of 3 + 1 + 3");
    store.audit().await;
}

pub async fn a_heavier_tenant_gets_more_turns_one_job_at_a_time<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store
        .limit("tenant:gold", &LimitSettings { weight: Some(4), ..LimitSettings::default() })
        .await;
    for tenant in ["tenant:gold", "tenant:plain"] {
        store.enqueue_all(&[(); 120].map(|()| job("a").limit(tenant))).await;
    }
    let mut gold = 0;
    for _ in 0..100 {
        let lease = store.claim_one().await;
        gold += u32::from(lease.spec.limits == keys(&["tenant:gold"]));
        store.complete(&lease).await;
    }
    assert!((70..=90).contains(&gold), "{gold} of 100, where 4 of 5 are due");
    store.audit().await;
}

pub async fn a_blocked_lane_keeps_its_place<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    let of = |tenant: &str| job("a").limit("provider:x").limit(format!("tenant:{tenant}"));
    let sent = store.enqueue_all(&["a", "b", "c", "d"].map(of)).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let claim = store.claim(9).await;
        assert_eq!(claim.leases.len(), 1);
        order.push(claim.leases[0].spec.id);
        // While it runs, others come and go and find no room.
        assert_eq!(store.takes(9).await, []);
        store.complete(&claim.leases[0]).await;
    }
    assert_eq!(order, sent);
    store.audit().await;
}

pub async fn blocked_lanes_keep_their_priority<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    store.enqueue(&job("a").limit("provider:x")).await;
    let running = store.claim_one().await;
    let sent = store
        .enqueue_all(&[9, 5, 0].map(|level| job("a").limit("provider:x").priority(level)))
        .await;
    assert_eq!(store.takes(9).await, []);
    let open = store.enqueue(&job("a").priority(7)).await.id;
    assert_eq!(store.takes(9).await, [open], "a blocked lane holds up no other");
    store.complete(&running).await;
    let urgent = store.enqueue(&job("a").priority(1)).await.id;
    assert_eq!(store.takes(2).await, [sent[2], urgent]);
    store.audit().await;
}

pub async fn many_blocked_lanes_come_back<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:*", &concurrency(1)).await;
    let of = |n: usize| job("a").limit(format!("tenant:{n}"));
    let (first, second): (Vec<NewJob>, Vec<NewJob>) = (0..700).map(|n| (of(n), of(n))).unzip();
    for some in first.chunks(500).chain(second.chunks(500)) {
        store.enqueue_all(some).await;
    }
    let drain = async || {
        let mut taken = Vec::new();
        loop {
            let claim = store.claim(500).await;
            if claim.leases.is_empty() && !claim.more {
                return taken;
            }
            taken.extend(claim.leases);
        }
    };
    let taken = drain().await;
    assert_eq!(taken.len(), 700);
    let open = store.enqueue(&job("a").priority(9)).await.id;
    assert_eq!(store.takes(9).await, [open], "behind 700 lanes that wait");
    // As many find room at once, by their ends and by a change of settings.
    for lease in &taken[..100] {
        store.complete(lease).await;
    }
    assert_eq!(drain().await.len(), 100);
    store.limit("tenant:*", &concurrency(2)).await;
    while store.maintain().await.more {}
    assert_eq!(drain().await.len(), 600);
    store.audit().await;
}

pub async fn claims_of_other_kinds_do_not_take_a_place<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    store.enqueue(&job("a").limit("provider:x")).await;
    let running = store.claim_one().await;
    let [of_c, of_a] = ["c", "a"].map(|kind| job(kind).limit("provider:x"));
    let sent = store.enqueue_all(&[of_c, of_a]).await;
    assert_eq!(store.takes(9).await, []);
    store.complete(&running).await;
    // The first lane that waits is of a kind that nobody here runs.
    assert_eq!(store.takes(9).await, [sent[1]]);
    store.audit().await;
}
