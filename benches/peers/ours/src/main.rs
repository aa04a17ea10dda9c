//! Our queue as one of the peers.

use std::time::Duration;

use peer_adapter::{About, Connection, Peer, Stop, Tally, Work};
use queue::{
    Connect as _, ConnectOptions, Durability, Fail, Job, NewJob, Queue, Retention, RunningWorker,
    State, Worker,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Nothing(Work);

impl Job for Nothing {
    const KIND: &'static str = "peers.nothing";
}

async fn nothing(State(tally): State<Tally>, job: Nothing) -> Result<(), Fail> {
    tally.ran(&job.0);
    Ok(())
}

#[derive(Clone)]
struct Ours {
    queue: Queue,
    retention: Retention,
}

impl Ours {
    fn job(&self, work: Work) -> anyhow::Result<NewJob> {
        Ok(NewJob::of(&Nothing(work))?.retention(self.retention))
    }
}

impl Peer for Ours {
    type Worker = Running;

    fn about() -> About {
        About::of(
            include_str!("../../Cargo.lock"),
            "queue",
            &[
                ("default", "every default; SQLite: durability fsync"),
                ("drop", "retention of completed jobs zero"),
                ("memory", "retention of completed jobs zero, durability memory"),
            ],
        )
    }

    async fn connect(options: &Connection) -> anyhow::Result<Self> {
        let mut retention = Retention::default();
        let mut connect = ConnectOptions::default();
        match options.variant.as_str() {
            "default" => {}
            "drop" => retention.completed = Duration::ZERO,
            "memory" => {
                retention.completed = Duration::ZERO;
                connect = connect.durability(Durability::Memory);
            }
            other => anyhow::bail!("no variant {other:?}"),
        }
        Ok(Self { queue: Queue::connect_with(&options.url, connect).await?, retention })
    }

    async fn enqueue(&self, work: Work) -> anyhow::Result<()> {
        self.queue.enqueue(self.job(work)?).await?;
        Ok(())
    }

    async fn enqueue_all(&self, works: Vec<Work>) -> anyhow::Result<()> {
        let jobs = works.into_iter().map(|work| self.job(work)).collect::<Result<Vec<_>, _>>()?;
        self.queue.enqueue_all(jobs).await?;
        Ok(())
    }

    async fn start(&self, concurrency: usize, tally: Tally) -> anyhow::Result<Running> {
        let worker = Worker::new(&self.queue)
            .concurrency(concurrency)
            .state(tally)
            .handle::<Nothing, _>(nothing)
            .start()?;
        Ok(Running(worker))
    }
}

struct Running(RunningWorker);

impl Stop for Running {
    async fn stop(self) -> anyhow::Result<()> {
        let stopped = self.0.drain(Duration::from_secs(30)).await;
        anyhow::ensure!(stopped.released + stopped.lost == 0, "{stopped:?}");
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    peer_adapter::main::<Ours>()
}
