//! Servers that lose their data under workers: nothing of what is there then is given out before
//! whoever asks has prepared it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use queue_core::{
    Backend, CancelReason, Context, Error, Executor, Fail, Kind, LimitSettings, LimitTarget,
    Namespace, NewJob, Payload, Queue, RunningWorker, SettleRequest, Settled, Worker,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, request, settle};
use crate::support::log::Log;
use crate::support::server::TestRedis;

const LONG: Duration = Duration::from_secs(20);

/// Whether claims of all forms get nothing, and are told why.
async fn gives_nothing(backend: &RedisBackend) -> bool {
    let mut of_several = request(&["a", "b"], 5);
    of_several.kinds[0].limits = queue_core::LimitKeys::parse(["provider:x"]).unwrap();
    let mut nothing = true;
    for claim in [request(&["a"], 1), request(&["a"], 5), of_several] {
        let behind = SettleRequest { settlements: Vec::new(), claim: Some(claim.clone()) };
        for answer in [
            backend.claim(&claim).await.unwrap(),
            backend.settle(&behind).await.unwrap().claim.unwrap(),
        ] {
            nothing &= answer.leases.is_empty() && answer.was_reset;
        }
    }
    nothing
}

#[tokio::test]
async fn data_that_the_program_does_not_know_gives_no_job_until_it_is_adopted() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[job("a")]).await;
    let running = claim(&backend, &["a"], 1).await;
    harness.raw::<()>(&[b"FLUSHALL"]);
    assert_eq!(settle(&backend, &running, &completed()).await, [Settled::Gone]);
    let jobs = [job("a"), job("b"), job("a").limit("tenant:a"), job("a").limit("tenant:b")];
    enqueue(&backend, &jobs).await;
    assert!(gives_nothing(&backend).await, "data without a name");
    // Whoever connects gives it one, and knows nothing of anybody's limits.
    let other = harness.open(backend.namespace()).await;
    assert!(gives_nothing(&backend).await, "data with another name");
    assert_eq!(claim(&other, &["b"], 1).await.len(), 1);

    let epoch = backend.other_epoch().await.unwrap().unwrap();
    assert!(gives_nothing(&backend).await, "asking is not adopting");
    backend.adopt(&epoch).await.unwrap();
    assert_eq!(backend.other_epoch().await.unwrap(), None);
    assert_eq!(claim(&backend, &["a"], 5).await.len(), 3);
    assert_sound(&backend).await;

    // What is reset again while it is being prepared is not what is adopted.
    harness.raw::<()>(&[b"FLUSHALL"]);
    let epoch = backend.other_epoch().await.unwrap().unwrap();
    harness.raw::<()>(&[b"FLUSHALL"]);
    backend.adopt(&epoch).await.unwrap();
    assert!(gives_nothing(&backend).await);
}

#[tokio::test]
async fn a_claim_that_was_out_while_the_data_was_adopted_is_to_be_made_again() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    harness.raw::<()>(&[b"FLUSHALL"]);
    enqueue(&backend, &[job("a")]).await;
    let epoch = backend.other_epoch().await.unwrap().unwrap();
    let frozen = harness.redis.freeze();
    let out = tokio::spawn({
        let backend = backend.clone();
        async move { backend.claim(&request(&["a"], 1)).await.unwrap() }
    });
    // Its first poll makes the command, with the name that is known by then.
    tokio::task::yield_now().await;
    backend.adopt(&epoch).await.unwrap();
    drop(frozen);
    let answer = out.await.unwrap();
    assert!(answer.leases.is_empty() && answer.more && !answer.was_reset, "{answer:?}");
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

/// How many attempts run, the most that ever did, and how many have ended.
#[derive(Clone, Default)]
struct Gauge(Arc<[AtomicUsize; 3]>);

impl Gauge {
    fn most(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }

    fn ended(&self) -> usize {
        self.0[2].load(Ordering::SeqCst)
    }
}

impl Executor for Gauge {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        let running = self.0[0].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[1].fetch_max(running, Ordering::SeqCst);
        // Others could start meanwhile.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.0[0].fetch_sub(1, Ordering::SeqCst);
        self.0[2].fetch_add(1, Ordering::SeqCst);
        Ok(None)
    }
}

async fn set_limits(queue: Queue) -> Result<(), Error> {
    let two = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
    queue.set_limit(&LimitTarget::new("provider:x").unwrap(), &two).await.map(drop)
}

/// A program of its own, as far as the store can tell.
async fn connect(redis: &TestRedis) -> Queue {
    Queue::new(RedisBackend::connect(&redis.url(), Namespace::default()).await.unwrap())
}

fn start(queue: &Queue, gauge: &Gauge) -> RunningWorker {
    let worker = Worker::new(queue).concurrency(8);
    let worker = worker.executor(Kind::new("a").unwrap(), None, gauge.clone());
    worker.limits("a", ["provider:x"]).start().unwrap()
}

fn jobs(count: usize) -> impl Iterator<Item = NewJob> {
    (0..count).map(|_| job("a"))
}

