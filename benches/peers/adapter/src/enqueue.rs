//! How fast jobs go in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::{Mode, Peer, Work};

#[derive(Debug, Serialize)]
pub(crate) struct Took {
    jobs: u32,
    seconds: f64,
}

pub(crate) async fn run<P: Peer>(
    peer: &P,
    jobs: u32,
    mode: Mode,
    callers: u32,
) -> anyhow::Result<Took> {
    // Made before the clock starts: what a string costs says nothing about a queue.
    let works = Work::all(jobs);
    let started = Instant::now();
    match mode {
        // In a task, as a service's handlers are.
        Mode::One => {
            let peer = peer.clone();
            let one = async move {
                for work in works {
                    peer.enqueue(work).await?;
                }
                anyhow::Ok(())
            };
            tokio::spawn(one).await??;
        }
        Mode::Many => many(peer, works, callers).await?,
        Mode::Bulk => peer.enqueue_all(works).await?,
    }
    Ok(Took { jobs, seconds: started.elapsed().as_secs_f64() })
}

/// Each caller takes the next job as soon as its last one is acknowledged.
async fn many<P: Peer>(peer: &P, works: Vec<Work>, callers: u32) -> anyhow::Result<()> {
    let works: Arc<[Work]> = works.into();
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (peer, works, next) = (peer.clone(), Arc::clone(&works), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            while let Some(work) = works.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                peer.enqueue(work.clone()).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}
