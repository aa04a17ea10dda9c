//! A whole worker over a connection that breaks all the time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use queue_core::{Context, Executor, Fail, JobId, JobState, Kind, Payload, Queue, Worker};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::job;
use crate::support::proxy::{Cut, Proxy};

const JOBS: usize = 700;
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes which jobs it ran.
#[derive(Clone, Default)]
struct Note(Arc<Mutex<Vec<JobId>>>);

impl Executor for Note {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        self.0.lock().unwrap().push(context.job_id());
        Ok(None)
    }
}

/// Breaks the connection at an answer, after a few or many of its bytes, again and again; says
/// how often it did.
async fn break_for_ever(proxy: Proxy, breaks: Arc<Mutex<usize>>) {
    for step in 0_usize.. {
        proxy.arm_after(5 + step % 8, Cut { after_bytes: step * 7 % 90 });
        while proxy.is_armed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        *breaks.lock().unwrap() += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_the_connection_breaks() {
    let harness = RedisHarness::new();
    let direct = harness.now().await;
    let proxy = Proxy::start(harness.redis.socket()).await;
    let namespace = direct.namespace().clone();
    let queue = Queue::new(RedisBackend::connect(&proxy.url(), namespace).await.unwrap());
    let direct = Queue::new(direct);
    let breaks = Arc::new(Mutex::new(0));
    let breaking = tokio::spawn(break_for_ever(proxy.clone(), Arc::clone(&breaks)));

    let note = Note::default();
    let worker = Worker::new(&queue)
        .concurrency(8)
        .executor(Kind::new("flow").unwrap(), None, note.clone())
        .start()
        .unwrap();
    let mut sent = Vec::new();
    for chunk in 0..JOBS / 20 {
        let jobs: Vec<_> = (0..20).map(|_| job("flow")).collect();
        sent.extend(jobs.iter().map(queue_core::NewJob::job_id));
        // A producer that does not know whether its call took effect sends it again.
        let started = Instant::now();
        while queue.enqueue_all(jobs.clone()).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "chunk {chunk} never came through");
        }
    }
    let started = Instant::now();
    while note.0.lock().unwrap().len() < JOBS {
        assert!(started.elapsed() < PATIENCE, "{} jobs have run", note.0.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = worker.drain(PATIENCE).await;
    breaking.abort();

    assert_eq!((report.finished, report.released, report.lost), (JOBS, 0, 0));
    let ran = note.0.lock().unwrap().clone();
    assert_eq!(ran.len(), JOBS, "no lease has expired, so no job runs twice");
    assert_eq!(ran.into_iter().collect::<HashSet<_>>(), sent.into_iter().collect());
    let stats = direct.stats().await.unwrap();
    let completed = stats.iter().filter_map(|row| row.jobs.get(&JobState::Completed)).sum::<u64>();
    assert_eq!(completed, JOBS as u64);
    assert_eq!(direct.audit().await.unwrap(), []);
    assert!(*breaks.lock().unwrap() > 10, "the connection broke {breaks:?} times");
}
