//! How long an idle worker takes to start a job.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::tally::now_us;
use crate::{Peer, Stop as _, Tally, Work};

#[derive(Debug, Serialize)]
pub(crate) struct PickUps {
    /// From before the call that enqueues until the handler starts.
    latencies_us: Vec<u64>,
    /// Jobs that were enqueued and not started in time.
    missing: u32,
}

/// A job that is not picked up within this time is given up, and the run with it.
const PATIENCE: Duration = Duration::from_secs(25);

pub(crate) async fn run<P: Peer>(
    peer: &P,
    jobs: u32,
    concurrency: usize,
    gap_ms: u64,
    seconds: u64,
) -> anyhow::Result<PickUps> {
    let tally = Tally::new(jobs);
    let worker = peer.start(concurrency, tally.clone()).await?;
    // A worker that has only just started is not idle yet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut latencies_us = Vec::new();
    let mut missing = 0;
    let until = Instant::now() + Duration::from_secs(seconds);
    for index in 0..jobs {
        tokio::time::sleep(Duration::from_millis(gap_ms)).await;
        if Instant::now() > until {
            break;
        }
        let enqueued_us = now_us();
        peer.enqueue(Work::new(index)).await?;
        if tokio::time::timeout(PATIENCE, tally.reaches(u64::from(index) + 1)).await.is_err() {
            missing += 1;
            break;
        }
        // One job at a time: the last start is this job's.
        latencies_us.push(tally.last_us().saturating_sub(enqueued_us));
    }
    worker.stop().await?;
    Ok(PickUps { latencies_us, missing })
}
