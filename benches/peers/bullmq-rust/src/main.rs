//! BullMQ for Rust as one of the peers.

use std::sync::Arc;

use bullmq::options::RedisConnectionOptions;
use bullmq::types::RemoveOnFinish;
use bullmq::{BulkJob, Job, JobOptions, Queue, QueueOptions, Worker, WorkerOptions};
use peer_adapter::{About, Connection, Peer, Stop, Tally, Work};
use serde_json::Value;

const QUEUE: &str = "nothing";

#[derive(Clone)]
struct BullMq {
    queue: Arc<Queue>,
    connection: RedisConnectionOptions,
}

fn drop_completed() -> JobOptions {
    JobOptions { remove_on_complete: Some(RemoveOnFinish::Bool(true)), ..JobOptions::default() }
}

impl Peer for BullMq {
    type Worker = Running;

    fn about() -> About {
        About::of(
            include_str!("../../Cargo.lock"),
            "bullmq-official",
            &[("default", "remove_on_complete; bulk calls of 1 000")],
        )
    }

    async fn connect(options: &Connection) -> anyhow::Result<Self> {
        let connection = RedisConnectionOptions::new().url(options.url.as_str());
        let options = QueueOptions::new().connection(connection.clone());
        Ok(Self { queue: Arc::new(Queue::with_options(QUEUE, options).await?), connection })
    }

    async fn enqueue(&self, work: Work) -> anyhow::Result<()> {
        self.queue.add(QUEUE, work).options(drop_completed()).await?;
        Ok(())
    }

    async fn enqueue_all(&self, works: Vec<Work>) -> anyhow::Result<()> {
        for works in works.chunks(1000) {
            let job = |work| BulkJob::with_options(QUEUE, work, drop_completed());
            self.queue.add_bulk(works.iter().map(job).collect()).await?;
        }
        Ok(())
    }

    async fn start(&self, concurrency: usize, tally: Tally) -> anyhow::Result<Running> {
        let handler = move |job: Job, _| {
            let work = serde_json::from_value::<Work>(job.data().clone());
            if let Ok(work) = &work {
                tally.ran(work);
            }
            async move {
                work?;
                Ok(Value::Null)
            }
        };
        let options = WorkerOptions {
            concurrency,
            ..WorkerOptions::new().connection(self.connection.clone())
        };
        Ok(Running(Worker::with_options(QUEUE, handler, options).await?))
    }
}

struct Running(Worker);

impl Stop for Running {
    async fn stop(self) -> anyhow::Result<()> {
        Ok(self.0.close(30_000).await?)
    }
}

fn main() -> anyhow::Result<()> {
    peer_adapter::main::<BullMq>()
}
