//! Workers with short jobs, which claim more than they have slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};
use queue_core::{Fail, Job, JobState, LimitSettings, MemoryBackend, NewJob, Queue, State, Worker};

async fn count(queue: &Queue, state: JobState) -> u64 {
    let stats = queue.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
}

/// The most jobs that the store takes for running.
async fn most_claimed(slots: usize, jobs: impl Iterator<Item = NewJob>, queue: Queue) -> u64 {
    let jobs: Vec<NewJob> = jobs.collect();
    let total = jobs.len();
    queue.enqueue_all(jobs).await.unwrap();
    let counts = Arc::new(<(AtomicU64, AtomicUsize)>::default());
    let look = async |State(queue): State<Queue>,
                      State(counts): State<Arc<(AtomicU64, AtomicUsize)>>,
                      _: Number| {
        counts.0.fetch_max(count(&queue, JobState::Running).await, Ordering::SeqCst);
        counts.1.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(slots).state(queue.clone()).state(counts.clone());
    let worker = worker.handle::<Number, _>(look).start().unwrap();
    eventually("all have run", async || counts.1.load(Ordering::SeqCst) >= total).await;
    worker.drain(LONG).await;
    assert_eq!(queue.audit().await.unwrap(), []);
    counts.0.load(Ordering::SeqCst)
}

#[tokio::test]
async fn short_jobs_are_claimed_ahead_but_not_many() {
    let most = most_claimed(2, (0..500).map(number), Queue::memory()).await;
    assert!((3..=10).contains(&most), "{most}");
}

/// With two requests out at a time.
#[tokio::test]
async fn many_slots_claim_a_few_jobs_more_for_each_at_most() {
    let most = most_claimed(40, (0..4000).map(number), Queue::memory()).await;
    assert!(most <= 200, "{most}");
}

#[tokio::test]
async fn jobs_of_a_key_without_room_to_spare_are_left_to_others() {
    let most_with = async |target: &str, concurrency| {
        let keyed = (0..500).map(|n| number(n).limit("tenant:a"));
        let queue = Queue::memory();
        let settings = LimitSettings { concurrency, ..LimitSettings::default() };
        queue.set_limit(&target.parse().unwrap(), &settings).await.unwrap();
        most_claimed(2, keyed, queue).await
    };
    assert_eq!(most_with("tenant:*", Some(3)).await, 2);
    for (target, concurrency) in [("tenant:*", Some(100)), ("tenant:b", Some(1))] {
        let most = most_with(target, concurrency).await;
        assert!((3..=10).contains(&most), "{target}: {most}");
    }
}

/// Runs 400 jobs of a tenant again and again, until the store is told that they are short; three times if
/// they take a time.
async fn most_round_jobs(takes: Duration) -> u32 {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let handler = async |State(takes): State<Duration>, _: Number| {
        if takes > Duration::ZERO {
            tokio::time::sleep(takes).await;
        }
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(50).state(takes);
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    for times in 1.. {
        let jobs = (0..400).map(|n| number(n).limit("tenant:a"));
        queue.enqueue_all(jobs).await.unwrap();
        let total = 400 * times;
        eventually("all have run", async || count(&queue, JobState::Completed).await == total)
            .await;
        let told = faulty.most_round_jobs() > 0;
        if told || takes > Duration::ZERO && times == 3 {
            break;
        }
    }
    worker.drain(LONG).await;
    faulty.most_round_jobs()
}

#[tokio::test]
async fn a_worker_tells_the_store_of_short_jobs_that_have_limit_keys() {
    assert!(most_round_jobs(Duration::ZERO).await > 0);
    assert_eq!(most_round_jobs(Duration::from_millis(6)).await, 0);
}

#[tokio::test]
async fn jobs_that_wait_for_slots_which_stay_busy_go_to_others() {
    let queue = Queue::memory();
    queue.enqueue_all((0..600).map(number)).await.unwrap();
    let gate = Gate::default();
    let handler = async |State(gate): State<Gate>, job: Number| {
        if job.n >= 400 {
            gate.passed().await;
        }
        Ok::<_, Fail>(())
    };
    let worker = || {
        let worker = Worker::new(&queue).concurrency(2).state(gate.clone());
        worker.handle::<Number, _>(handler).start().unwrap()
    };
    let first = worker();
    eventually("the first 400 have run, and 2 run", async || {
        count(&queue, JobState::Completed).await == 400
            && count(&queue, JobState::Running).await == 2
    })
    .await;
    let second = worker();
    eventually("2 run on each", async || count(&queue, JobState::Running).await == 4).await;
    gate.open();
    eventually("all have run", async || count(&queue, JobState::Completed).await == 600).await;
    let (first, second) = tokio::join!(first.drain(LONG), second.drain(LONG));
    assert_eq!((first.finished + second.finished, first.lost + second.lost), (600, 0));
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_worker_that_stops_gives_back_what_it_has_claimed_ahead() {
    let queue = Queue::memory();
    queue.enqueue_all((0..5000).map(number)).await.unwrap();
    let handler = async |_: Number| Ok::<_, Fail>(());
    for stop_at in [1000, 2000, 3000] {
        let worker = Worker::new(&queue).concurrency(2).handle::<Number, _>(handler);
        let worker = worker.start().unwrap();
        eventually("some have run", async || count(&queue, JobState::Completed).await >= stop_at)
            .await;
        let report = worker.drain(LONG).await;
        assert_eq!(report.lost, 0);
        assert_eq!(count(&queue, JobState::Running).await, 0);
    }
    let completed = count(&queue, JobState::Completed).await;
    assert_eq!(count(&queue, JobState::Ready).await, 5000 - completed);
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[derive(Debug, Serialize, Deserialize)]
struct Bounded;

impl Job for Bounded {
    const KIND: &'static str = "bounded";
}

/// While slots go to jobs that were claimed ahead, none could be offered to such a kind.
#[tokio::test]
async fn a_kind_with_bounds_of_its_own_is_not_starved_by_short_jobs() {
    let queue = Queue::memory();
    queue.enqueue_all((0..6000).map(number)).await.unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let short = async |State(ended): State<Arc<AtomicUsize>>, _: Number| {
        tokio::task::yield_now().await;
        ended.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Fail>(())
    };
    let bounded = async |State(ended): State<Arc<AtomicUsize>>, _: Bounded| {
        Ok::<_, Fail>(ended.load(Ordering::SeqCst))
    };
    let worker = Worker::new(&queue).concurrency(2).state(ended.clone());
    let worker = worker.limits("bounded", ["provider:x"]);
    let worker = worker.handle::<Number, _>(short).handle::<Bounded, _>(bounded).start().unwrap();
    eventually("many have run", async || ended.load(Ordering::SeqCst) >= 200).await;
    let first = NewJob::of(&Bounded).unwrap().priority(0);
    let before = ended.load(Ordering::SeqCst);
    let id = queue.enqueue(first).await.unwrap().id;
    let result = finished(&queue, id).await.result.expect("how many had ended");
    let after: usize = result.decode().unwrap();
    assert!(after - before < 1500, "{before} to {after}");
    worker.drain(LONG).await;
}
