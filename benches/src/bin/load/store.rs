//! The server of one part, and the jobs that go there.

use std::time::Duration;

use queue::{Connect as _, Kind, NewJob, Queue, Retention};
use queue_benches::delivery::Delivery;
use queue_benches::redis_server::Redis;
use queue_benches::server_figures::ServerFigures;

/// A redis-server that keeps nothing, and its folder.
pub(crate) struct Store {
    redis: Redis,
    _folder: tempfile::TempDir,
}

impl Store {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { redis: Redis::start_volatile(folder.path())?, _folder: folder })
    }

    pub(crate) fn port(&self) -> u16 {
        self.redis.port()
    }

    pub(crate) fn url(&self) -> String {
        self.redis.url()
    }

    pub(crate) fn figures(&self) -> anyhow::Result<ServerFigures> {
        ServerFigures::connect(&self.url())
    }

    pub(crate) async fn queue(&self) -> anyhow::Result<Queue> {
        Ok(Queue::connect(&self.url()).await?)
    }
}

pub(crate) fn kind() -> anyhow::Result<Kind> {
    Ok(Kind::new("load.nothing")?)
}

/// No record of a job that completes.
pub(crate) fn not_kept() -> Retention {
    Retention { completed: Duration::ZERO, ..Retention::default() }
}

/// The jobs with the numbers from zero.
pub(crate) fn jobs(count: usize, bytes: usize, keeps: bool) -> anyhow::Result<Vec<NewJob>> {
    let kind = kind()?;
    let job = |number| {
        let job = Delivery::job(&kind, number as u64, bytes);
        if keeps { job } else { job.retention(not_kept()) }
    };
    Ok((0..count).map(job).collect())
}
