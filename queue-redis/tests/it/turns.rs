//! How many jobs a lane gives in a turn, if they are known to be short.

use queue_core::{Backend, ClaimRequest, Lease, LimitSettings, LimitTarget, NewJob};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, enqueue, job, request};

/// So many jobs of each of so many tenants, in turn.
async fn fill(backend: &RedisBackend, tenants: usize, each: usize) {
    let of = |n: usize| job("a").limit(format!("tenant:{:03}", n % tenants));
    let jobs: Vec<NewJob> = (0..tenants * each).map(of).collect();
    for some in jobs.chunks(500) {
        enqueue(backend, some).await;
    }
}

/// How many jobs which tenant gives, in the order of their turns.
async fn given(backend: &RedisBackend, max: u32, round_jobs: u32) -> Vec<(usize, usize)> {
    let request = ClaimRequest { round_jobs, ..request(&["a"], max) };
    let leases = backend.claim(&request).await.unwrap().leases;
    let mut given: Vec<(usize, usize)> = Vec::new();
    for lease in &leases {
        let key = lease.spec.limits.iter().next().unwrap().as_str();
        let tenant = key.strip_prefix("tenant:").unwrap().parse().unwrap();
        match given.last_mut() {
            Some((last, jobs)) if *last == tenant => *jobs += 1,
            _ => given.push((tenant, 1)),
        }
    }
    given
}

#[tokio::test]
async fn short_jobs_come_from_fewer_lanes_that_still_take_turns() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    fill(&backend, 40, 60).await;
    let few = |first: usize| vec![(first, 32), (first + 1, 32)];
    assert_eq!(given(&backend, 64, 40 * 32).await, few(0));
    assert_eq!(given(&backend, 64, u32::MAX).await, few(2));
    // A turn of all lanes may have 410 jobs: of each ten.
    let some: Vec<_> = (4..11).map(|tenant| (tenant, 10)).collect();
    assert_eq!(given(&backend, 70, 410).await, some);
    // One of each is as few as there are.
    for (first, round_jobs) in [(11, 0), (11 + 32, 39), (11 + 64, 79)] {
        let all: Vec<_> = (first..first + 32).map(|n| (n % 40, 2)).collect();
        assert_eq!(given(&backend, 64, round_jobs).await, all, "{round_jobs}");
    }
    let mut left = 40 * 60 - (64 + 64 + 70 + 3 * 64);
    while left > 0 {
        let given = given(&backend, 200, u32::MAX).await;
        assert!(!given.is_empty(), "{left} jobs are left");
        left -= given.iter().map(|(_, jobs)| jobs).sum::<usize>();
    }
    assert_eq!(given(&backend, 200, u32::MAX).await, []);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn where_lanes_have_few_jobs_a_claim_finds_as_many_as_it_asks_for() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    fill(&backend, 150, 1).await;
    let first: Vec<_> = (0..140).map(|tenant| (tenant, 1)).collect();
    assert_eq!(given(&backend, 140, u32::MAX).await, first);
    assert_eq!(given(&backend, 140, u32::MAX).await.len(), 10);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn turns_leave_a_place_of_limited_keys_free() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let limit = async |target: &str, most: u32| {
        let target: LimitTarget = target.parse().unwrap();
        let settings = LimitSettings { concurrency: Some(most), ..LimitSettings::default() };
        backend.set_limit(&target, Some(&settings)).await.unwrap();
    };
    limit("tenant:*", 100).await;
    limit("tenant:002", 5).await;
    limit("tenant:003", 1).await;
    fill(&backend, 40, 60).await;
    assert_eq!(given(&backend, 64, u32::MAX).await, [(0, 32), (1, 32)]);
    // The second round looks at four lanes.
    let clamped = [(2, 4), (3, 1), (4, 15), (5, 15), (6, 15), (7, 14)];
    assert_eq!(given(&backend, 64, u32::MAX).await, clamped);
    // A lane whose key is full stands back.
    assert_eq!(given(&backend, 64, u32::MAX).await, [(8, 32), (9, 32)]);
    assert_sound(&backend).await;
}

/// Lanes of long jobs wait at their keys, where no claim meets them.
#[tokio::test]
async fn a_new_tenant_does_not_stand_behind_those_that_run_what_they_may() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let target: LimitTarget = "tenant:*".parse().unwrap();
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    backend.set_limit(&target, Some(&one)).await.unwrap();
    fill(&backend, 400, 2).await;
    let mut running = 0;
    while running < 400 {
        running += given(&backend, 1, 0).await.len();
    }
    enqueue(&backend, &[job("a").limit("tenant:999")]).await;
    assert_eq!(given(&backend, 1, 0).await, [(999, 1)]);
    assert_sound(&backend).await;
}

/// A claim reads no more lanes than it wants jobs, and the next ones if these are not enough.
#[tokio::test]
async fn few_jobs_come_from_as_many_lanes_in_the_order_of_their_turns() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    fill(&backend, 40, 2).await;
    let ones = |from: usize, to: usize| (from..to).map(|n| (n, 1)).collect::<Vec<_>>();
    assert_eq!(given(&backend, 5, 0).await, ones(0, 5));
    assert_eq!(given(&backend, 31, 0).await, ones(5, 36));
    // Beyond the slots of a kind, the claim goes on to the next lanes.
    enqueue(&backend, &[job("b"), job("b"), job("b")]).await;
    let claimed = async |slots: [u32; 2]| {
        let mut request = request(&["a", "b"], 6);
        for (kind, slots) in request.kinds.iter_mut().zip(slots) {
            kind.slots = slots;
        }
        let leases = backend.claim(&request).await.unwrap().leases;
        leases.iter().map(|lease| lease.spec.kind.as_str().to_owned()).collect::<String>()
    };
    assert_eq!(claimed([6, 2]).await, "aaaaaa");
    assert_eq!(claimed([4, 6]).await, "aaaabb");
    assert_eq!(claimed([1, 6]).await, "ab");
    assert_eq!(claimed([6, 6]).await, "aaaaaa");
    assert_sound(&backend).await;
}

/// Where the slots of a kind run out within a round, the others share what is left of it.
#[tokio::test]
async fn slots_that_run_out_leave_the_round_to_the_other_lanes() {
    let harness = RedisHarness::new();
    for (max, round_jobs, expected) in [
        (5, 0, "a0 b0 b1 b0 b1"),
        (5, 10, "a0 b0 b1 b0 b1"),
        (7, 0, "a0 b0 b1 b0 b0 b1 b1"),
        (4, 0, "a0 b0 b1 b0"),
    ] {
        let backend = harness.now().await;
        let of = |kind: &str, n: usize| job(kind).limit(format!("tenant:{kind}{n}"));
        let of_a = (0..8).map(|n| of("a", n));
        let jobs: Vec<NewJob> = of_a.chain((0..20).map(|n| of("b", n % 2))).collect();
        enqueue(&backend, &jobs).await;
        let mut request = ClaimRequest { round_jobs, ..request(&["a", "b"], max) };
        request.kinds[0].slots = 1;
        let leases = backend.claim(&request).await.unwrap().leases;
        let tenant = |lease: &Lease| lease.spec.limits.iter().next().unwrap().name().to_owned();
        assert_eq!(leases.iter().map(tenant).collect::<Vec<_>>().join(" "), expected, "{max}");
        assert_sound(&backend).await;
    }
}
