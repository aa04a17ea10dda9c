//! The leases that this worker holds, as far as it knows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::handler::CancelSignal;
use crate::{CancelReason, ClaimRequest, ClaimToken, JobId, Lease, Renewal, SettleRequest};

/// Which jobs are running under which claim, and until when the store is sure to agree.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    table: Mutex<Table>,
    /// Claims were given back since the cycle has looked.
    gave_back: AtomicBool,
    /// Wakes who renews: a claim was added that is due sooner than was known.
    added: Notify,
}

#[derive(Debug, Default)]
struct Table {
    claims: BTreeMap<ClaimToken, HeldClaim>,
    /// Claims whose answers are not here yet.
    awaited: BTreeMap<ClaimToken, Awaited>,
    /// When whoever renews looks again; `None` if only once a claim is added. Most claims are due
    /// later than those before them: it need not be woken for each.
    next_look: Option<Instant>,
}

/// A claimed job and what tells its attempt to stop.
pub(super) type Held = (Arc<Lease>, CancelSignal);

/// A claim on its way.
#[derive(Debug)]
struct Awaited {
    way: Way,
    /// What it brings is to be given back, and not taken in.
    given_back: bool,
    /// What it had got was given back since it was sent last.
    asked: bool,
}

/// How a claim is made.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// By the store, as a wait ends.
    Standing(Arc<ClaimRequest>),
    /// In a request.
    Sent(Arc<SettleRequest>),
}

