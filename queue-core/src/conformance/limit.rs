//! Promise P7: limits over all workers, exact and fair.

mod admission;
mod breaker;
mod drift;
mod fair;
mod rate;
mod reset;
mod wake;

use std::collections::HashSet;
use std::time::Duration;

pub use admission::*;
pub use breaker::*;
pub use drift::*;
pub use fair::*;
pub use rate::*;
pub use reset::*;
pub use wake::*;

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, failure, ids, job};
use crate::{
    Adaptive, Backend, Blocked, Breaker, Claim, ClaimRequest, JobId, JobState, Lease, LimitKey,
    LimitKeys, LimitSettings, LimitStatus, LimitTarget, NewJob, Outcome, QueueName, Rate, Renewal,
    Settled,
};

fn concurrency(most: u32) -> LimitSettings {
    LimitSettings { concurrency: Some(most), ..LimitSettings::default() }
}

fn rate(count: u32, period: Duration, burst: u32) -> LimitSettings {
    let rate = Some(Rate::new(count, period).with_burst(burst));
    LimitSettings { rate, ..LimitSettings::default() }
}

fn keys(texts: &[&str]) -> LimitKeys {
    LimitKeys::parse(texts).unwrap()
}

/// A claim of the kinds `a`, with these keys added by the worker, and `b`.
fn claim_with(max: u32, added: &[&str]) -> ClaimRequest {
    let mut request = claim_request(max);
    request.kinds[0].limits = keys(added);
    request
}

impl<H: Harness> Store<'_, H> {
    async fn limit(&self, target: &str, settings: &LimitSettings) -> bool {
        let target = LimitTarget::new(target).unwrap();
        settings.validate(&target).unwrap();
        self.backend.set_limit(&target, Some(settings)).await.unwrap()
    }

    async fn unlimit(&self, target: &str) -> bool {
        self.backend.set_limit(&LimitTarget::new(target).unwrap(), None).await.unwrap()
    }

    async fn reset(&self, key: &str) -> bool {
        self.backend.reset_limit(&LimitKey::new(key).unwrap()).await.unwrap()
    }

    async fn status(&self, key: &str) -> LimitStatus {
        let key = LimitKey::new(key).unwrap();
        let status = self.backend.limit_status(&[key]).await.unwrap().remove(0);
        assert_eq!(status.drift, 0, "{status:?}");
        status
    }

    async fn enqueue_all(&self, jobs: &[NewJob]) -> Vec<JobId> {
        enqueue_on(&self.backend, jobs).await;
        jobs.iter().map(NewJob::job_id).collect()
    }

    /// What a claim of kinds `a` and `b` gets.
    async fn takes(&self, max: u32) -> Vec<JobId> {
        ids(&self.claim(max).await)
    }

    async fn claim_with(&self, max: u32, added: &[&str]) -> Claim {
        self.backend.claim(&claim_with(max, added)).await.unwrap()
    }
}

fn lease_of(claim: &Claim, id: JobId) -> Lease {
    claim.leases.iter().find(|lease| lease.spec.id == id).expect("it was claimed").clone()
}

pub async fn a_concurrency_is_never_exceeded<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(2)).await;
    let sent = store.enqueue_all(&[(); 5].map(|()| job("a").limit("tenant:a"))).await;
    let first = store.claim(9).await;
    assert_eq!((ids(&first), first.more), (sent[..2].to_vec(), false));
    assert_eq!(store.takes(9).await, []);
    let status = store.status("tenant:a").await;
    assert_eq!((status.running, status.allowed, status.live), (2, Some(2), 5));
    let mut holders = sent[..2].to_vec();
    holders.sort();
    assert_eq!(status.holders, holders);
    store.audit().await;
    store.complete(&first.leases[0]).await;
    assert_eq!(store.takes(9).await, [sent[2]]);
    store.settle(&first.leases[1], Outcome::Dead { error: failure() }).await;
    assert_eq!(store.takes(9).await, [sent[3]]);
    store.audit().await;
}

