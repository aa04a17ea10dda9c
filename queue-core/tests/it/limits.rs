//! Limits under real workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use queue_core::backend::PASS_MAX;
use queue_core::{
    Blocked, Blocker, Context, Error, Executor, Explanation, Fail, JobState, Kind, LimitSettings,
    LimitTarget, NewJob, Payload, Queue, QueueName, QueueSelection, Rate, Reason, RunningWorker,
    StartError, State, THROTTLE_MAX, Worker,
};

use crate::support::{LONG, Number, eventually, finished, number};

/// How many handlers run, and the most that ever did.
#[derive(Debug, Clone, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

impl Gauge {
    fn enter(&self) {
        let running = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(running, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

async fn gauged(State(gauge): State<Gauge>, job: Number) -> Result<u32, Fail> {
    gauge.enter();
    tokio::task::yield_now().await;
    gauge.leave();
    Ok(job.n)
}

fn worker(queue: &Queue, gauge: &Gauge) -> RunningWorker {
    let worker = Worker::new(queue).state(gauge.clone()).handle::<Number, _>(gauged);
    worker.limits("number", ["provider:x"]).start().unwrap()
}

async fn limit(queue: &Queue, target: &str, settings: &LimitSettings) {
    queue.set_limit(&LimitTarget::new(target).unwrap(), settings).await.unwrap();
}

fn concurrency(most: u32) -> LimitSettings {
    LimitSettings { concurrency: Some(most), ..LimitSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_together_keep_to_a_limit_and_use_it() {
    let queue = Queue::memory();
    limit(&queue, "provider:x", &concurrency(3)).await;
    let gauge = Gauge::default();
    let workers = [(); 3].map(|()| worker(&queue, &gauge));
    let jobs: Vec<NewJob> = (0..300).map(number).collect();
    let ids: Vec<_> = jobs.iter().map(NewJob::job_id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    for id in ids {
        assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    }
    assert!(gauge.most() <= 3, "{} ran at once", gauge.most());
    for worker in workers {
        worker.drain(LONG).await;
    }
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_throttled_handler_closes_the_keys_of_its_kind() {
    let queue = Queue::memory();
    let turned_away = async |_: Number| Err::<(), _>(Fail::throttled(Duration::from_secs(3600)));
    let worker = Worker::new(&queue).concurrency(1).handle::<Number, _>(turned_away);
    let worker = worker.limits("number", ["provider:x"]).start().unwrap();
    let first = queue.enqueue(number(0)).await.unwrap().id;
    let state = async || queue.get(first).await.unwrap().unwrap().state;
    eventually("it is turned away", async || state().await == JobState::Scheduled).await;
    let second = queue.enqueue(number(1)).await.unwrap().id;
    let explanation = queue.explain(second).await.unwrap().unwrap();
    let [blocker] = explanation.blockers.as_slice() else { panic!("{explanation:?}") };
    let Blocker::Limit {
        status,
        blocked: Blocked::Closed { until },
        of_worker: true,
        alternative: false,
    } = blocker
    else {
        panic!("{explanation:?}");
    };
    assert_eq!(status.key.as_str(), "provider:x");
    assert!(until.since(explanation.now) > Duration::from_secs(3000));
    assert_eq!(explanation.estimate, Some(until.since(explanation.now)));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn no_provider_closes_its_key_for_ever() {
    let queue = Queue::memory();
    let turned_away = async |_: Number| Err::<(), _>(Fail::throttled(Duration::MAX));
    let worker = Worker::new(&queue).concurrency(1).handle::<Number, _>(turned_away);
    let worker = worker.limits("number", ["provider:x"]).start().unwrap();
    let id = queue.enqueue(number(0)).await.unwrap().id;
    let state = async || queue.get(id).await.unwrap().unwrap().state;
    eventually("it is turned away", async || state().await == JobState::Scheduled).await;
    let explanation = queue.explain(id).await.unwrap().unwrap();
    let [Blocker::Due { at }, Blocker::Limit { blocked: Blocked::Closed { until }, .. }] =
        explanation.blockers.as_slice()
    else {
        panic!("{explanation:?}");
    };
    assert_eq!(at, until);
    let closed_for = until.since(explanation.now);
    assert!(closed_for <= THROTTLE_MAX && closed_for > THROTTLE_MAX / 2, "{closed_for:?}");
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_rate_paces_a_worker_without_polling() {
    let queue = Queue::memory();
    let rate = Rate::new(50, Duration::from_secs(1)).with_burst(1);
    limit(&queue, "provider:x", &LimitSettings { rate: Some(rate), ..Default::default() }).await;
    let gauge = Gauge::default();
    let worker = worker(&queue, &gauge);
    let started_at = std::time::Instant::now();
    let jobs: Vec<NewJob> = (0..11).map(number).collect();
    let last = jobs[10].job_id();
    queue.enqueue_all(jobs).await.unwrap();
    finished(&queue, last).await;
    // Ten intervals; no claim was early. (How late they were is a matter of the machine.)
    assert!(started_at.elapsed() >= Duration::from_millis(200 - 1));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn an_estimate_follows_the_rate_and_is_none_at_a_full_key() {
    let queue = Queue::memory();
    let rate = Rate::new(1, Duration::from_secs(60)).with_burst(1);
    limit(&queue, "provider:x", &LimitSettings { rate: Some(rate), ..Default::default() }).await;
    limit(&queue, "tenant:full", &concurrency(1)).await;
    let slow = async |job: Number| match job.n {
        0 => Ok::<_, Fail>(()),
        _ => std::future::pending().await,
    };
    let worker = Worker::new(&queue).cancel_grace(Duration::ZERO);
    let worker = worker.handle::<Number, _>(slow).start().unwrap();
    eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
    let first = queue.enqueue(number(0).limit("provider:x")).await.unwrap().id;
    assert_eq!(finished(&queue, first).await.state, JobState::Completed);
    queue.enqueue_all((1..4).map(|n| number(n).limit("provider:x"))).await.unwrap();
    let fourth = queue.enqueue(number(4).limit("provider:x")).await.unwrap().id;
    let explanation = queue.explain(fourth).await.unwrap().unwrap();
    let [Blocker::Limit { blocked: Blocked::Rate { next_at }, .. }] =
        explanation.blockers.as_slice()
    else {
        panic!("{explanation:?}");
    };
    let turn = next_at.since(explanation.now) + Duration::from_secs(3 * 60);
    assert_eq!(explanation.estimate, Some(turn));

    queue.enqueue(number(5).limit("tenant:full")).await.unwrap();
    eventually("it runs", async || worker.status().running == 1).await;
    let waits = queue.enqueue(number(6).limit("tenant:full")).await.unwrap().id;
    let explanation = queue.explain(waits).await.unwrap().unwrap();
    assert_eq!(explanation.blockers.len(), 1, "{explanation:?}");
    assert_eq!(explanation.estimate, None);
    worker.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn an_estimate_counts_the_other_lanes_that_need_the_rate() {
    let rate = Some(Rate::new(1, Duration::from_secs(60)).with_burst(1));
    // The worker adds the key to its jobs, or they carry it.
    for added in [true, false] {
        let queue = Queue::memory();
        limit(&queue, "provider:x", &LimitSettings { rate, ..Default::default() }).await;
        let of = |n: u32, tenant: &str| {
            let job = number(n).limit(format!("tenant:{tenant}"));
            if added { job } else { job.limit("provider:x") }
        };
        let worker = Worker::new(&queue).state(Gauge::default()).handle::<Number, _>(gauged);
        let keys: &[&str] = if added { &["provider:x"] } else { &[] };
        let worker = worker.limits("number", keys).start().unwrap();
        eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
        queue.enqueue(of(0, "first")).await.unwrap();
        eventually("it is used up", async || {
            let key = "provider:x".parse().unwrap();
            !queue.limit_status(&[key]).await.unwrap()[0].blocked.is_empty()
        })
        .await;
        let mut jobs = Vec::new();
        for (tenant, count) in [("a", 5), ("b", 1), ("c", 3)] {
            for n in 0..count {
                jobs.push(queue.enqueue(of(n, tenant)).await.unwrap().id);
            }
        }
        let urgent = of(0, "urgent").priority(1);
        queue.enqueue(urgent).await.unwrap();
        // Whoever runs these adds no key.
        let kind = Kind::new("other").unwrap();
        let other = |_| NewJob::new(kind.clone(), Payload::raw("x")).priority(1);
        queue.enqueue_all((0..50).map(other)).await.unwrap();
        let turns = async |nth: usize| {
            let explanation = queue.explain(jobs[nth]).await.unwrap().unwrap();
            let rate = explanation.blockers.iter().find_map(|blocker| match blocker {
                Blocker::Limit { blocked: Blocked::Rate { next_at }, .. } => Some(*next_at),
                _ => None,
            });
            let first = rate.expect("it waits for the rate").since(explanation.now);
            (explanation.estimate.unwrap() - first).as_secs() / 60
        };
        let before = [turns(0).await, turns(4).await, turns(5).await, turns(8).await];
        // The urgent one comes first; of "a", "b" and "c" each gives one in turn.
        assert_eq!(before, [1, 1 + 4 + 1 + 3, 1 + 1, 1 + 2 + 1 + 2 + 1], "{added}");
        worker.drain(Duration::ZERO).await;
    }
}

/// A worker whose attempts never end.
fn stuck(queue: &Queue) -> Worker {
    let never = async |_: Number| {
        std::future::pending::<()>().await;
        Ok::<_, Fail>(())
    };
    Worker::new(queue).cancel_grace(Duration::ZERO).handle::<Number, _>(never)
}

fn start_stuck(queue: &Queue, key: &str) -> RunningWorker {
    stuck(queue).limits("number", [key]).start().unwrap()
}

#[tokio::test]
async fn a_job_waits_for_a_key_if_each_of_its_workers_adds_one_that_is_full() {
    let queue = Queue::memory();
    limit(&queue, "provider:*", &concurrency(1)).await;
    let workers = [start_stuck(&queue, "provider:a"), start_stuck(&queue, "provider:b")];
    eventually("they are known", async || queue.workers().await.unwrap().len() == 2).await;
    let running = || workers.iter().map(|worker| worker.status().running).sum::<usize>();
    queue.enqueue(number(0)).await.unwrap();
    eventually("one runs", async || running() == 1).await;
    let reasons = async || {
        let backlog = queue.backlog(&QueueName::default()).await.unwrap();
        backlog.reasons.into_iter().collect::<Vec<_>>()
    };
    queue.enqueue(number(1)).await.unwrap();
    eventually("both run", async || running() == 2).await;
    let waits = queue.enqueue(number(2)).await.unwrap().id;
    let explanation = queue.explain(waits).await.unwrap().unwrap();
    assert_eq!(alternatives(&explanation), ["provider:a", "provider:b"]);
    assert_eq!(explanation.estimate, None);
    assert_eq!(reasons().await, [(Reason::Limit, 1)]);
    // A third worker has room.
    let third = stuck(&queue).concurrency(1).limits("number", ["provider:c"]).start().unwrap();
    eventually("it runs there", async || third.status().running == 1).await;
    limit(&queue, "provider:c", &concurrency(5)).await;
    let waits = queue.enqueue(number(3)).await.unwrap().id;
    // But no slot: the slots of the others do not count.
    let explanation = queue.explain(waits).await.unwrap().unwrap();
    assert_eq!(alternatives(&explanation), ["provider:a", "provider:b"]);
    assert_eq!(explanation.estimate, None, "nothing has ended yet");
    assert_eq!(reasons().await, [(Reason::Slot, 1)]);
    third.set_concurrency(2).unwrap();
    eventually("it runs there, too", async || third.status().running == 2).await;
    third.set_concurrency(3).unwrap();
    eventually("others know", async || {
        queue.workers().await.unwrap().iter().any(|worker| worker.info.concurrency == 3)
    })
    .await;
    queue.pause(&QueueName::default()).await.unwrap();
    let waits = queue.enqueue(number(4)).await.unwrap().id;
    assert_eq!(queue.explain(waits).await.unwrap().unwrap().blockers, [Blocker::Paused]);
    for worker in workers.into_iter().chain([third]) {
        worker.drain(Duration::ZERO).await;
    }
}

/// The full keys that only some of its workers add, if nothing else keeps a job.
fn alternatives(explanation: &Explanation) -> Vec<&str> {
    let key = |blocker| match blocker {
        &Blocker::Limit {
            ref status,
            blocked: Blocked::Full { .. },
            of_worker: true,
            alternative: true,
        } => status.key.as_str(),
        other => panic!("{other:?}"),
    };
    explanation.blockers.iter().map(key).collect()
}

/// Whichever of its workers has room first runs it, and one of them may by an end that no time tells.
#[tokio::test]
async fn no_estimate_counts_on_one_worker_while_another_may_have_room_any_time() {
    let queue = Queue::memory();
    limit(&queue, "provider:a", &concurrency(1)).await;
    let rate = Some(Rate::new(1, Duration::from_secs(3600)));
    limit(&queue, "provider:b", &LimitSettings { rate, ..LimitSettings::default() }).await;
    let workers = [start_stuck(&queue, "provider:a"), start_stuck(&queue, "provider:b")];
    eventually("they are known", async || queue.workers().await.unwrap().len() == 2).await;
    let running = || workers.iter().map(|worker| worker.status().running).sum::<usize>();
    for n in 0..2 {
        queue.enqueue(number(n)).await.unwrap();
        eventually("it runs", async || running() > n as usize).await;
    }
    let waits = queue.enqueue(number(2)).await.unwrap().id;
    let explanation = queue.explain(waits).await.unwrap().unwrap();
    assert_eq!((explanation.blockers.len(), explanation.estimate), (2, None), "{explanation:?}");
    for worker in workers {
        worker.drain(Duration::ZERO).await;
    }
}

/// With a key for each host there may be thousands of sets of them.
#[tokio::test]
async fn where_many_workers_add_different_keys_those_count_that_all_of_them_add() {
    const WORKERS: u32 = 17;
    let queue = Queue::memory();
    limit(&queue, "host:*", &concurrency(1)).await;
    limit(&queue, "fleet:all", &concurrency(WORKERS)).await;
    let start = |n| {
        let host = format!("host:{n}");
        stuck(&queue).limits("number", ["fleet:all", host.as_str()]).start().unwrap()
    };
    let workers: Vec<RunningWorker> = (0..WORKERS).map(start).collect();
    let known = async || queue.workers().await.unwrap().len() == workers.len();
    eventually("they are known", known).await;
    for n in 0..WORKERS {
        queue.enqueue(number(n)).await.unwrap();
    }
    let running = || workers.iter().map(|worker| worker.status().running).sum::<usize>();
    eventually("all run", async || running() == workers.len()).await;
    let waits = queue.enqueue(number(WORKERS)).await.unwrap().id;
    let blockers = queue.explain(waits).await.unwrap().unwrap().blockers;
    let [Blocker::Limit { status, of_worker: true, alternative: false, .. }] = blockers.as_slice()
    else {
        panic!("{blockers:?}");
    };
    assert_eq!((status.key.as_str(), status.running), ("fleet:all", WORKERS.into()));
    let backlog = queue.backlog(&QueueName::default()).await.unwrap();
    assert_eq!(backlog.reasons.into_iter().collect::<Vec<_>>(), [(Reason::Limit, 1)]);
    for worker in workers {
        worker.drain(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_job_without_a_free_slot_does_not_start_at_once() {
    let queue = Queue::memory();
    let pass = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = async |State(pass): State<Arc<tokio::sync::Semaphore>>, _: Number| {
        pass.acquire().await.unwrap().forget();
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(1).state(Arc::clone(&pass));
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
    let first = queue.enqueue(number(0)).await.unwrap().id;
    eventually("it runs", async || worker.status().running == 1).await;
    let waits = queue.enqueue(number(1)).await.unwrap().id;
    let explanation = queue.explain(waits).await.unwrap().unwrap();
    assert_eq!(explanation.blockers, []);
    assert_eq!(explanation.position.unwrap().jobs_ahead, 0);
    assert_ne!(explanation.estimate, Some(Duration::ZERO));
    pass.add_permits(2);
    assert_eq!(finished(&queue, first).await.state, JobState::Completed);
    assert_eq!(finished(&queue, waits).await.state, JobState::Completed);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_full_queue_says_so_and_when_to_come_back() {
    let queue = Queue::memory();
    let one = LimitSettings { max_live: Some(1), ..LimitSettings::default() };
    limit(&queue, "queue:default", &one).await;
    queue.enqueue(number(0)).await.unwrap();
    let error = queue.enqueue(number(1)).await.unwrap_err();
    assert!(error.is_retryable());
    let Error::QueueFull { limit, retry_after } = error else { panic!("{error}") };
    assert_eq!((limit.as_str(), retry_after), ("queue:default", Duration::from_secs(5)));
}

#[tokio::test]
async fn wrong_limits_are_refused_by_name() {
    let queue = Queue::memory();
    let target = LimitTarget::new("tenant:*").unwrap();
    let error = queue.set_limit(&target, &concurrency(0)).await.unwrap_err().to_string();
    assert!(error.contains("tenant:*") && error.contains("concurrency"), "{error}");
    let error = queue.enqueue(number(0).limit("acme")).await.unwrap_err().to_string();
    assert!(error.contains("limits") && error.contains("acme"), "{error}");
    let handler = async |_: Number| Ok::<_, Fail>(());
    let start = |kind: &str, key: &str| {
        Worker::new(&queue).handle::<Number, _>(handler).limits(kind, [key]).start().unwrap_err()
    };
    assert!(matches!(start("number", "x"), StartError::InvalidLimits { .. }));
    assert!(matches!(start("other", "provider:x"), StartError::LimitsWithoutHandler(_)));
}

#[tokio::test]
async fn limits_that_a_worker_names_for_a_kind_add_up() {
    let queue = Queue::memory();
    let worker = || stuck(&queue).limits("number", ["a:z", "a:x"]).limits("number", ["a:y", "a:z"]);
    let running = worker().start().unwrap();
    eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
    let info = queue.workers().await.unwrap().remove(0).info;
    let keys: Vec<&str> = info.kinds[0].limits.iter().map(|key| key.as_str()).collect();
    assert_eq!(keys, ["a:x", "a:y", "a:z"]);
    running.drain(LONG).await;
    let too_many = worker().limits("number", ["b:x", "b:y"]).start().unwrap_err();
    assert!(matches!(too_many, StartError::InvalidLimits { .. }), "{too_many}");
}

#[tokio::test]
async fn an_explanation_names_everything_in_order() {
    let queue = Queue::memory();
    let gauge = Gauge::default();
    let served = Worker::new(&queue).state(gauge).handle::<Number, _>(gauged);
    let served = served.queues(QueueSelection::strict(["other"]).unwrap()).start().unwrap();
    eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
    let delay = Duration::from_secs(60);
    let id = queue.enqueue(number(0).delay(delay)).await.unwrap().id;
    queue.pause(&QueueName::default()).await.unwrap();
    let explanation = queue.explain(id).await.unwrap().unwrap();
    let [Blocker::Due { at }, Blocker::Paused, Blocker::NoWorker { elsewhere }] =
        explanation.blockers.as_slice()
    else {
        panic!("{explanation:?}");
    };
    assert!(at.since(explanation.now) <= delay);
    assert_eq!(elsewhere, &[served.id().clone()]);
    assert_eq!((explanation.position, explanation.estimate), (None, None));
    served.drain(LONG).await;
    assert_eq!(queue.workers().await.unwrap(), [], "it has said that it is gone");
}

#[tokio::test]
async fn a_backlog_is_counted_by_reason() {
    let queue = Queue::memory();
    limit(&queue, "tenant:full", &concurrency(1)).await;
    let worker = stuck(&queue).concurrency(2).start().unwrap();
    let running = |key: &'static str| number(0).limit(key);
    queue.enqueue(running("tenant:full")).await.unwrap();
    queue.enqueue(running("tenant:open")).await.unwrap();
    eventually("both run", async || worker.status().running == 2).await;
    for n in 0..3 {
        queue.enqueue(number(n).limit("tenant:full")).await.unwrap();
    }
    queue.enqueue(number(9).limit("tenant:open")).await.unwrap();
    queue.enqueue(number(9).delay(Duration::from_secs(60))).await.unwrap();
    let unknown = NewJob::new(Kind::new("unknown").unwrap(), Payload::raw("x"));
    queue.enqueue(unknown).await.unwrap();
    let backlog = queue.backlog(&QueueName::default()).await.unwrap();
    let counted: Vec<_> = backlog.reasons.into_iter().collect();
    assert_eq!(
        counted,
        [(Reason::Scheduled, 1), (Reason::Unroutable, 1), (Reason::Limit, 3), (Reason::Slot, 1)]
    );
    assert_eq!(backlog.not_looked_at, 0);
    worker.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn jobs_that_nobody_runs_are_counted_behind_any_number_of_lanes() {
    let queue = Queue::memory();
    let worker = stuck(&queue).concurrency(1).start().unwrap();
    queue.enqueue(number(0)).await.unwrap();
    eventually("it runs", async || worker.status().running == 1).await;
    let lanes = 2 * u64::from(PASS_MAX);
    let tenants = (0..lanes).map(|n| number(n as u32).limit(format!("tenant:{n}")));
    queue.enqueue_all(tenants).await.unwrap();
    let unknown = |n| NewJob::new(Kind::new(format!("unknown-{n}")).unwrap(), Payload::raw("x"));
    queue.enqueue_all((0..50).map(unknown)).await.unwrap();
    let backlog = queue.backlog(&QueueName::default()).await.unwrap();
    assert_eq!(backlog.reasons[&Reason::Unroutable], 50);
    assert_eq!(backlog.reasons[&Reason::Slot] + backlog.not_looked_at, lanes);
    worker.drain(Duration::ZERO).await;
}

/// Is never asked.
#[derive(Debug)]
struct Idle;

impl Executor for Idle {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_running_worker_can_be_given_more_slots_and_fewer() {
    let queue = Queue::memory();
    let worker = stuck(&queue).concurrency(1);
    let [narrow, wide] = ["narrow", "wide"].map(|kind| Kind::new(kind).unwrap());
    let worker = worker.executor(narrow, Some(2), Idle).executor(wide, Some(9), Idle);
    let worker = worker.start().unwrap();
    queue.enqueue_all((0..6).map(number)).await.unwrap();
    eventually("one runs", async || worker.status().running == 1).await;
    worker.set_concurrency(3).unwrap();
    eventually("three run", async || worker.status().running == 3).await;
    // Of all kinds, and of each: narrow, number, wide.
    let said = async || {
        let info = queue.workers().await.unwrap().remove(0).info;
        let kinds = info.kinds.iter().map(|kind| kind.concurrency);
        (info.concurrency, kinds.collect::<Vec<_>>())
    };
    eventually("others know", async || said().await == (3, vec![2, 3, 3])).await;
    worker.set_concurrency(2).unwrap();
    assert_eq!((worker.status().slots, worker.status().running), (2, 3));
    eventually("others know", async || said().await == (2, vec![2, 2, 2])).await;
    assert!(matches!(worker.set_concurrency(0), Err(StartError::OutOfRange { .. })));
    assert_eq!(worker.drain(Duration::ZERO).await.released, 3);
}

#[tokio::test]
async fn others_know_soon_how_many_jobs_a_worker_runs() {
    let queue = Queue::memory();
    let worker = stuck(&queue).start().unwrap();
    eventually("it is known", async || queue.workers().await.unwrap().len() == 1).await;
    let since = std::time::Instant::now();
    queue.enqueue_all((0..3).map(number)).await.unwrap();
    let said = async || queue.workers().await.unwrap()[0].info.running;
    eventually("others know", async || said().await == 3).await;
    // A second or so, and much less than the time between two words of an idle worker.
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    worker.drain(Duration::ZERO).await;
}
