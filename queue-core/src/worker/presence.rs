//! The worker's word that it is there, so that people and explanations know who runs what.

use std::convert::Infallible;
use std::time::Duration;

use super::Worker;
use super::stop::Status;
use crate::{Queue, WorkerInfo, WorkerKind};

/// How often the worker says that it is there.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long it is believed: two of its words may be lost.
const BELIEVED_FOR: Duration = Duration::from_secs(45);
/// The most time that a worker which has stopped takes to say so.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

/// What a worker says about itself.
#[derive(Debug)]
pub(super) struct Presence {
    /// Without its slots, which change.
    info: WorkerInfo,
    /// The slots of each kind that are not those of the worker, in the order of the kinds.
    own_slots: Vec<Option<usize>>,
}

impl Presence {
    pub(super) fn of(worker: &Worker) -> Self {
        let mut routes: Vec<_> = worker.routes.iter().collect();
        routes.sort_by_key(|(kind, _)| *kind);
        let kinds = routes.iter().map(|(kind, route)| WorkerKind {
            kind: (*kind).clone(),
            concurrency: 0,
            limits: route.limits.clone(),
        });
        let info = WorkerInfo {
            id: worker.id.clone(),
            instance: fastrand::u64(..),
            queues: worker.selection.names(),
            kinds: kinds.collect(),
            concurrency: 0,
            running: 0,
        };
        let own_slots = routes.iter().map(|(_, route)| route.concurrency).collect();
        Self { info, own_slots }
    }

    /// What is true now.
    fn now(&self, status: &Status) -> WorkerInfo {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (mut info, slots) = (self.info.clone(), status.slots());
        info.concurrency = number(slots);
        info.running = number(status.running());
        for (kind, own) in info.kinds.iter_mut().zip(&self.own_slots) {
            kind.concurrency = number(own.map_or(slots, |own| own.min(slots)));
        }
        info
    }

    /// Says so for ever, and at once when its slots have changed.
    pub(super) async fn announce(&self, queue: &Queue, status: &Status) -> Infallible {
        loop {
            let word = queue.backend().announce_boxed(&self.now(status), BELIEVED_FOR).await;
            if let Err(error) = word {
                tracing::debug!(event = "announce_failed", %error);
            }
            // Whichever comes first.
            let _ = tokio::time::timeout(INTERVAL, status.slots_changed()).await;
        }
    }

    /// Says that the worker is gone.
    pub(super) async fn retire(&self, queue: &Queue) {
        let word = queue.backend().announce_boxed(&self.info, Duration::ZERO);
        // Without it the store forgets the worker a little later.
        let _ = tokio::time::timeout(LAST_WORD_MAX, word).await;
    }
}
