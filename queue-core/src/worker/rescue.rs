//! Gives back what the worker has been given and cannot begin, since handlers block the threads of its runtime.
//!
//! A handler that blocks its thread (a computation, a call that is not async) may be on the thread that the
//! worker's cycle needs. Nobody begins then what was claimed; and what is on its way, or what the store claims as
//! a wait ends, nobody even takes in, so that its lease would end and the job count as stalled. The thread that
//! renews leases sees that the cycle stands, and gives all of that back for others to run.

use std::time::Duration;

use super::cycle::turns_within;
use super::leases::Way;
use super::panics::caught;
use super::renew::Renewals;
use crate::backend::PASS_MAX;
use crate::{ClaimRequest, ClaimToken, Error, JobId, Outcome, SettleRequest, Settlement};

/// So many looks in a row have to find that the cycle stands: a process that was stopped for a while, or a busy
/// machine, goes on by itself.
const LOOKS: u32 = 2;

/// What is to be given back.
#[derive(Default)]
struct ToGiveBack {
    /// Whether the store may be about to make a standing claim.
    standing: bool,
    /// Claims of which the store has yet to tell what they have got.
    claims: Vec<ClaimRequest>,
    jobs: Vec<(JobId, ClaimToken)>,
}

impl ToGiveBack {
    fn take(&mut self, renewals: &Renewals) {
        let (jobs, claims) = renewals.leases.take_back();
        self.jobs.extend(jobs);
        self.standing |= claims.iter().any(|way| matches!(way, Way::Standing(_)));
        // The same claims, made again, tell what they have got, and get nothing more.
        let again = claims.iter().filter_map(Way::claim);
        self.claims.extend(again.map(|claim| ClaimRequest { max: 0, ..claim.clone() }));
    }

    fn is_empty(&self) -> bool {
        !self.standing && self.claims.is_empty() && self.jobs.is_empty()
    }
}

impl Renewals {
    /// Looks whether the cycle stands, and gives back what waits for it.
    pub(super) async fn rescue_for_ever(&self) {
        let turns_within = turns_within(self.lease);
        let (mut stands, mut to_give_back) = (0, ToGiveBack::default());
        loop {
            tokio::time::sleep(turns_within / 2).await;
            let is_late = self.status.stands_for() > turns_within + turns_within / 2;
            stands = if is_late { stands + 1 } else { 0 };
            if stands >= LOOKS {
                to_give_back.take(self);
            }
            if to_give_back.is_empty() {
                continue;
            }
            let given_back = caught(self.give_back(&mut to_give_back)).await;
            match given_back.unwrap_or_else(|panic| Err(Error::Corrupt(panic))) {
                Ok(0) => tracing::debug!(event = "runtime_blocked", worker = %self.worker),
                Ok(jobs) => tracing::warn!(
                    event = "runtime_blocked",
                    worker = %self.worker,
                    jobs,
                    advice = "a handler keeps the threads of the runtime for long: let it run blocking work by \
                              tokio::task::spawn_blocking; jobs that could not begin were given back"
                ),
                // The next look tries again; jobs whose leases are over by then are others' already.
                Err(error) => tracing::debug!(event = "give_back_failed", %error),
            }
        }
    }

    /// Answers how many jobs were given back. What the store refuses for good is left to its lease, and nothing
    /// else with it.
    ///
    /// # Errors
    /// Of a store that may take it later.
    async fn give_back(&self, what: &mut ToGiveBack) -> Result<usize, Error> {
        let backend = self.queue.backend();
        let within = self.lease / 4;
        if what.standing {
            later_or_never(bounded(within, backend.revoke_standing_boxed(&self.worker)).await)?;
            what.standing = false;
        }
        while let Some(claim) = what.claims.last() {
            let got = later_or_never(bounded(within, backend.claim_boxed(claim)).await)?;
            let got = got.into_iter().flat_map(|claim| claim.leases);
            what.jobs.extend(got.map(|lease| (lease.spec.id, lease.token)));
            what.claims.pop();
        }
        what.jobs.sort_unstable();
        let (mut given_back, mut at_most) = (0, PASS_MAX as usize);
        while !what.jobs.is_empty() {
            let first = what.jobs.len().saturating_sub(at_most);
            let jobs = &what.jobs[first..];
            // Each goes to the head of its lane: the oldest one goes last.
            let settlements = jobs.iter().rev().map(released).collect();
            let request = SettleRequest { settlements, claim: None };
            let taken = later_or_never(bounded(within, backend.settle_boxed(&request)).await)?;
            if taken.is_none() && jobs.len() > 1 {
                // One that cannot be given back keeps no other.
                at_most = jobs.len() / 2;
                continue;
            }
            given_back += taken.map_or(0, |_| jobs.len());
            self.leases.remove(jobs.iter().map(|(id, token)| (*token, *id)));
            what.jobs.truncate(first);
        }
        Ok(given_back)
    }
}

/// The answer of the store; none if it refuses and trying again does not help.
fn later_or_never<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ (Error::Unavailable(_) | Error::StoreFull(_))) => Err(error),
        Err(error) => {
            tracing::warn!(event = "give_back_refused", %error);
            Ok(None)
        }
    }
}

fn released((id, token): &(JobId, ClaimToken)) -> Settlement {
    Settlement { id: *id, token: *token, outcome: Outcome::Released, elapsed: Duration::ZERO }
}

/// A store that hangs must not keep the others waiting for as long as it likes.
async fn bounded<T>(
    within: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Err(Error::Unavailable("no answer within a quarter of the lease".to_owned()));
    tokio::time::timeout(within, call).await.unwrap_or_else(late)
}