pub async fn jobs_without_keys_are_not_limited<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:*", &concurrency(1)).await;
    let sent = store
        .enqueue_all(&[
            job("a").limit("tenant:a"),
            job("a").limit("tenant:a"),
            job("a"),
            job("b"),
            job("a").limit("provider:x"),
            job("a").limit("provider:x"),
        ])
        .await;
    let taken: HashSet<JobId> = store.takes(9).await.into_iter().collect();
    assert_eq!(taken, [0, 2, 3, 4, 5].map(|n| sent[n]).into());
    store.audit().await;
}

/// Workers may hold more jobs than they run where nobody waits for their keys (ADR 12).
pub async fn a_claim_says_whether_its_keys_have_room_to_spare<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let one_of = |tenant: &str| job("a").limit(format!("tenant:{tenant}"));
    let some_of = |count: usize, tenant: &str| -> Vec<NewJob> {
        std::iter::repeat_with(|| one_of(tenant)).take(count).collect()
    };
    let takes = async |jobs: &[NewJob]| {
        store.enqueue_all(jobs).await;
        let request = claim_request(9);
        let claim = store.backend.claim(&request).await.unwrap();
        assert_eq!(claim.leases.len(), jobs.len());
        assert!(!store.backend.claim(&request).await.unwrap().spare || jobs.is_empty(), "a repeat");
        for lease in &claim.leases {
            store.complete(lease).await;
        }
        claim.spare
    };
    assert!(takes(&[one_of("a"), job("a"), one_of("b")]).await);
    store.limit("tenant:a", &concurrency(3)).await;
    for (jobs, spare) in [(0, true), (1, true), (2, false), (3, false)] {
        assert_eq!(takes(&some_of(jobs, "a")).await, spare, "{jobs} of 3");
        let mixed = [some_of(jobs, "a"), some_of(4 - jobs, "b")].concat();
        assert_eq!(takes(&mixed).await, spare, "{jobs} of 3, and others");
    }
    assert!(takes(&[job("a"), job("b")]).await, "jobs without keys");
    store.unlimit("tenant:a").await;
    assert!(takes(&some_of(3, "a")).await, "no limit any more");
    // What is limited in another way is not there to be held.
    let rate = Rate::new(1000, Duration::from_secs(1));
    let breaker =
        Breaker { failures: 9, window: Duration::from_secs(1), cooldown: Duration::from_secs(1) };
    let wide = concurrency(1000);
    let none = LimitSettings::default();
    for (settings, spare) in [
        (wide.clone(), true),
        (LimitSettings { max_live: Some(1000), ..none.clone() }, true),
        (LimitSettings { weight: Some(3), ..none.clone() }, true),
        (LimitSettings { rate: Some(rate), ..none.clone() }, false),
        (LimitSettings { breaker: Some(breaker), ..none }, false),
        (LimitSettings { adaptive: Some(Adaptive { floor: 1 }), ..wide }, false),
    ] {
        store.limit("tenant:*", &settings).await;
        assert_eq!(takes(&[one_of("a"), one_of("b")]).await, spare, "{settings:?}");
        assert_eq!(takes(&[one_of("a")]).await, spare, "alone: {settings:?}");
    }
    store.audit().await;
}

/// Those of one lane wait for its key once it is full: it takes care not to be.
pub async fn a_lane_leaves_a_place_of_its_keys_free<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:*", &concurrency(3)).await;
    let jobs: Vec<NewJob> = (0..16).map(|n| job("a").limit(format!("tenant:{}", n % 4))).collect();
    let sent = store.enqueue_all(&jobs).await;
    let order = |lanes: &[usize]| -> Vec<JobId> { lanes.iter().map(|n| sent[*n]).collect() };
    // Two of each in the first round, as far as they go, and one of each in the next one.
    let first = [0, 4, 1, 5, 2, 6, 3, 7, 8, 9];
    assert_eq!(store.takes(10).await, order(&first));
    assert_eq!(store.takes(9).await, order(&[10, 11]));
    store.audit().await;
}

