//! What providers say: failures, pauses, and how much they can take.

use super::*;
use crate::{Adaptive, Blocked, Breaker, ErrorKind, JobError};

const WINDOW: Duration = Duration::from_secs(5);
pub(super) const COOLDOWN: Duration = Duration::from_secs(3);

pub(super) fn breaker() -> LimitSettings {
    let breaker = Breaker { failures: 2, window: WINDOW, cooldown: COOLDOWN };
    LimitSettings { breaker: Some(breaker), ..LimitSettings::default() }
}

pub(super) fn failed(kind: ErrorKind) -> Outcome {
    Outcome::Retry { delay: Duration::from_secs(3600), error: JobError::new(kind, "no") }
}

pub(super) fn calls(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| job("a").limit("provider:x")).collect()
}

pub async fn a_breaker_opens_and_one_probe_closes_it<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:*", &breaker()).await;
    let sent = store.enqueue_all(&calls(9)).await;
    let early = store.claim(3).await.leases;
    store.settle(&early[0], failed(ErrorKind::Failed)).await;
    assert_eq!(store.takes(1).await, [sent[3]], "one failure is not enough");
    store.settle(&early[1], failed(ErrorKind::TimedOut)).await;
    let closed = store.claim(9).await;
    assert_eq!((closed.leases.len(), closed.next_due), (0, Some(COOLDOWN)));
    let until = store.now().after(COOLDOWN);
    assert_eq!(store.status("provider:x").await.blocked, [Blocked::Open { until }]);
    store.advance(COOLDOWN).await;
    // One probe, whoever asks.
    let probe = store.claim(9).await.leases;
    assert_eq!(probe.len(), 1);
    let probing = Blocked::Probing { probe: probe[0].spec.id };
    assert_eq!(store.status("provider:x").await.blocked, [probing]);
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    assert_eq!(ids(&other.claim(&claim_request(9)).await.unwrap()), []);
    // A job from before the breaker opened is not the probe.
    store.complete(&early[2]).await;
    assert_eq!(store.takes(9).await, []);
    store.complete(&probe[0]).await;
    assert_eq!(store.takes(9).await, sent[5..]);
    assert_eq!(store.status("provider:x").await.blocked, []);
    store.audit().await;
}

pub async fn a_failed_probe_doubles_the_cool_down<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &breaker()).await;
    store.enqueue_all(&calls(9)).await;
    for lease in store.claim(2).await.leases {
        store.settle(&lease, failed(ErrorKind::Failed)).await;
    }
    for cooldown in [COOLDOWN, COOLDOWN * 2, COOLDOWN * 4] {
        assert_eq!(store.claim(9).await.next_due, Some(cooldown));
        store.advance(cooldown).await;
        let probe = store.claim_one().await;
        store.settle(&probe, failed(ErrorKind::Failed)).await;
    }
    store.audit().await;
}

pub async fn a_shorter_cool_down_counts_for_a_breaker_that_is_open<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let cooling = |cooldown| LimitSettings {
        breaker: breaker().breaker.map(|breaker| Breaker { cooldown, ..breaker }),
        ..LimitSettings::default()
    };
    store.limit("provider:*", &cooling(COOLDOWN * 100)).await;
    store.enqueue_all(&calls(9)).await;
    for lease in store.claim(2).await.leases {
        store.settle(&lease, failed(ErrorKind::Failed)).await;
    }
    let opened = store.now();
    store.advance(COOLDOWN / 3).await;
    assert_eq!(store.claim(9).await.next_due, Some(COOLDOWN * 100 - COOLDOWN / 3));
    // Of the class, and of the key itself.
    store.limit("provider:*", &cooling(COOLDOWN * 2)).await;
    let until = opened.after(COOLDOWN * 2);
    assert_eq!(store.status("provider:x").await.blocked, [Blocked::Open { until }]);
    store.limit("provider:x", &cooling(COOLDOWN)).await;
    assert_eq!(store.claim(9).await.next_due, Some(COOLDOWN - COOLDOWN / 3));
    store.advance(COOLDOWN - COOLDOWN / 3).await;
    let probe = store.claim(9).await.leases;
    assert_eq!(probe.len(), 1);
    store.complete(&probe[0]).await;
    assert_eq!(store.claim(9).await.leases.len(), 6);
    store.audit().await;
}

pub async fn a_probe_that_says_nothing_is_followed_by_another<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &breaker()).await;
    store.enqueue_all(&calls(9)).await;
    for lease in store.claim(2).await.leases {
        store.settle(&lease, failed(ErrorKind::Failed)).await;
    }
    store.advance(COOLDOWN).await;
    let probe = store.claim_one().await;
    store.settle(&probe, Outcome::Released).await;
    let probe = store.claim_one().await;
    assert_eq!(store.takes(9).await, []);
    // Its worker dies.
    store.advance(LEASE).await;
    store.maintain().await;
    let probe_again = store.claim_one().await;
    assert_eq!(probe_again.spec.id, probe.spec.id);
    assert_eq!(store.takes(9).await, []);
    store.complete(&probe).await;
    assert_eq!(store.takes(9).await, [], "a lost lease proves nothing");
    store.complete(&probe_again).await;
    assert_eq!(store.takes(9).await.len(), 6);
    store.audit().await;
}

