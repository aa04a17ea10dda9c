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
    claims: Mutex<BTreeMap<ClaimToken, HeldClaim>>,
    /// Wakes who renews: a claim was added.
    added: Notify,
}

/// A claimed job and what tells its attempt to stop.
pub(super) type Held = (Arc<Lease>, CancelSignal);

#[derive(Debug)]
struct HeldClaim {
    /// When the last call was sent that the store answered with a fresh lease.
    renewed_at: Instant,
    /// The store has said that this claim holds nothing any more: no use in renewing it.
    lost: bool,
    jobs: BTreeMap<JobId, CancelSignal>,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, claims: Mutex::default(), added: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClaimToken, HeldClaim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the jobs of a claim that was sent at `sent_at`: from now on they are renewed.
    pub(super) fn add(&self, sent_at: Instant, leases: Vec<Lease>) -> Vec<Held> {
        let Some(token) = leases.first().map(|lease| lease.token) else { return Vec::new() };
        let held: Vec<Held> =
            leases.into_iter().map(|lease| (Arc::new(lease), CancelSignal::default())).collect();
        let claim = HeldClaim { renewed_at: sent_at, lost: false, jobs: BTreeMap::new() };
        let signals = held.iter().map(|(lease, cancel)| (lease.spec.id, cancel.clone()));
        self.lock().entry(token).or_insert(claim).jobs.extend(signals);
        self.added.notify_one();
        held
    }

    /// Waits until a claim is added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Forgets a job whose outcome the store has taken.
    pub(super) fn remove(&self, token: ClaimToken, id: JobId) {
        let mut claims = self.lock();
        if let Some(claim) = claims.get_mut(&token) {
            claim.jobs.remove(&id);
            if claim.jobs.is_empty() {
                claims.remove(&token);
            }
        }
    }

    /// When the next renewal should be sent; `None` while nothing is held.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        let claims = self.lock();
        let live = claims.values().filter(|claim| !claim.lost);
        live.map(|claim| claim.renewed_at + self.lease / 3).min()
    }

    /// The claims whose last renewal is at least `age` old.
    pub(super) fn older_than(&self, age: Duration) -> Vec<ClaimToken> {
        let now = Instant::now();
        let is_old = |claim: &HeldClaim| now.duration_since(claim.renewed_at) >= age;
        let claims = self.lock();
        let old = claims.iter().filter(|(_, claim)| !claim.lost && is_old(claim));
        old.map(|(token, _)| *token).collect()
    }

    /// Takes in the store's answer for a claim to a renewal that was sent at `sent_at`.
    pub(super) fn renewed(&self, token: ClaimToken, sent_at: Instant, renewal: &Renewal) {
        let mut claims = self.lock();
        let Some(claim) = claims.get_mut(&token) else { return };
        match renewal {
            Renewal::Held { cancel_requested } => {
                claim.renewed_at = claim.renewed_at.max(sent_at);
                for signal in cancel_requested.iter().filter_map(|id| claim.jobs.get(id)) {
                    signal.fire(CancelReason::Requested);
                }
            }
            Renewal::Lost => {
                claim.lost = true;
                for signal in claim.jobs.values() {
                    signal.fire(CancelReason::LeaseLost);
                }
            }
        }
    }

    /// Stops the jobs of claims that may have ended at the store. The last tenth of the lease is
    /// not used, so that a handler hears of it before another worker can have its job.
    pub(super) fn stop_lapsed(&self) {
        let now = Instant::now();
        let usable = self.lease - self.lease / 10;
        for claim in self.lock().values().filter(|claim| now >= claim.renewed_at + usable) {
            for signal in claim.jobs.values() {
                signal.fire(CancelReason::LeaseLost);
            }
        }
    }

    /// Stops every job.
    pub(super) fn stop_all(&self, reason: CancelReason) {
        for claim in self.lock().values() {
            for signal in claim.jobs.values() {
                signal.fire(reason);
            }
        }
    }
}
