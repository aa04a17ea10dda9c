//! Starting and stopping workers leaves nothing behind. Alone in its process, because it counts
//! threads.

use std::time::{Duration, Instant};

use queue_core::{Context, Fail, Job, NewJob, Queue, Worker};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
struct Number {
    n: u32,
}

impl Job for Number {
    const KIND: &'static str = "number";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_and_stopping_leaves_nothing_behind() {
    let queue = Queue::memory();
    let handler = async |context: Context, job: Number| {
        context.log(format!("number {}", job.n));
        Ok::<_, Fail>(())
    };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for n in 0..500 {
        let worker = Worker::new(&queue).handle::<Number, _>(handler).start().unwrap();
        if n % 20 == 0 {
            let id = queue.enqueue(NewJob::of(&Number { n }).unwrap()).await.unwrap().id;
            let record = queue.wait_finished(id, LONG).await.unwrap().unwrap();
            assert!(record.state.is_finished());
        }
        if n % 3 == 0 {
            drop(worker);
        } else {
            worker.drain(LONG).await;
        }
    }
    let deadline = Instant::now() + LONG;
    while tasks() > before || renew_threads() > 0 {
        assert!(Instant::now() < deadline, "{} tasks, {} threads", tasks(), renew_threads());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How many threads of this process renew leases, where the system tells.
fn renew_threads() -> usize {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let names =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "queue-renew").count()
}
