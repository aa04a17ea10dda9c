//! apalis on Redis as one of the peers.

use std::time::Duration;

use apalis::prelude::{BackendExt as _, Data, TaskSink as _, WorkerBuilder};
use apalis_redis::{Config, RedisStorage};
use peer_adapter::{About, Connection, Peer, Stop, Tally, Work};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How many jobs go into one bulk call.
const BULK: usize = 1000;
/// Without a strategy to poll by, an idle worker never looks again.
const POLL_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Apalis {
    storage: RedisStorage<Work>,
    config: Config,
}

async fn nothing(work: Work, tally: Data<Tally>) {
    tally.ran(&work);
}

impl Peer for Apalis {
    type Worker = Running;

    fn about() -> About {
        About::of(
            include_str!("../../Cargo.lock"),
            "apalis-redis",
            &[
                ("default", "defaults, polls every 100 ms; batches as large as the concurrency"),
                ("light", "the same, no locks, events or kept results"),
            ],
        )
    }

    async fn connect(options: &Connection) -> anyhow::Result<Self> {
        let storage = RedisStorage::new(apalis_redis::connect(options.url.as_str()).await?);
        let config = Config::default().queue("nothing");
        let config = match options.variant.as_str() {
            "default" => config,
            "light" => config.lock_tasks(false).emit_events(false).persist_results(false),
            other => anyhow::bail!("no variant {other:?}"),
        };
        Ok(Self { storage: storage.with_config(config.clone()), config })
    }

    async fn enqueue(&self, work: Work) -> anyhow::Result<()> {
        let mut storage = self.storage.clone();
        storage.push(work).await?;
        Ok(())
    }

    async fn enqueue_all(&self, works: Vec<Work>) -> anyhow::Result<()> {
        let mut storage = self.storage.clone();
        for works in works.chunks(BULK) {
            storage.push_bulk(works.to_vec()).await?;
        }
        Ok(())
    }

    async fn start(&self, concurrency: usize, tally: Tally) -> anyhow::Result<Running> {
        let backend = self
            .storage
            .clone()
            .with_config(self.config.clone().batch_size(concurrency))
            .poll_with_interval(POLL_EVERY);
        let worker = WorkerBuilder::new(format!("worker-{}", std::process::id()))
            .backend(backend)
            .data(tally)
            .build(nothing);
        let (stop, stopped) = oneshot::channel::<()>();
        let runs = tokio::spawn(async move {
            let signal = async move {
                let _ = stopped.await;
                Ok::<_, std::io::Error>(())
            };
            worker.run_until(signal).await.map_err(anyhow::Error::from)
        });
        Ok(Running { stop, runs })
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    runs: JoinHandle<anyhow::Result<()>>,
}

impl Stop for Running {
    async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        match self.runs.await? {
            // Its word for having been told to stop.
            Err(error) if error.to_string().to_lowercase().contains("gracefully") => Ok(()),
            ended => ended,
        }
    }
}

fn main() -> anyhow::Result<()> {
    peer_adapter::main::<Apalis>()
}
