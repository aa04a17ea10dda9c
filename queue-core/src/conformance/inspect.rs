//! What explanations are made of: who is there, and what is before a job.

use std::time::Duration;

use super::Harness;
use super::store::{Store, enqueue_on, failure, ids, job};
use crate::{
    Backend, JobState, Kind, LaneSummary, LimitKeys, LimitSettings, LimitTarget, NewJob, Outcome,
    Place, Priority, QueueName, RetryRequest, SpanStarts, StartRate, WorkerId, WorkerInfo,
    WorkerKind,
};

fn info(name: &str, instance: u64) -> WorkerInfo {
    let kind = WorkerKind {
        kind: Kind::new("a").unwrap(),
        concurrency: 3,
        limits: LimitKeys::parse(["provider:x"]).unwrap(),
    };
    WorkerInfo {
        id: WorkerId::new(name).unwrap(),
        instance,
        queues: vec![QueueName::default()],
        ranks: Vec::new(),
        kinds: vec![kind],
        concurrency: 4,
        running: 1,
    }
}

pub async fn workers_are_believed_for_a_time<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert_eq!(store.backend.workers().await.unwrap(), []);
    let long = Duration::from_secs(45);
    for (worker, time) in [(info("one", 1), long), (info("one", u64::MAX), long * 2)] {
        store.backend.announce(&worker, time).await.unwrap();
    }
    store.backend.announce(&WorkerInfo { running: 2, ..info("one", 1) }, long).await.unwrap();
    let known = async || {
        let mut workers = store.backend.workers().await.unwrap();
        workers.sort_by_key(|worker| worker.info.instance);
        workers.into_iter().map(|live| (live.info, live.believed_for)).collect::<Vec<_>>()
    };
    let first = WorkerInfo { running: 2, ..info("one", 1) };
    assert_eq!(known().await, [(first, long), (info("one", u64::MAX), long * 2)]);
    store.advance(long).await;
    assert_eq!(known().await, [(info("one", u64::MAX), long)]);
    store.backend.announce(&info("two", 2), long).await.unwrap();
    store.backend.announce(&info("one", u64::MAX), Duration::ZERO).await.unwrap();
    assert_eq!(known().await, [(info("two", 2), long)]);
    store.advance(long).await;
    store.maintain().await;
    assert_eq!(known().await, []);
    store.audit().await;
}

pub async fn a_ready_job_has_a_place<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<NewJob> = vec![
        job("a"),
        job("a"),
        job("a"),
        job("b").priority(0),
        job("b"),
        job("b").queue("other"),
        job("a").delay(Duration::from_secs(5)),
    ];
    enqueue_on(&store.backend, &jobs).await;
    let place = async |index: usize| {
        let placement = store.backend.place(jobs[index].job_id()).await.unwrap();
        assert_eq!(placement.now, store.now());
        let Place { jobs_ahead, turn, more } = placement.place?;
        let lanes = store.backend.lanes(&jobs[index].spec.queue).await.unwrap();
        assert!(!more && !lanes.more);
        let own = jobs[index].spec.priority;
        let others = lanes.lanes.iter().filter(|lane| lane.priority == own && lane.turn != turn);
        Some((jobs_ahead, others.clone().filter(|lane| lane.turn < turn).count(), others.count()))
    };
    assert_eq!(place(0).await, Some((0, 0, 1)));
    assert_eq!(place(2).await, Some((2, 0, 1)));
    assert_eq!(place(3).await, Some((0, 0, 0)));
    assert_eq!(place(4).await, Some((0, 1, 1)));
    assert_eq!(place(5).await, Some((0, 0, 0)));
    assert_eq!(place(6).await, None);
    let running = store.claim(2).await.leases;
    assert_eq!(place(3).await, None, "it runs");
    assert_eq!(running.len(), 2);
    let _ = store.cancel(jobs[1].job_id()).await;
    assert_eq!(place(2).await, Some((0, 1, 1)), "the others run or are cancelled");
}

pub async fn starts_are_counted_with_the_first_of_each_span<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let span = Duration::from_millis(StartRate::SPAN_MS);
    let starts = async |queue: &str| {
        store.backend.lanes(&QueueName::new(queue).unwrap()).await.unwrap().starts
    };
    assert_eq!(starts("default").await.count(store.now()), 0);
    let jobs: Vec<NewJob> = (0..6).map(|_| job("a")).collect();
    enqueue_on(&store.backend, &jobs).await;
    let into = Duration::from_millis(store.now().as_ms() % StartRate::SPAN_MS);
    store.advance(span - into + Duration::from_millis(2500)).await;
    store.claim(2).await;
    store.advance(Duration::from_secs(1)).await;
    store.claim(1).await;
    let first = SpanStarts { count: 3, first_ms: 2500, at_once: 2 };
    let rate = starts("default").await;
    assert_eq!((rate.current, rate.previous), (first, SpanStarts::default()));
    store.advance(span).await;
    store.claim(1).await;
    let second = SpanStarts { count: 1, first_ms: 3500, at_once: 1 };
    let rate = starts("default").await.at(store.now());
    assert_eq!((rate.current, rate.previous), (second, first));
    assert_eq!(starts("other").await.count(store.now()), 0);
    store.advance(span * 2).await;
    assert_eq!(starts("default").await.count(store.now()), 0);
}

