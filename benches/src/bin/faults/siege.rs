//! Replicas are killed one after the other, as fast as they come up, while their commands run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use queue::{JobId, JobState, Kind, NewJob, Payload};

use super::{LEASE, PATIENCE, Scene};

/// Jobs are added in waves, so that something runs at every kill.
const WAVE: u32 = 400;

/// All of them must be there to be counted at the end.
const JOBS_MAX: u32 = 9_600;

/// How long a replica lives at the longest.
const LIFE_MAX_MS: u64 = 150;

impl Scene {
    pub(super) async fn siege(
        &self,
        kills: u32,
        replicas: usize,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let log = folder.join("runs.log");
        std::fs::write(&log, "")?;
        let mut up = Vec::new();
        for _ in 0..replicas {
            up.push(self.replica()?);
        }
        let started = Instant::now();
        let mut ids: Vec<JobId> = Vec::new();
        for kill in 0..kills {
            if self.waiting().await? < u64::from(WAVE) / 2 && ids.len() < JOBS_MAX as usize {
                ids.extend(self.wave(ids.len() as u32).await?);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=LIFE_MAX_MS))).await;
            let victim = fastrand::usize(..up.len());
            up[victim].signal("SIGKILL")?;
            up[victim].wait()?;
            up[victim] = self.replica()?;
            if kill % 100 == 99 {
                println!("siege: {} kills, {} jobs", kill + 1, ids.len());
            }
        }
        let killed_for = started.elapsed();
        self.until("completed", &ids, |record| record.state == JobState::Completed).await?;
        drop(up);
        println!(
            "siege: {kills} kills in {killed_for:.1?}, {} jobs completed {:.1?} after the last one",
            ids.len(),
            started.elapsed() - killed_for
        );
        ensure!(started.elapsed() < killed_for + PATIENCE.min(LEASE * 100), "too slow");
        self.account_for(&ids, ids.len(), &log).await
    }

    async fn waiting(&self) -> anyhow::Result<u64> {
        let stats = self.queue.stats().await?;
        Ok(stats.iter().filter_map(|row| row.jobs.get(&JobState::Ready)).sum())
    }

    async fn wave(&self, first: u32) -> anyhow::Result<Vec<JobId>> {
        let kind = Kind::new("fault.slow")?;
        let mut batch = Vec::new();
        for n in first..first + WAVE {
            let payload = Payload::json(&serde_json::json!({ "n": n }))?;
            // Many more crashes than a job should live through in production.
            batch.push(NewJob::new(kind.clone(), payload).max_stalls(u8::MAX));
        }
        let ids = batch.iter().map(NewJob::job_id).collect();
        self.queue.enqueue_all(batch).await?;
        Ok(ids)
    }
}
