//! oxana as one of the peers.

use peer_adapter::{About, Connection, Peer, Stop, Tally, Work};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Nothing(Work);

impl oxana::Job for Nothing {}

struct NothingWorker {
    tally: Tally,
}

impl oxana::FromContext<Tally> for NothingWorker {
    fn from_context(tally: &Tally) -> Self {
        Self { tally: tally.clone() }
    }
}

#[async_trait::async_trait]
impl oxana::Worker<Nothing> for NothingWorker {
    type Error = std::convert::Infallible;

    async fn process(&self, job: Nothing, _: &oxana::JobContext) -> Result<(), Self::Error> {
        self.tally.ran(&job.0);
        Ok(())
    }
}

#[derive(Serialize)]
struct Only;

impl oxana::Queue for Only {
    fn to_config() -> oxana::QueueConfig {
        oxana::QueueConfig {
            kind: oxana::QueueKind::Static { key: "nothing".to_owned() },
            concurrency: oxana::QueueConcurrency::Fixed(1),
            throttle: None,
        }
    }
}

#[derive(Clone)]
struct Oxana(oxana::Storage);

impl Peer for Oxana {
    type Worker = Running;

    fn about() -> About {
        About::of(
            include_str!("../../Cargo.lock"),
            "oxana",
            &[("default", "every default; done jobs are dropped")],
        )
    }

    async fn connect(options: &Connection) -> anyhow::Result<Self> {
        Ok(Self(oxana::Storage::builder().build_from_redis_url(options.url.as_str())?))
    }

    async fn enqueue(&self, work: Work) -> anyhow::Result<()> {
        self.0.enqueue(Only, Nothing(work)).await?;
        Ok(())
    }

    async fn enqueue_all(&self, works: Vec<Work>) -> anyhow::Result<()> {
        for works in works.chunks(1000) {
            self.0.enqueue_list(Only, works.iter().cloned().map(Nothing)).await?;
        }
        Ok(())
    }

    async fn start(&self, concurrency: usize, tally: Tally) -> anyhow::Result<Running> {
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = self
            .0
            .runtime(tally)
            .queue_with_concurrency::<Only>(concurrency)
            .worker::<NothingWorker, Nothing>()
            .shutdown_on(async move {
                let _ = stopped.await;
                Ok(())
            });
        let runs = tokio::spawn(async move {
            runtime.run().await?;
            Ok(())
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
        self.runs.await?
    }
}

fn main() -> anyhow::Result<()> {
    peer_adapter::main::<Oxana>()
}