pub async fn only_the_provider_s_failures_count<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &breaker()).await;
    store.enqueue_all(&calls(12)).await;
    let no_fault = [
        failed(ErrorKind::Panicked),
        failed(ErrorKind::Internal),
        failed(ErrorKind::Undecodable),
        Outcome::Dead { error: failure() },
        Outcome::Snoozed { delay: WINDOW * 100 },
        Outcome::Completed { result: None },
    ];
    for end in no_fault {
        store.settle(&store.claim_one().await, end).await;
    }
    store.settle(&store.claim_one().await, failed(ErrorKind::Failed)).await;
    store.advance(WINDOW).await;
    store.settle(&store.claim_one().await, failed(ErrorKind::Failed)).await;
    assert_eq!(store.status("provider:x").await.blocked, [], "two failures, far apart");
    // The last attempt of a job counts as any other.
    let last = store.enqueue(&job("b").limit("provider:x").max_attempts(1)).await.id;
    let mut leases = store.claim(9).await.leases;
    leases.retain(|lease| lease.spec.id == last);
    store.settle(&leases[0], failed(ErrorKind::Failed)).await;
    assert_eq!(store.state(last).await, JobState::Dead);
    assert_eq!(store.status("provider:x").await.blocked.len(), 1);
    store.audit().await;
}

pub async fn a_throttled_key_is_closed_for_everyone<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = store.enqueue_all(&[job("a"), job("a"), job("b"), job("b")]).await;
    let first = store.claim_with(1, &["provider:x"]).await.leases.remove(0);
    assert_eq!(first.spec.id, sent[0]);
    let delay = Duration::from_secs(30);
    let limits = keys(&["provider:x"]);
    store.settle(&first, Outcome::Throttled { delay, limits: limits.clone() }).await;
    let record = store.record(sent[0]).await;
    assert_eq!((record.state, record.failures, record.snoozes), (JobState::Scheduled, 0, 1));
    // The key needs no settings for that; others go on.
    let claim = store.claim_with(9, &["provider:x"]).await;
    assert_eq!((ids(&claim), claim.next_due), (sent[2..].to_vec(), Some(delay)));
    let until = store.now().after(delay);
    assert_eq!(store.status("provider:x").await.blocked, [Blocked::Closed { until }]);
    // A shorter pause does not shorten a longer one, and a late word says nothing.
    let shorter = Outcome::Throttled { delay: delay / 2, limits };
    store.settle(&claim.leases[0], shorter.clone()).await;
    store.settle(&first, shorter).await;
    store.advance(delay - Duration::from_millis(1)).await;
    let early = store.claim_with(9, &["provider:x"]).await;
    assert_eq!(ids(&early), [sent[2]], "of the other kind");
    store.advance(Duration::from_millis(1)).await;
    assert_eq!(ids(&store.claim_with(9, &["provider:x"]).await), [sent[1], sent[0]]);
    store.maintain().await;
    store.audit().await;
}

pub async fn adapting_halves_and_grows<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let settings = LimitSettings { adaptive: Some(Adaptive { floor: 2 }), ..concurrency(8) };
    store.limit("provider:x", &settings).await;
    for _ in 0..4 {
        store.enqueue_all(&calls(20)).await;
    }
    let running = store.claim(20).await.leases;
    assert_eq!(running.len(), 8);
    // Two that were turned away at about the same time are one sign.
    store.advance(Duration::from_millis(1)).await;
    for lease in &running[..2] {
        let (delay, limits) = (Duration::from_secs(1), keys(&["provider:x"]));
        store.settle(lease, Outcome::Throttled { delay, limits }).await;
    }
    assert_eq!(store.status("provider:x").await.allowed, Some(4));
    for lease in &running[2..] {
        store.settle(lease, Outcome::Released).await;
    }
    store.advance(Duration::from_secs(1)).await;
    let running = store.claim(20).await.leases;
    assert_eq!(running.len(), 4);
    for lease in &running {
        store.complete(lease).await;
    }
    assert_eq!(store.status("provider:x").await.allowed, Some(5));
    let running = store.claim(20).await.leases;
    assert_eq!(running.len(), 5);
    for lease in &running {
        store.settle(lease, failed(ErrorKind::TimedOut)).await;
    }
    assert_eq!(store.status("provider:x").await.allowed, Some(2), "half of 5, and the floor");
    store.audit().await;
}