pub async fn the_exact_name_counts_before_its_class<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert!(store.limit("tenant:*", &concurrency(1)).await);
    assert!(store.limit("tenant:a", &concurrency(3)).await);
    assert!(!store.limit("tenant:a", &concurrency(3)).await, "no change");
    let of = |tenant: &str| [(); 4].map(|()| job("a").limit(format!("tenant:{tenant}")));
    store.enqueue_all(&of("a")).await;
    store.enqueue_all(&of("b")).await;
    assert_eq!(store.takes(9).await.len(), 3 + 1);
    let (target, settings) = store.status("tenant:b").await.settings.expect("the default");
    assert_eq!((target.to_string(), settings), ("tenant:*".to_owned(), concurrency(1)));
    let set = store.backend.limits().await.unwrap();
    let targets: Vec<String> = set.iter().map(|(target, _)| target.to_string()).collect();
    assert_eq!(targets, ["tenant:a", "tenant:*"]);
    // Without settings of its own the key falls back to those of its class: nobody is stopped.
    assert!(store.unlimit("tenant:a").await && !store.unlimit("tenant:a").await);
    assert_eq!(store.status("tenant:a").await.running, 3);
    assert_eq!(store.takes(9).await, []);
    store.unlimit("tenant:*").await;
    assert_eq!(store.takes(9).await.len(), 4);
    assert_eq!(store.status("tenant:b").await.settings, None);
    store.audit().await;
}

pub async fn a_worker_adds_keys_to_its_kinds<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    let sent = store.enqueue_all(&[job("a"), job("a"), job("b")]).await;
    let first = store.claim_with(9, &["provider:x"]).await;
    assert_eq!(ids(&first), [sent[0], sent[2]]);
    let status = store.status("provider:x").await;
    assert_eq!((status.holders, status.live), (vec![sent[0]], 0));
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), []);
    store.audit().await;
    store.complete(&lease_of(&first, sent[0])).await;
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), [sent[1]]);
    // The key of one kind of the worker does not count for another.
    store.enqueue_all(&[job("b")]).await;
    assert_eq!(store.claim_with(9, &["provider:x"]).await.leases.len(), 1);
    store.audit().await;
}

pub async fn two_kinds_share_the_key_that_a_worker_adds<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(3)).await;
    store.enqueue_all(&[(); 4].map(|()| job("a"))).await;
    store.enqueue_all(&[(); 4].map(|()| job("b").limit("provider:x"))).await;
    let mut request = claim_with(9, &["provider:x"]);
    request.kinds[1].limits = keys(&["provider:x"]);
    // A job that carries the key which its worker adds holds it once.
    assert_eq!(store.backend.claim(&request).await.unwrap().leases.len(), 3);
    assert_eq!(store.status("provider:x").await.running, 3);
    store.audit().await;
}

pub async fn every_end_gives_the_place_back_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(1)).await;
    let delay = Duration::from_secs(60);
    let ends = [
        Outcome::Completed { result: None },
        Outcome::Retry { delay, error: failure() },
        Outcome::Dead { error: failure() },
        Outcome::Snoozed { delay },
        Outcome::Throttled { delay, limits: LimitKeys::NONE },
        Outcome::Cancelled,
        Outcome::Released,
    ];
    for end in ends {
        store.enqueue_all(&[(); 3].map(|()| job("a").limit("tenant:a"))).await;
        let first = store.claim_one().await;
        assert_eq!(store.takes(9).await, []);
        assert!(matches!(store.settle(&first, end.clone()).await, Settled::Applied(_)));
        let second = store.claim_one().await;
        // A repeat, and whatever comes late, frees nothing (promises P2 and P3).
        assert!(!matches!(store.settle(&first, end).await, Settled::Applied(_)));
        assert_eq!(store.takes(9).await, []);
        assert_eq!(store.status("tenant:a").await.holders, [second.spec.id]);
        store.audit().await;
        store.complete(&second).await;
        for lease in store.claim(9).await.leases {
            store.complete(&lease).await;
        }
        while let Some(lease) = store.claim(9).await.leases.pop() {
            store.complete(&lease).await;
        }
    }
    assert_eq!(store.status("tenant:a").await.running, 0);
}

