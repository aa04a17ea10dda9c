//! The worker's word that it is there, so that people and explanations know who runs what.

use std::convert::Infallible;
use std::time::Duration;

use super::Worker;
use super::stop::Status;
use crate::{Queue, WorkerInfo, WorkerKind};

/// How often the worker says that it is there.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long another number of running jobs has to last before it is said, so that short jobs cost no call
/// each: a worker says something at most this often.
const PATIENCE: Duration = Duration::from_secs(1);
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
        let kinds = worker.routes.iter().map(|(kind, route)| WorkerKind {
            kind: kind.clone(),
            concurrency: 0,
            limits: route.limits.clone(),
        });
        let info = WorkerInfo {
            id: worker.id.clone(),
            instance: fastrand::u64(..),
            queues: worker.selection.names(),
            ranks: worker.selection.ranks(),
            kinds: kinds.collect(),
            concurrency: 0,
            running: 0,
        };
        let own_slots = worker.routes.values().map(|route| route.concurrency).collect();
        Self { info, own_slots }
    }

    /// What is true now.
    fn now(&self, status: &Status, running: usize) -> WorkerInfo {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (mut info, slots) = (self.info.clone(), status.slots());
        info.concurrency = number(slots);
        info.running = number(running);
        for (kind, own) in info.kinds.iter_mut().zip(&self.own_slots) {
            kind.concurrency = number(own.map_or(slots, |own| own.min(slots)));
        }
        info
    }

    /// Says so for ever, at once when its slots have changed, and soon when other numbers of jobs run.
    pub(super) async fn announce(&self, queue: &Queue, status: &Status) -> Infallible {
        loop {
            let running = status.tell_running();
            let info = self.now(status, running);
            let word = queue.backend().announce_boxed(&info, BELIEVED_FOR).await;
            if let Err(error) = word {
                tracing::debug!(event = "announce_failed", %error);
            }
            next_word_is_due(status, running).await;
        }
    }

    /// Says that the worker is gone.
    pub(super) async fn retire(&self, queue: &Queue) {
        let word = queue.backend().announce_boxed(&self.info, Duration::ZERO);
        // Without it the store forgets the worker a little later.
        let _ = tokio::time::timeout(LAST_WORD_MAX, word).await;
    }
}

/// Waits until there is something to say after the word that so many jobs run.
async fn next_word_is_due(status: &Status, told: usize) {
    let is_untrue = async {
        loop {
            status.running_changed().await;
            tokio::time::sleep(PATIENCE).await;
            if status.running() != told {
                return;
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep(INTERVAL) => {}
        () = status.slots_changed() => {}
        () = is_untrue => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// How long the next word takes, if these numbers of jobs run in turn.
    async fn silence(running: &[usize]) -> Duration {
        let status = Status::new(4, Vec::new());
        let told = status.tell_running();
        for jobs in running {
            status.progress(*jobs);
        }
        let began = Instant::now();
        next_word_is_due(&status, told).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_says_soon_what_has_changed_and_nothing_more_while_nothing_has() {
        let waits = [silence(&[]).await, silence(&[0, 0]).await, silence(&[3, 0]).await];
        assert!(waits.iter().all(|wait| *wait >= INTERVAL), "{waits:?}");
        let waits = [silence(&[1]).await, silence(&[3, 0, 2]).await];
        // The clock of the tests counts whole milliseconds.
        let soon = PATIENCE..PATIENCE + Duration::from_millis(10);
        assert!(waits.iter().all(|wait| soon.contains(wait)), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_all_the_time_is_said_once_a_second() {
        let status = Status::new(4, Vec::new());
        let (began, mut words) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(60) {
            let told = status.tell_running();
            status.progress(1 + told % 4);
            next_word_is_due(&status, told).await;
            words += 1;
        }
        assert!((55..=60).contains(&words), "{words}");
    }
}
