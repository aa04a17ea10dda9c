//! T4: who gets which jobs.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, UNIX_EPOCH};

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, ids, job};
use crate::{Backend, Claim, ClaimToken, DeadReason, JobId, JobState, Kind, NewJob, QueueName};

async fn enqueue_all<H: Harness>(store: &Store<'_, H>, jobs: &[NewJob]) -> Vec<JobId> {
    enqueue_on(&store.backend, jobs).await;
    jobs.iter().map(NewJob::job_id).collect()
}

pub async fn first_in_first_out<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let mut sent = Vec::new();
    for _ in 0..10 {
        sent.push(store.enqueue(&job("a")).await.id);
    }
    let mut taken = ids(&store.claim(4).await);
    taken.extend(ids(&store.claim(99).await));
    assert_eq!(taken, sent);
    store.audit().await;
}

pub async fn priorities_are_strict<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = enqueue_all(&store, &[9, 5, 0, 5, 9, 0].map(|level| job("a").priority(level))).await;
    let order = [2, 5, 1, 3, 0, 4].map(|index| sent[index]);
    assert_eq!(ids(&store.claim(3).await), order[..3]);
    assert_eq!(ids(&store.claim(9).await), order[3..]);
}

pub async fn queues_are_asked_in_order<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = enqueue_all(
        &store,
        &[
            job("a").queue("low").priority(0),
            job("a").queue("high").priority(9),
            job("a").queue("unserved"),
        ],
    )
    .await;
    let mut request = claim_request(9);
    request.queues = ["high", "low"].map(|queue| QueueName::new(queue).unwrap()).to_vec();
    let claim = store.backend.claim(&request).await.unwrap();
    assert_eq!(ids(&claim), [sent[1], sent[0]]);
    assert_eq!(store.state(sent[2]).await, JobState::Ready);
}

pub async fn only_kinds_with_slots_are_given<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = enqueue_all(&store, &[job("a"), job("c"), job("a"), job("b"), job("b")]).await;
    let mut request = claim_request(9);
    request.kinds[0].slots = 1;
    request.kinds[1].slots = 0;
    assert_eq!(ids(&store.backend.claim(&request).await.unwrap()), [sent[0]]);
    let rest: HashSet<JobId> = ids(&store.claim(9).await).into_iter().collect();
    assert_eq!(rest, HashSet::from([sent[2], sent[3], sent[4]]));
    // Jobs that cannot be given hold up no others, however urgent they are.
    let sent = enqueue_all(&store, &[job("b").priority(0), job("a").priority(9)]).await;
    request.token = ClaimToken::random();
    assert_eq!(ids(&store.backend.claim(&request).await.unwrap()), [sent[1]]);
    store.audit().await;
}

pub async fn lanes_take_turns<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let flood: Vec<NewJob> = (0..100).map(|_| job("a")).collect();
    enqueue_all(&store, &flood).await;
    let late = store.enqueue(&job("b")).await.id;
    let first_claims = [ids(&store.claim(1).await), ids(&store.claim(1).await)].concat();
    assert!(first_claims.contains(&late), "a kind with many jobs must not delay another");
    let shared = store.claim(10).await;
    assert_eq!(shared.leases.len(), 10);
    store.audit().await;
}

pub async fn a_repeat_gives_the_same_jobs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    enqueue_all(&store, &[job("a"), job("b"), job("a"), job("a")]).await;
    let request = claim_request(3);
    let first = store.backend.claim(&request).await.unwrap();
    let repeat = store.backend.claim(&request).await.unwrap();
    let set = |claim| ids(claim).into_iter().collect::<HashSet<JobId>>();
    assert_eq!(set(&first), set(&repeat));
    store.complete(&first.leases[0]).await;
    let left = store.backend.claim(&request).await.unwrap();
    assert_eq!(set(&left), ids(&first)[1..].iter().copied().collect());
    assert_eq!(store.count(JobState::Ready).await, 1);
    store.audit().await;
}

