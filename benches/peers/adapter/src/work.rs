//! A job, and a worker process that runs them.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{Peer, Stop as _, Tally, say};

/// What every job carries: 100 bytes of JSON, with its number in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    d: String,
}

/// `{"d":""}` takes the other eight of the 100 bytes.
const TEXT_BYTES: usize = 92;
const DIGITS: usize = 8;

impl Work {
    /// The job with this number.
    #[must_use]
    pub fn new(index: u32) -> Self {
        Self { d: format!("{index:0DIGITS$}{:x<1$}", "", TEXT_BYTES - DIGITS) }
    }

    /// All of them.
    #[must_use]
    pub fn all(jobs: u32) -> Vec<Self> {
        (0..jobs).map(Self::new).collect()
    }

    pub(crate) fn index(&self) -> Option<usize> {
        self.d.get(..DIGITS)?.parse().ok()
    }
}

/// How often the driver hears of progress. Rarely enough that it costs nothing.
const REPORT_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run<P: Peer>(
    peer: &P,
    jobs: u32,
    concurrency: usize,
    path: &Path,
) -> anyhow::Result<()> {
    let tally = Tally::new(jobs);
    let worker = peer.start(concurrency, tally.clone()).await?;
    say(&json!({ "ready": true }))?;
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    let mut tick = tokio::time::interval(REPORT_EVERY);
    let mut reported = 0;
    loop {
        tokio::select! {
            read = input.read(&mut ignored) => if read? == 0 { break },
            _ = tick.tick() => {
                let total = tally.total();
                if total != reported {
                    reported = total;
                    say(&json!({ "done": total }))?;
                }
            }
        }
    }
    worker.stop().await?;
    std::fs::write(path, tally.bytes())?;
    say(&json!({ "first_us": tally.first_us(), "last_us": tally.last_us(), "ended": true }))
}

#[cfg(test)]
mod tests {
    use super::Work;

    #[test]
    fn a_job_carries_100_bytes_and_its_number() {
        let json = serde_json::to_string(&Work::new(1234)).unwrap_or_default();
        assert_eq!(json.len(), 100);
        assert_eq!(Work::new(1234).index(), Some(1234));
    }
}