pub async fn a_lost_lease_gives_the_place_back<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    let sent = store.enqueue_all(&[job("a"), job("a")]).await;
    let lost = store.claim_with(1, &["provider:x"]).await.leases.remove(0);
    store.advance(LEASE).await;
    // The lease is over but not reaped: its job may still run.
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), []);
    assert_eq!(store.maintain().await.reaped, 1);
    assert_eq!(store.renew(&lost, LEASE).await, Renewal::Lost);
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), [sent[0]]);
    store.complete(&lost).await;
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), []);
    store.audit().await;
}

pub async fn a_repeated_claim_takes_no_more_room<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let second = Duration::from_secs(1);
    store.limit("tenant:a", &LimitSettings { concurrency: Some(2), ..rate(1, second, 3) }).await;
    store.enqueue_all(&[(); 4].map(|()| job("a").limit("tenant:a"))).await;
    let request = claim_request(2);
    for _ in 0..3 {
        assert_eq!(store.backend.claim(&request).await.unwrap().leases.len(), 2);
    }
    assert_eq!(store.status("tenant:a").await.running, 2);
    store.unlimit("tenant:a").await;
    store.limit("tenant:a", &rate(1, second, 3)).await;
    assert_eq!(store.takes(9).await.len(), 1, "two of three tokens were used");
    store.audit().await;
}

pub async fn a_lower_limit_stops_nobody<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(3)).await;
    store.enqueue_all(&[(); 5].map(|()| job("a").limit("tenant:a"))).await;
    let running = store.claim(9).await.leases;
    store.limit("tenant:a", &concurrency(1)).await;
    assert_eq!(store.status("tenant:a").await.running, 3);
    for (left, lease) in (0..3).rev().zip(&running) {
        assert_eq!(store.takes(9).await, [], "{} run", left + 1);
        store.complete(lease).await;
    }
    assert_eq!(store.takes(9).await.len(), 1);
    store.audit().await;
}

pub async fn settings_that_come_late_count_what_runs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue_all(&[(); 4].map(|()| job("a").limit("tenant:a"))).await;
    let running = store.claim(2).await.leases;
    store.limit("tenant:*", &concurrency(2)).await;
    assert_eq!(store.takes(9).await, []);
    store.complete(&running[0]).await;
    assert_eq!(store.takes(9).await.len(), 1);
    store.audit().await;
}

/// A claim is made again although it was answered, and meanwhile others have used up a rate that jobs need
/// which no claim has met.
pub async fn a_repeat_knows_when_there_is_room<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &rate(1, Duration::from_millis(20), 1)).await;
    store.enqueue_all(&[job("b")]).await;
    let first = claim_request(1);
    assert_eq!(store.backend.claim(&first).await.unwrap().leases.len(), 1);
    store.enqueue_all(&[job("a").limit("tenant:a"), job("b").limit("tenant:a")]).await;
    let mut of_a = claim_request(1);
    of_a.kinds.retain(|asked| asked.kind.as_str() == "a");
    assert_eq!(store.backend.claim(&of_a).await.unwrap().leases.len(), 1);
    let repeat = store.backend.claim(&first).await.unwrap();
    let next = repeat.next_due.expect("there is room then");
    assert!(next <= Duration::from_millis(20), "{next:?}");
    store.audit().await;
}

pub async fn a_job_waits_for_each_of_its_keys<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &concurrency(1)).await;
    store.limit("tenant:a", &concurrency(1)).await;
    let of_both = || job("a").limit("tenant:a").limit("provider:x");
    let sent = store.enqueue_all(&[of_both(), of_both(), of_both()]).await;
    let first = store.claim_one().await;
    assert_eq!(first.spec.limits, keys(&["provider:x", "tenant:a"]));
    store.limit("provider:x", &concurrency(2)).await;
    assert_eq!(store.takes(9).await, [], "the tenant is still busy");
    store.limit("tenant:a", &concurrency(2)).await;
    assert_eq!(store.takes(9).await, [sent[1]]);
    store.limit("tenant:a", &concurrency(3)).await;
    assert_eq!(store.takes(9).await, [], "the provider is busy now");
    store.audit().await;
}

