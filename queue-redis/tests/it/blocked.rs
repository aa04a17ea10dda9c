//! Workers whose runtime is blocked by a handler, while the server has a claim of theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use queue_core::{
    Context, EnqueueOutcome, Enqueued, Executor, Fail, JobState, Kind, NewJob, Payload, Queue,
    StopReport, Worker,
};

use queue_redis::RedisBackend;
use tokio::sync::{Notify, oneshot};

use crate::standing::has_more_behind_its_wait;
use crate::support::harness::RedisHarness;
use crate::support::jobs::assert_sound;

const LONG: Duration = Duration::from_secs(20);

/// Waits for its time, and then blocks its thread.
#[derive(Clone)]
struct Blocks {
    begins: Arc<Notify>,
    blocks: Arc<AtomicBool>,
    ends: Arc<std::sync::Mutex<Receiver<()>>>,
}

impl Executor for Blocks {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        self.begins.notified().await;
        self.blocks.store(true, Ordering::SeqCst);
        self.ends.lock().unwrap().recv().unwrap();
        Ok(None)
    }
}

#[derive(Clone)]
struct Quick;

impl Executor for Quick {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        Ok(None)
    }
}

fn job(kind: &str) -> NewJob {
    // One stall, and it is dead.
    NewJob::new(Kind::new(kind).unwrap(), Payload::raw("")).max_stalls(1)
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The server makes the claim that stands behind the wait, and nobody is there to begin or renew what it gets.
#[tokio::test]
async fn a_standing_claim_of_a_blocked_worker_is_revoked_and_its_jobs_are_given_back() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let namespace = backend.namespace().clone();
    let queue = Queue::new(backend);
    let (end, ends) = channel();
    let (begins, blocks) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
    let ends = Arc::new(std::sync::Mutex::new(ends));
    let blocking = Blocks { begins: begins.clone(), blocks: blocks.clone(), ends };
    let (stop, stopped) = oneshot::channel::<()>();
    let (url, its_namespace) = (harness.redis.url(), namespace.clone());
    let thread = std::thread::spawn(move || -> StopReport {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let own = RedisBackend::connect(&url, its_namespace).await.unwrap();
            let worker = Worker::new(&Queue::new(own)).concurrency(16);
            let worker = worker.executor(Kind::new("blocks").unwrap(), None, blocking);
            let worker = worker.executor(Kind::new("quick").unwrap(), None, Quick);
            let worker = worker.start().unwrap();
            stopped.await.unwrap();
            worker.drain(LONG).await
        })
    });
    let id = queue.enqueue(job("blocks")).await.unwrap().id;
    let state = async |id| queue.get(id).await.unwrap().map(|record| record.state);
    eventually("it runs", async || state(id).await == Some(JobState::Running)).await;
    let stands = async || has_more_behind_its_wait(&harness).await;
    eventually("it has a claim behind its wait", stands).await;
    begins.notify_one();
    eventually("it blocks", async || blocks.load(Ordering::SeqCst)).await;
    let ids: Vec<_> = queue.enqueue_all((0..10).map(|_| job("quick"))).await.unwrap();
    let other = Worker::new(&queue).executor(Kind::new("quick").unwrap(), None, Quick);
    let other = other.start().unwrap();
    for enqueued in ids {
        let EnqueueOutcome::Done(Enqueued { id, .. }) = enqueued else { panic!("{enqueued:?}") };
        let record = queue.wait_finished(id, LONG).await.unwrap().unwrap();
        assert_eq!((record.state, record.stalls), (JobState::Completed, 0));
    }
    other.drain(LONG).await;
    end.send(()).unwrap();
    stop.send(()).unwrap();
    let report = thread.join().unwrap();
    assert_eq!((report.finished, report.lost), (1, 0));
    assert_sound(&harness.open(&namespace).await).await;
}
