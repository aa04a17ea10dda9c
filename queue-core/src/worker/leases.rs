//! The leases that this worker holds, as far as it knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::handler::CancelSignal;
use crate::{CancelReason, ClaimToken, JobId, Lease, Renewal};

/// Which jobs are running under which claim, and until when the store is sure to agree.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    table: Mutex<Table>,
    /// Wakes who renews: a claim was added that is due sooner than was known.
    added: Notify,
}

#[derive(Debug, Default)]
struct Table {
    claims: BTreeMap<ClaimToken, HeldClaim>,
    /// When whoever renews looks again; `None` if only once a claim is added. Most claims are due
    /// later than those before them: it need not be woken for each.
    next_look: Option<Instant>,
}

/// A claimed job and what tells its attempt to stop.
pub(super) type Held = (Arc<Lease>, CancelSignal);

#[derive(Debug)]
struct HeldClaim {
    /// When the last call was sent that the store answered with a fresh lease.
    renewed_at: Instant,
    /// The store has said that this claim holds nothing any more: no use in renewing it.
    lost: bool,
    jobs: Jobs,
}

/// The jobs of a claim: many come at a time and leave one by one.
#[derive(Debug, Default)]
struct Jobs {
    /// In the order of their ids; without a signal once a job has left.
    signals: Vec<(JobId, Option<CancelSignal>)>,
    held: usize,
}

impl Jobs {
    fn add(&mut self, jobs: impl Iterator<Item = (JobId, CancelSignal)>) {
        self.signals.retain(|(_, signal)| signal.is_some());
        self.signals.extend(jobs.map(|(id, signal)| (id, Some(signal))));
        // Mostly they are so already.
        self.signals.sort_unstable_by_key(|(id, _)| *id);
        self.signals.dedup_by_key(|(id, _)| *id);
        self.held = self.signals.len();
    }

    fn position(&self, id: JobId) -> Option<usize> {
        self.signals.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    fn get(&self, id: JobId) -> Option<&CancelSignal> {
        self.signals[self.position(id)?].1.as_ref()
    }

    fn remove(&mut self, id: JobId) {
        let signal = self.position(id).and_then(|at| self.signals[at].1.take());
        self.held -= usize::from(signal.is_some());
    }

    fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn fire_all(&self, reason: CancelReason) {
        self.signals
            .iter()
            .filter_map(|(_, signal)| signal.as_ref())
            .for_each(|signal| signal.fire(reason));
    }
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, table: Mutex::default(), added: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the jobs of a claim that was sent at `sent_at`: from now on they are renewed.
    pub(super) fn add(&self, sent_at: Instant, leases: Vec<Lease>) -> Vec<Held> {
        let Some(token) = leases.first().map(|lease| lease.token) else { return Vec::new() };
        let held: Vec<Held> =
            leases.into_iter().map(|lease| (Arc::new(lease), CancelSignal::default())).collect();
        let claim = HeldClaim { renewed_at: sent_at, lost: false, jobs: Jobs::default() };
        let signals = held.iter().map(|(lease, cancel)| (lease.spec.id, cancel.clone()));
        let mut table = self.lock();
        table.claims.entry(token).or_insert(claim).jobs.add(signals);
        let due = sent_at + self.lease / 3;
        let is_soon = table.next_look.is_none_or(|at| due < at);
        if is_soon {
            table.next_look = Some(due);
        }
        drop(table);
        if is_soon {
            self.added.notify_one();
        }
        held
    }

    /// Waits until a claim is added that is due sooner than [`Self::next_renewal`] has said.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Forgets jobs whose outcomes the store has taken.
    pub(super) fn remove(&self, jobs: impl Iterator<Item = (ClaimToken, JobId)>) {
        let mut table = self.lock();
        for (token, id) in jobs {
            if let Some(claim) = table.claims.get_mut(&token) {
                claim.jobs.remove(id);
                if claim.jobs.is_empty() {
                    table.claims.remove(&token);
                }
            }
        }
    }

    /// When the next renewal should be sent; `None` while nothing is held.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        let mut table = self.lock();
        let live = table.claims.values().filter(|claim| !claim.lost);
        let next = live.map(|claim| claim.renewed_at + self.lease / 3).min();
        table.next_look = next;
        next
    }

    /// The claims whose last renewal is at least `age` old.
    pub(super) fn older_than(&self, age: Duration) -> Vec<ClaimToken> {
        let now = Instant::now();
        let is_old = |claim: &HeldClaim| now.duration_since(claim.renewed_at) >= age;
        let table = self.lock();
        let old = table.claims.iter().filter(|(_, claim)| !claim.lost && is_old(claim));
        old.map(|(token, _)| *token).collect()
    }

    /// Takes in the store's answer for a claim to a renewal that was sent at `sent_at`.
    pub(super) fn renewed(&self, token: ClaimToken, sent_at: Instant, renewal: &Renewal) {
        let mut table = self.lock();
        let Some(claim) = table.claims.get_mut(&token) else { return };
        match renewal {
            Renewal::Held { cancel_requested } => {
                claim.renewed_at = claim.renewed_at.max(sent_at);
                for signal in cancel_requested.iter().filter_map(|id| claim.jobs.get(*id)) {
                    signal.fire(CancelReason::Requested);
                }
            }
            Renewal::Lost => {
                claim.lost = true;
                claim.jobs.fire_all(CancelReason::LeaseLost);
            }
        }
    }

    /// Stops the jobs of claims that may have ended at the store. The last tenth of the lease is
    /// not used, so that a handler hears of it before another worker can have its job.
    pub(super) fn stop_lapsed(&self) {
        let now = Instant::now();
        let usable = self.lease - self.lease / 10;
        for claim in self.lock().claims.values().filter(|claim| now >= claim.renewed_at + usable) {
            claim.jobs.fire_all(CancelReason::LeaseLost);
        }
    }

    /// Stops every job.
    pub(super) fn stop_all(&self, reason: CancelReason) {
        for claim in self.lock().claims.values() {
            claim.jobs.fire_all(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{Kind, NewJob, Payload, Timestamp};

    fn lease() -> Lease {
        let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw(Vec::new()));
        Lease::new(job.spec, ClaimToken::random(), 1, Timestamp::from_ms(0))
    }

    #[test]
    fn who_renews_hears_of_a_claim_that_is_due_sooner_than_known_and_of_no_other() {
        let leases = Leases::new(Duration::from_secs(30));
        let is_told = || leases.added().now_or_never().is_some();
        let now = Instant::now();
        assert_eq!(leases.next_renewal(), None);
        leases.add(now, vec![lease()]);
        assert!(is_told());
        leases.add(now + Duration::from_secs(1), vec![lease()]);
        assert!(!is_told());
        assert_eq!(leases.next_renewal(), Some(now + Duration::from_secs(10)));
        // Sent before the other was renewed, and answered late.
        leases.add(now - Duration::from_secs(1), vec![lease()]);
        assert!(is_told());
        assert_eq!(leases.next_renewal(), Some(now + Duration::from_secs(9)));
    }
}