pub async fn a_lane_that_cannot_use_a_place_passes_it_on<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for key in ["provider:x", "provider:y"] {
        store.limit(key, &concurrency(1)).await;
    }
    let of = |key: &str| job("a").limit(key);
    let held = store.enqueue_all(&["provider:x", "provider:y"].map(of)).await;
    let running = store.claim(2).await;
    // Three lanes wait for x; the first two need y as well.
    let of_both = |kind| job(kind).limit("provider:x").limit("provider:y");
    let waiting =
        store.enqueue_all(&[of_both("a"), of_both("b"), job("b").limit("provider:x")]).await;
    assert_eq!(store.takes(9).await, []);
    store.complete(&lease_of(&running, held[0])).await;
    assert_eq!(store.takes(9).await, [waiting[2]]);
    store.audit().await;
    store.complete(&lease_of(&running, held[1])).await;
    assert_eq!(store.takes(9).await, [], "x is taken again");
    store.unlimit("provider:x").await;
    assert_eq!(store.takes(9).await, [waiting[0]]);
    store.audit().await;
}

pub async fn a_blocked_lane_can_be_emptied_and_filled<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(1)).await;
    let of_a = || job("a").limit("tenant:a");
    store.enqueue(&of_a()).await;
    let running = store.claim_one().await;
    let waiting = store.enqueue(&of_a()).await.id;
    assert_eq!(store.takes(9).await, []);
    store.cancel(waiting).await;
    store.audit().await;
    let next = store.enqueue(&of_a()).await.id;
    let deleted = store.enqueue(&of_a()).await.id;
    assert_eq!(store.takes(9).await, []);
    store.backend.delete(&[(deleted, JobState::Ready)]).await.unwrap();
    // What is given back goes to the head, also of a lane that waits.
    store.settle(&running, Outcome::Released).await;
    assert_eq!(store.takes(9).await, [running.spec.id]);
    store.maintain().await;
    store.audit().await;
    store.unlimit("tenant:a").await;
    assert_eq!(store.takes(9).await, [next]);
    store.audit().await;
}

pub async fn queues_share_a_key<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(2)).await;
    let queues = ["default", "other"];
    for queue in queues {
        store.enqueue_all(&[(); 3].map(|()| job("a").queue(queue).limit("tenant:a"))).await;
    }
    let mut request = claim_request(9);
    request.queues = queues.map(|queue| QueueName::new(queue).unwrap()).to_vec();
    let claim = store.backend.claim(&request).await.unwrap();
    assert_eq!(claim.leases.len(), 2);
    store.backend.set_paused(&QueueName::default(), true).await.unwrap();
    store.complete(&claim.leases[0]).await;
    request.token = crate::ClaimToken::random();
    let rest = store.backend.claim(&request).await.unwrap();
    assert_eq!(rest.leases.len(), 1);
    assert_eq!(rest.leases[0].spec.queue.as_str(), "other");
    store.audit().await;
}

pub async fn nothing_is_left_of_keys_that_are_gone<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let rate = rate(1, Duration::from_secs(1), 2);
    store.limit("tenant:*", &LimitSettings { concurrency: Some(1), ..rate }).await;
    let of = |n: usize| job("a").limit(format!("tenant:{n}"));
    for first in [0, 300] {
        let jobs: Vec<NewJob> = (first..first + 300).flat_map(|n| [of(n), of(n)]).collect();
        for some in jobs.chunks(500) {
            store.enqueue_all(some).await;
        }
    }
    let mut done = 0;
    while done < 1200 {
        let claim = store.claim(500).await;
        assert!(claim.leases.len() <= 500 && (claim.more || !claim.leases.is_empty()));
        done += claim.leases.len();
        for lease in &claim.leases {
            store.complete(lease).await;
        }
    }
    store.advance(Duration::from_secs(2)).await;
    while store.maintain().await.more {}
    store.audit().await;
    let mut nobody = LimitStatus::new(LimitKey::new("tenant:7").unwrap());
    nobody.settings = store.status("tenant:nobody").await.settings;
    nobody.allowed = Some(1);
    assert_eq!(store.status("tenant:7").await, nobody);
}