/// Enqueues as soon as the server takes it.
async fn enqueue_to(queue: &Queue, count: usize) {
    let jobs: Vec<_> = jobs(count).collect();
    while queue.enqueue_all(jobs.clone()).await.is_err() {}
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let over = tokio::time::timeout(LONG, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    over.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn limits_hold_over_two_programs_when_the_server_comes_back_empty() {
    let log = Log::keep();
    let mut redis = TestRedis::start();
    let (gauge, producer) = (Gauge::default(), connect(&redis).await);
    let mut workers = Vec::new();
    for _ in 0..2 {
        let queue = connect(&redis).await;
        queue.on_reset(set_limits);
        set_limits(queue.clone()).await.unwrap();
        workers.push(start(&queue, &gauge));
    }
    for round in 1..=3 {
        enqueue_to(&producer, 40).await;
        until("all have run", || gauge.ended() == 40 * round).await;
        assert!(gauge.most() <= 2, "{} ran at once", gauge.most());
        // Even if the other one has run all of them.
        let before = 2 * (round - 1);
        until("each has noticed", || log.with("store_was_reset").len() >= before).await;
        if round == 2 {
            redis::cmd("FLUSHALL").exec(&mut redis.client()).unwrap();
        } else {
            redis.crash_and_restart();
        }
    }
    let said = log.with("store_was_reset");
    assert!(said.iter().all(|line| line.starts_with("ERROR") && line.contains("limits")));
    assert!(said.len() >= 4, "each of them, each time: {said:?}");
    for worker in workers {
        worker.drain(LONG).await;
    }
}

#[tokio::test]
async fn nothing_runs_while_the_store_cannot_be_prepared() {
    let redis = TestRedis::start();
    let (gauge, queue) = (Gauge::default(), connect(&redis).await);
    let (tries, seen, url) = (Arc::new(AtomicUsize::new(0)), gauge.clone(), redis.socket());
    let counted = Arc::clone(&tries);
    queue.on_reset(move |queue| {
        let (tries, seen, socket) = (Arc::clone(&counted), seen.clone(), url.clone());
        async move {
            assert_eq!(seen.ended(), 0, "nothing has run");
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Error::Refused("not now".to_owned())),
                1 => panic!("a bug"),
                2 => {
                    // It is reset again under the hands of whoever prepares it.
                    set_limits(queue.clone()).await?;
                    let url = format!("redis+unix://{}", socket.display());
                    let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
                    redis::cmd("FLUSHALL").exec(&mut client).unwrap();
                    queue.enqueue_all(jobs(20)).await.map(drop)
                }
                _ => set_limits(queue).await,
            }
        }
    });
    redis::cmd("FLUSHALL").exec(&mut redis.client()).unwrap();
    queue.enqueue_all(jobs(20)).await.unwrap();
    let worker = start(&queue, &gauge);
    until("it is noticed", || worker.status().store_was_reset).await;
    until("all have run", || gauge.ended() == 20).await;
    assert_eq!((tries.load(Ordering::SeqCst), gauge.most()), (4, 2));
    assert!(!worker.status().store_was_reset);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_program_that_prepares_nothing_goes_on_and_says_what_is_gone() {
    let log = Log::keep();
    let redis = TestRedis::start();
    let (gauge, queue) = (Gauge::default(), connect(&redis).await);
    let worker = start(&queue, &gauge);
    queue.enqueue_all(jobs(1)).await.unwrap();
    until("it has run", || gauge.ended() == 1).await;
    redis::cmd("FLUSHALL").exec(&mut redis.client()).unwrap();
    queue.enqueue_all(jobs(10)).await.unwrap();
    until("all have run", || gauge.ended() == 11).await;
    let said = log.with("store_was_reset");
    assert!(said.len() == 1 && said[0].contains("without a limit"), "{said:?}");
    worker.drain(LONG).await;
}

/// Runs until it is told to stop.
#[derive(Clone)]
struct Endless(tokio::sync::mpsc::UnboundedSender<Option<CancelReason>>);

impl Executor for Endless {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        self.0.send(None).unwrap();
        self.0.send(Some(context.cancelled().await)).unwrap();
        Ok(None)
    }
}

#[tokio::test]
async fn what_ran_when_the_data_was_lost_is_told_to_stop_long_before_its_lease_is_over() {
    let redis = TestRedis::start();
    let queue = connect(&redis).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::new(&queue).lease(Duration::from_secs(600));
    let worker = worker.executor(Kind::new("a").unwrap(), None, Endless(told)).start().unwrap();
    queue.enqueue(job("a")).await.unwrap();
    assert_eq!(heard.recv().await, Some(None));
    redis::cmd("FLUSHALL").exec(&mut redis.client()).unwrap();
    let soon = tokio::time::timeout(LONG, heard.recv()).await;
    assert_eq!(soon.unwrap(), Some(Some(CancelReason::LeaseLost)));
    worker.stop_now().await;
}