pub async fn racing_claims_share_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let mut sent = HashSet::new();
    for _ in 0..4 {
        let jobs: Vec<NewJob> = (0..250).map(|_| job("a")).collect();
        sent.extend(enqueue_all(&store, &jobs).await);
    }
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    let drain = async |backend: &H::Backend| {
        let mut taken = Vec::new();
        loop {
            let claim = backend.claim(&claim_request(7)).await.unwrap();
            if claim.leases.is_empty() {
                return taken;
            }
            taken.extend(ids(&claim));
        }
    };
    let (one, two, three) = tokio::join!(drain(&store.backend), drain(other), drain(other));
    let taken = [one, two, three].concat();
    assert_eq!(taken.len(), 1000);
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), sent);
    assert_eq!(store.count(JobState::Running).await, 1000);
    store.audit().await;
}

pub async fn an_expired_job_is_dead_not_run<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let expires_at = UNIX_EPOCH + Duration::from_millis(store.now().as_ms() + 1000);
    let expiring = store.enqueue(&job("a").expires_at(expires_at)).await.id;
    let lasting = store.enqueue(&job("a")).await.id;
    store.advance(Duration::from_secs(1)).await;
    let request = claim_request(9);
    let claim = store.backend.claim(&request).await.unwrap();
    assert_eq!(ids(&claim), [lasting]);
    // Who counts them does so once.
    let of_a = (QueueName::default(), Kind::new("a").unwrap());
    assert_eq!(claim.expired, [(of_a, 1)].into());
    assert_eq!(store.backend.claim(&request).await.unwrap().expired, BTreeMap::new());
    let record = store.record(expiring).await;
    assert_eq!((record.state, record.dead_reason), (JobState::Dead, Some(DeadReason::Expired)));
    assert_eq!(record.attempt(), 0);
    store.audit().await;
}

pub async fn fences_increase<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    enqueue_all(&store, &[job("a"), job("a"), job("a")]).await;
    let leases = [store.claim(2).await, store.claim(2).await].map(|claim| claim.leases).concat();
    assert_eq!(leases.len(), 3);
    assert!(leases.windows(2).all(|pair| pair[0].fence < pair[1].fence));
}

pub async fn a_repeat_extends_the_lease<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let request = claim_request(1);
    let first = store.backend.claim(&request).await.unwrap();
    // The reply was lost; the worker gets it with its second try, and needs a whole lease.
    store.advance(LEASE / 2).await;
    let repeat = store.backend.claim(&request).await.unwrap();
    assert_eq!(repeat.leases[0].claimed_at, first.leases[0].claimed_at);
    assert_eq!(store.record(id).await.lease_until, Some(store.now().after(LEASE)));
    store.advance(LEASE / 2).await;
    assert_eq!(store.maintain().await.reaped, 0);
    store.audit().await;
}

pub async fn racing_repeats_get_the_same_jobs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for round in 1..=50 {
        enqueue_all(&store, &[job("a"), job("a"), job("a")]).await;
        let request = claim_request(2);
        let (left, right) = tokio::join!(store.backend.claim(&request), other.claim(&request));
        let set = |claim: &Claim| ids(claim).into_iter().collect::<HashSet<JobId>>();
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_eq!((set(&left).len(), set(&left)), (2, set(&right)));
        assert_eq!(store.count(JobState::Running).await, 2 * round);
    }
    store.audit().await;
}

pub async fn a_claim_that_stops_at_a_bound_says_so<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = Duration::from_secs(60);
    let expires_at = store.now().after(minute);
    let expiring = |_| job("a").expires_at(expires_at);
    for _ in 0..2 {
        enqueue_all(&store, &(0..300).map(expiring).collect::<Vec<_>>()).await;
    }
    store.advance(minute).await;
    let first = store.claim(10).await;
    assert_eq!((first.leases.len(), first.more), (0, true));
    assert_eq!(store.count(JobState::Dead).await, 500);
    let second = store.claim(10).await;
    assert_eq!((second.leases.len(), second.more), (0, false));
    assert_eq!(store.count(JobState::Dead).await, 600);
    // More jobs of a kind that nobody asks for become due than a claim promotes.
    for _ in 0..2 {
        let due = |_| job("c").delay(minute);
        enqueue_all(&store, &(0..300).map(due).collect::<Vec<_>>()).await;
    }
    store.advance(minute).await;
    let promoting = store.claim(10).await;
    assert_eq!((promoting.leases.len(), promoting.more), (0, true));
    assert_eq!(store.count(JobState::Ready).await, 500);
    assert!(!store.claim(10).await.more);
    store.audit().await;
}
