//! Handlers that block the threads of their runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::support::{Faulty, Gate, LONG, eventually};
use queue_core::{Fail, Job, JobState, MemoryBackend, NewJob, Queue, State, StopReport, Worker};

#[derive(Debug, Serialize, Deserialize)]
struct Blocks {}

impl Job for Blocks {
    const KIND: &'static str = "blocks";
}

type Unblocks = Arc<Mutex<Option<mpsc::Receiver<()>>>>;

/// A worker on a thread of its own. The first job blocks that.
struct Blocked {
    blocks: Arc<AtomicBool>,
    unblocks: mpsc::Sender<()>,
    stop: Gate,
    thread: JoinHandle<StopReport>,
}

impl Blocked {
    fn start(queue: Queue, slots: usize, lease: Duration) -> Self {
        let (blocks, stop) = (Arc::<AtomicBool>::default(), Gate::default());
        let (unblocks, unblocked) = mpsc::channel::<()>();
        let unblocked: Unblocks = Arc::new(Mutex::new(Some(unblocked)));
        let (told, stopped) = (Arc::clone(&blocks), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let block = async |State(told): State<Arc<AtomicBool>>,
                                   State(unblocked): State<Unblocks>,
                                   _: Blocks| {
                    if let Some(unblocked) = unblocked.lock().unwrap().take() {
                        told.store(true, Ordering::SeqCst);
                        unblocked.recv().unwrap();
                    }
                    Ok::<_, Fail>(())
                };
                let worker = Worker::new(&queue).concurrency(slots).lease(lease);
                let worker = worker.state(told).state(unblocked);
                let worker = worker.handle::<Blocks, _>(block).start().unwrap();
                stopped.passed().await;
                worker.drain(LONG).await
            })
        });
        Self { blocks, unblocks, stop, thread }
    }

    /// It goes on, and stops.
    fn end(self) -> StopReport {
        // Nobody listens if it was unblocked before.
        let _ = self.unblocks.send(());
        self.stop.open();
        self.thread.join().unwrap()
    }
}

async fn count(queue: &Queue, state: JobState) -> u64 {
    let stats = queue.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
}

/// A worker that was given 16 of 20 such jobs and is blocked by the first.
async fn blocked_by_the_first(queue: &Queue) -> Blocked {
    let jobs = (0..20).map(|_| NewJob::of(&Blocks {}).unwrap().max_stalls(1));
    queue.enqueue_all(jobs).await.unwrap();
    let blocked = Blocked::start(queue.clone(), 16, Duration::from_secs(2));
    eventually("it blocks", async || blocked.blocks.load(Ordering::SeqCst)).await;
    blocked
}

/// Nobody else is there: only the worker itself can have given the others back.
async fn until_running(queue: &Queue, jobs: u64) {
    let so_many = async || count(queue, JobState::Running).await == jobs;
    eventually("the others were given back", so_many).await;
}

#[tokio::test]
async fn what_a_blocked_worker_cannot_begin_others_get() {
    let queue = Queue::memory();
    let blocked = blocked_by_the_first(&queue).await;
    until_running(&queue, 1).await;
    let quick = async |_: Blocks| Ok::<_, Fail>(());
    let other = Worker::new(&queue).handle::<Blocks, _>(quick).start().unwrap();
    let all_others = async || count(&queue, JobState::Completed).await == 19;
    eventually("all others have run", all_others).await;
    other.drain(LONG).await;
    let report = blocked.end();
    assert_eq!((report.finished, report.released, report.lost), (1, 0, 0));
    assert_eq!(count(&queue, JobState::Completed).await, 20);
    assert_eq!(queue.audit().await.unwrap(), []);
}

/// Its jobs go on as soon as it can, if nobody else has taken them.
#[tokio::test]
async fn a_worker_that_was_blocked_takes_jobs_again() {
    let queue = Queue::memory();
    let blocked = blocked_by_the_first(&queue).await;
    until_running(&queue, 1).await;
    blocked.unblocks.send(()).unwrap();
    let all = async || count(&queue, JobState::Completed).await == 20;
    eventually("all have run", all).await;
    assert_eq!(blocked.end().lost, 0);
}

#[tokio::test]
async fn a_full_store_is_asked_again_to_take_jobs_back() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    faulty.full_for(3);
    let blocked = blocked_by_the_first(&queue).await;
    until_running(&queue, 1).await;
    assert_eq!(blocked.end().lost, 0);
}

/// It waits for its lease, and the others do not.
#[tokio::test]
async fn a_job_that_the_store_does_not_take_back_keeps_no_other() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let jobs: Vec<NewJob> = (0..20).map(|_| NewJob::of(&Blocks {}).unwrap()).collect();
    faulty.unreadable(jobs[7].job_id());
    queue.enqueue_all(jobs).await.unwrap();
    let blocked = Blocked::start(queue.clone(), 16, Duration::from_secs(2));
    eventually("it blocks", async || blocked.blocks.load(Ordering::SeqCst)).await;
    until_running(&queue, 2).await;
    let _ = blocked.end();
}
