//! Claims that stand behind a wait.
//!
//! A pick-up is two round trips if a worker is woken and claims then. So the worker sends its claim
//! right behind the blocking command: a server makes the commands of a connection in order, and this
//! one as soon as the other has ended. A claim that is not wanted any more is *revoked* by two words
//! in the worker's own list: one ends the blocking command, and the script that finds the other
//! claims nothing (`lua/lib/standing.lua`). Answers are always awaited; jobs that come for somebody
//! who has gone are given back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use queue_core::{ClaimRequest, ClaimToken, Error, JobId};
use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Home;
use crate::backend::{self, ClaimAnswer};
use crate::scripts;

/// Ends a blocking command.
pub(super) const INTERRUPT: &str = "i";
/// Beside [`INTERRUPT`], revokes the claim behind the command. Either serves as the other.
pub(super) const REVOKE: &str = "r";

/// A point of time by two clocks: the one that measures times stands still while the host sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago that is, but for the time in which the host has slept.
    pub(crate) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// How long the host has slept since then, as far as its clocks tell.
    pub(crate) fn slept(&self) -> Duration {
        const UNEQUAL: Duration = Duration::from_secs(1);
        let by_wall = self.wall.elapsed().unwrap_or_default();
        let slept = by_wall.saturating_sub(self.elapsed());
        if slept > UNEQUAL { slept } else { Duration::ZERO }
    }
}

/// A claim that a worker leaves with its wait.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) request: ClaimRequest,
    /// Ends when the worker does not want it any more.
    revoked: oneshot::Receiver<()>,
    pub(super) is_revoked: bool,
}

impl Standing {
    pub(super) fn new(request: ClaimRequest, revoked: oneshot::Receiver<()>) -> Self {
        Self { request, revoked, is_revoked: false }
    }

    /// Waits until it is revoked; for ever if it is.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub(super) async fn revoked(&mut self) {
        if self.is_revoked {
            std::future::pending::<()>().await;
        }
        // An error says that the sender is gone, which means the same.
        let _ = (&mut self.revoked).await;
        self.is_revoked = true;
    }

    pub(super) fn cmd(&self, home: &Home) -> Cmd {
        let epoch = home.epoch.current();
        backend::claim_cmd(&scripts::standing_claim, &home.keys, &self.request, &epoch)
    }
}

/// The answer to a standing claim. Its jobs are given back if it is dropped before it was accepted.
#[derive(Debug)]
pub(crate) struct Brought {
    home: Arc<Home>,
    request: ClaimRequest,
    /// When the claim was sent: it was made then or later.
    pub(crate) sent_at: Moment,
    /// Until it is opened.
    reply: Option<Value>,
    /// Its jobs, while it is open.
    jobs: Vec<(JobId, ClaimToken)>,
}

impl Brought {
    pub(super) fn new(
        home: &Arc<Home>,
        request: ClaimRequest,
        sent_at: Moment,
        reply: Value,
    ) -> Self {
        Self { home: home.clone(), request, sent_at, reply: Some(reply), jobs: Vec::new() }
    }

    /// Reads it. Until it is accepted, its jobs are still given back if it is dropped.
    pub(crate) fn open(&mut self) -> Result<ClaimAnswer, Error> {
        let reply = self.reply.take().unwrap_or(Value::Nil);
        let answer = backend::read_claim(&self.request, reply)?;
        self.jobs = jobs(&answer);
        Ok(answer)
    }

    /// Its jobs are in the hands of the worker.
    pub(crate) fn accept(mut self) {
        self.jobs.clear();
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        if self.reply.is_some() {
            // Nobody can use the answer to this.
            let _ = self.open();
        }
        let jobs = std::mem::take(&mut self.jobs);
        let (false, Ok(runtime)) = (jobs.is_empty(), Handle::try_current()) else { return };
        let home = self.home.clone();
        runtime.spawn(async move { backend::give_back(&home.link, &home.keys, &jobs).await });
    }
}

fn jobs(answer: &ClaimAnswer) -> Vec<(JobId, ClaimToken)> {
    answer.claim.leases.iter().map(|lease| (lease.spec.id, lease.token)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_has_slept_is_found_out() {
        let now = Moment::now();
        assert_eq!(now.slept(), Duration::ZERO);
        let nap = Duration::from_secs(40);
        let before = Moment { wall: now.wall - nap, ..now };
        assert!(before.slept() >= nap - Duration::from_millis(1), "{:?}", before.slept());
        // A clock that was set back tells nothing.
        assert_eq!(Moment { wall: now.wall + nap, ..now }.slept(), Duration::ZERO);
    }
}