pub async fn a_cancelled_job_is_before_nobody<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<NewJob> = (0..10).map(|_| job("a")).collect();
    enqueue_on(&store.backend, &jobs).await;
    let place = async |index: usize| {
        store.backend.place(jobs[index].job_id()).await.unwrap().place.unwrap().jobs_ahead
    };
    for cancelled in [1, 2, 5, 8] {
        store.cancel(jobs[cancelled].job_id()).await;
    }
    assert_eq!((place(0).await, place(4).await, place(9).await), (0, 2, 5));
    // One that is run again joins the tail: what is left of its first place does not count.
    let finished_at = store.record(jobs[1].job_id()).await.finished_at.unwrap();
    let again = vec![(jobs[1].job_id(), finished_at)];
    store.backend.retry(&RetryRequest { jobs: again, keep_counts: false }).await.unwrap();
    assert_eq!((place(9).await, place(1).await), (5, 6));
    store.cancel(jobs[1].job_id()).await;
    assert_eq!(place(9).await, 5);
    store.audit().await;
}

pub async fn a_blocked_lane_ahead_is_counted<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    store.backend.set_limit(&LimitTarget::new("tenant:a").unwrap(), Some(&one)).await.unwrap();
    let urgent = || job("a").limit("tenant:a").priority(2);
    let jobs = [urgent(), urgent(), job("a").limit("tenant:a"), job("a"), job("a")];
    enqueue_on(&store.backend, &jobs).await;
    assert_eq!(ids(&store.claim(1).await), [jobs[0].job_id()]);
    // Looks at both lanes of the key, which have no room.
    assert_eq!(ids(&store.claim(1).await), [jobs[3].job_id()]);
    let place = async |index: usize| {
        let place = store.backend.place(jobs[index].job_id()).await.unwrap().place.unwrap();
        let lanes = store.backend.lanes(&QueueName::default()).await.unwrap().lanes;
        let own = jobs[index].spec.priority;
        let before = lanes.iter().filter(|lane| (lane.priority, lane.turn) < (own, place.turn));
        (place.jobs_ahead, before.map(|lane| lane.jobs).collect::<Vec<_>>())
    };
    assert_eq!(place(1).await, (0, vec![]));
    assert_eq!(place(2).await, (0, vec![1]));
    assert_eq!(place(4).await, (0, vec![1, 1]));
}

pub async fn lanes_are_seen_whether_blocked_or_not<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    store.backend.set_limit(&LimitTarget::new("tenant:a").unwrap(), Some(&one)).await.unwrap();
    let of_a = || job("a").limit("tenant:a");
    let jobs = [of_a(), of_a(), of_a(), job("a"), job("b").priority(2), job("a").queue("other")];
    enqueue_on(&store.backend, &jobs).await;
    let first = store.claim(1).await.leases.remove(0);
    assert_eq!(store.claim(1).await.leases.len(), 1);
    let lane = |kind: &str, priority, keys: &[&str], jobs| LaneSummary {
        kind: Kind::new(kind).unwrap(),
        priority: Priority::new(priority).unwrap(),
        limits: LimitKeys::parse(keys).unwrap(),
        jobs,
        waiting: Duration::ZERO,
        turn: 0,
    };
    let seen = async |queue: &str| {
        let lanes = store.backend.lanes(&QueueName::new(queue).unwrap()).await.unwrap();
        assert!(!lanes.more);
        let unnumbered = |lane| LaneSummary { turn: 0, ..lane };
        let mut lanes: Vec<LaneSummary> = lanes.lanes.into_iter().map(unnumbered).collect();
        lanes.sort();
        lanes
    };
    let blocked = store.count(JobState::Ready).await;
    assert_eq!(blocked, 4);
    while !store.claim(9).await.leases.is_empty() {}
    assert_eq!(seen("default").await, [lane("a", 5, &["tenant:a"], 2)]);
    assert_eq!(seen("other").await, [lane("a", 5, &[], 1)]);
    store.settle(&first, Outcome::Released).await;
    let default = seen("default").await;
    assert_eq!(default.iter().map(|lane| lane.jobs).sum::<u64>(), 3);
    assert_eq!(seen("nowhere").await, []);
}

pub async fn a_lane_says_how_long_its_first_job_could_have_run<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let of_a = || job("a").limit("tenant:a");
    let jobs = [of_a(), of_a(), job("b"), job("a").delay(second * 5)];
    enqueue_on(&store.backend, &jobs[..1]).await;
    store.advance(second).await;
    enqueue_on(&store.backend, &jobs[1..]).await;
    let waiting = async || {
        store.maintain().await;
        let lanes = store.backend.lanes(&QueueName::default()).await.unwrap().lanes;
        let of = |lane: &LaneSummary| (lane.kind.to_string(), lane.limits.len(), lane.waiting);
        let mut waiting: Vec<_> = lanes.iter().map(of).collect();
        waiting.sort();
        waiting
    };
    let lane = |kind: &str, keys, waiting| (kind.to_owned(), keys, waiting);
    assert_eq!(waiting().await, [lane("a", 1, second), lane("b", 0, Duration::ZERO)]);
    // A cancelled one does not count, wherever a store keeps it.
    store.cancel(jobs[0].job_id()).await;
    store.advance(second * 10).await;
    let expected = [lane("a", 0, second * 5), lane("a", 1, second * 10), lane("b", 0, second * 10)];
    assert_eq!(waiting().await, expected);
    // A job that has failed could not have run before it was due again.
    let leases = store.claim(9).await.leases;
    assert_eq!(leases.len(), 3);
    for lease in leases {
        let end = match lease.spec.limits.is_empty() {
            true => Outcome::Completed { result: None },
            false => Outcome::Retry { delay: hour, error: failure() },
        };
        store.settle(&lease, end).await;
    }
    store.advance(hour + second).await;
    assert_eq!(waiting().await, [lane("a", 1, second)]);
}