impl Way {
    pub(super) fn claim(&self) -> Option<&ClaimRequest> {
        match self {
            Self::Standing(claim) => Some(claim),
            Self::Sent(request) => request.claim.as_ref(),
        }
    }
}

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
        let (table, gave_back) = (Mutex::default(), AtomicBool::new(false));
        Self { lease, table, gave_back, added: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A claim goes out, or goes out again: then it stays given back if it was, and may get jobs all the same.
    pub(super) fn await_claim(&self, way: Way) {
        let Some(token) = way.claim().map(|claim| claim.token) else { return };
        let mut table = self.lock();
        let given_back = table.awaited.get(&token).is_some_and(|awaited| awaited.given_back);
        table.awaited.insert(token, Awaited { way, given_back, asked: false });
    }

    /// Nobody waits for the answer to a claim any more.
    pub(super) fn await_no_more(&self, token: ClaimToken) {
        self.lock().awaited.remove(&token);
    }

    /// Notes the jobs of a claim that was sent at `sent_at`: from now on they are renewed. Those of one that was
    /// given back are to be given back.
    pub(super) fn take_in(
        &self,
        token: ClaimToken,
        sent_at: Instant,
        leases: Vec<Lease>,
    ) -> Vec<Held> {
        let mut table = self.lock();
        let awaited = table.awaited.remove(&token);
        if leases.is_empty() {
            return Vec::new();
        }
        if awaited.is_some_and(|awaited| awaited.given_back) {
            let held = |lease| (Arc::new(lease), CancelSignal::of_taken_back());
            return leases.into_iter().map(held).collect();
        }
        drop(table);
        self.add(token, sent_at, leases)
    }

    fn add(&self, token: ClaimToken, sent_at: Instant, leases: Vec<Lease>) -> Vec<Held> {
        let held: Vec<Held> =
            leases.into_iter().map(|lease| (Arc::new(lease), CancelSignal::default())).collect();
        let claim = HeldClaim { renewed_at: sent_at, lost: false, jobs: Jobs::default() };
        // An answer that comes so late is one that nobody was there to hear.
        if sent_at.elapsed() >= self.usable() {
            held.iter().for_each(|(_, cancel)| cancel.fire(CancelReason::LeaseLost));
        }
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

    /// How long a lease is made use of. Its last tenth is not, so that a handler hears of its end before another
    /// worker can have its job.
    fn usable(&self) -> Duration {
        self.lease - self.lease / 10
    }

    /// Takes back what nobody here begins: the jobs whose attempts have not begun, and the claims whose answers
    /// are not here, whatever these bring.
    pub(super) fn take_back(&self) -> (Vec<(JobId, ClaimToken)>, Vec<Way>) {
        let mut table = self.lock();
        let mut jobs = Vec::new();
        for (token, claim) in &table.claims {
            let not_begun = claim
                .jobs
                .signals
                .iter()
                .filter(|(_, signal)| signal.as_ref().is_some_and(CancelSignal::take_back));
            jobs.extend(not_begun.map(|(id, _)| (*id, *token)));
        }
        let claims = table.awaited.values_mut().filter(|awaited| !awaited.asked).map(|awaited| {
            (awaited.given_back, awaited.asked) = (true, true);
            awaited.way.clone()
        });
        let claims: Vec<Way> = claims.collect();
        self.gave_back.fetch_or(!claims.is_empty(), Ordering::Relaxed);
        (jobs, claims)
    }

    /// Whether claims were given back since the last call.
    pub(super) fn gave_back(&self) -> bool {
        self.gave_back.load(Ordering::Relaxed) && self.gave_back.swap(false, Ordering::Relaxed)
    }

    /// Stops the jobs of claims that may have ended at the store.
    pub(super) fn stop_lapsed(&self) {
        let now = Instant::now();
        let usable = self.usable();
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
    use crate::{Kind, NewJob, Payload, Timestamp, WorkerId};

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
        let add = |sent_at| leases.add(ClaimToken::random(), sent_at, vec![lease()]);
        add(now);
        assert!(is_told());
        add(now + Duration::from_secs(1));
        assert!(!is_told());
        assert_eq!(leases.next_renewal(), Some(now + Duration::from_secs(10)));
        // Sent before the other was renewed, and answered late.
        add(now - Duration::from_secs(1));
        assert!(is_told());
        assert_eq!(leases.next_renewal(), Some(now + Duration::from_secs(9)));
    }

    #[test]
    fn an_answer_that_comes_when_its_lease_may_be_over_starts_nothing() {
        let leases = Leases::new(Duration::from_secs(30));
        let now = Instant::now();
        for (age, reason) in [(26, None), (28, Some(CancelReason::LeaseLost))] {
            let sent_at = now.checked_sub(Duration::from_secs(age)).unwrap();
            let held = leases.take_in(ClaimToken::random(), sent_at, vec![lease()]);
            assert_eq!(held[0].1.reason(), reason, "{age}");
        }
    }

    #[test]
    fn what_was_taken_back_does_not_begin_and_what_has_begun_is_not_taken_back() {
        let leases = Leases::new(Duration::from_secs(30));
        let token = ClaimToken::random();
        let held = leases.take_in(token, Instant::now(), vec![lease(), lease()]);
        assert!(held[0].1.begin());
        let (jobs, claims) = leases.take_back();
        assert_eq!((jobs, claims.len()), (vec![(held[1].0.spec.id, token)], 0));
        assert!(!held[1].1.begin());
        assert!(leases.take_back().0.is_empty(), "once");
    }

    /// Also if it is made again, and whatever it brings then.
    #[test]
    fn a_claim_that_was_given_back_brings_nothing_to_begin() {
        let leases = Leases::new(Duration::from_secs(30));
        let request = || {
            Arc::new(ClaimRequest {
                token: ClaimToken::from_bytes([7; 16]),
                worker: WorkerId::new("w").unwrap(),
                queues: Vec::new(),
                kinds: Vec::new(),
                max: 1,
                round_jobs: 0,
                lease: Duration::from_secs(30),
            })
        };
        let token = request().token;
        leases.await_claim(Way::Standing(request()));
        let (jobs, claims) = leases.take_back();
        assert_eq!((jobs.len(), claims.len(), leases.gave_back()), (0, 1, true));
        assert!(leases.take_back().1.is_empty(), "once");
        leases.await_claim(Way::Standing(request()));
        assert_eq!(leases.take_back().1.len(), 1, "it may have got jobs since");
        let held = leases.take_in(token, Instant::now(), vec![lease()]);
        assert!(held[0].1.is_taken_back());
        assert!(leases.older_than(Duration::ZERO).is_empty(), "nobody renews it");
        // The next one is as any other.
        leases.await_claim(Way::Standing(request()));
        assert!(!leases.take_in(token, Instant::now(), vec![lease()])[0].1.is_taken_back());
    }
}
