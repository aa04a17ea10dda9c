//! The world around the store: workers, messages on their way, what the disk holds, and every
//! event that may happen next ([`World::events`], [`World::after`]).

use std::rc::Rc;

use super::promises::{self, Broken};
use super::store::{Granted, JOBS, ReapGuard, Rules, Settled, Settlement, Store};
use super::vocabulary::{CLAIMS_MAX, ClaimId, Job, Outcome, SmallSet, State, Token, Worker};

pub(crate) const WORKERS: usize = 2;

/// How much of everything may happen. It makes the space finite; every order is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) rules: Rules,
    pub(crate) jobs: usize,
    /// How often the producer sends each of them; 0 for jobs that are there from the start.
    pub(crate) enqueue_copies: usize,
    /// Claims of each worker, and the most jobs of one claim.
    pub(crate) claims: [usize; WORKERS],
    pub(crate) claim_max: usize,
    pub(crate) outcomes: &'static [Outcome],
    /// In total: requests sent again, leases that run out, renewals.
    pub(crate) resends: u8,
    pub(crate) lapses: u8,
    pub(crate) renewals: u8,
    pub(crate) rollback: bool,
    /// Whether a copy of a claim may reach the store after the worker has the answer to another
    /// copy. The contract of `Backend::claim` is that none does.
    pub(crate) answered_claims_linger: bool,
}

/// On its way to the store. It may take as long as it likes; one that never arrives is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Request {
    Enqueue(Job),
    Claim(ClaimId),
    Renew(ClaimId, Token),
    Settle(Settlement),
}

/// One thing that happens. Its `Debug` text is how tests and traces name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A worker sends its next claim. Whatever it did before, it is done with it: it was answered,
    /// gave up, or was killed and started again.
    AskForJobs(Worker),
    EndAttempt(Worker, Job, Outcome),
    Renew(Worker),
    /// The reply does not come, so the worker sends the request again.
    SendAgain(Request),
    /// The store takes a request in and answers. The answer to a claim travels back; whether that
    /// to a settlement was lost shows in whether it is sent again.
    Arrive(Request),
    /// A worker learns what it holds.
    Learn(Granted),
    /// A retry's time has come.
    Promote(Job),
    /// A lease runs out, while its worker runs on.
    Lapse(ClaimId),
    /// A reaper, in one step.
    Reap,
    /// A reaper, in two.
    ListLapsed,
    ReapListed,
    /// Everything up to here is on the disk, nothing after.
    Persist,
    /// The store restarts from the disk. Everybody else remembers.
    RollBack,
}

/// What a worker knows of the jobs it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holding {
    granted: Granted,
    /// The attempts that have not ended.
    running: SmallSet,
    sent: [Option<Outcome>; JOBS],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Asking(ClaimId),
    Holding(Holding),
}

/// What a restart brings back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Disk {
    /// Not decided yet.
    Behind,
    Holds(Rc<Store>, SmallSet),
    /// Rolled back before, or never to be.
    Done,
}

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) store: Store,
    /// The jobs that the store took in and did not forget in a rollback. Their producer may have
    /// the answer.
    pub(crate) acknowledged: SmallSet,
    disk: Disk,
    phases: [Phase; WORKERS],
    claims_made: [usize; WORKERS],
    /// Sorted, so that worlds that differ in nothing else are equal.
    requests: Vec<Request>,
    grants: Vec<Granted>,
    /// What the reaper remembers between its two steps.
    listed: Vec<(Job, Token)>,
    resends: u8,
    lapses: u8,
    renewals: u8,
}

impl World {
    pub(crate) fn new(scope: &Scope) -> Self {
        let copies = |job| std::iter::repeat_n(Request::Enqueue(job), scope.enqueue_copies);
        let mut store = Store::default();
        let mut acknowledged = SmallSet::default();
        if scope.enqueue_copies == 0 {
            (0..scope.jobs).for_each(|job| store.enqueue(job));
            acknowledged = (0..scope.jobs).collect();
        }
        Self {
            store,
            acknowledged,
            disk: if scope.rollback { Disk::Behind } else { Disk::Done },
            phases: [Phase::Idle, Phase::Idle],
            claims_made: [0; WORKERS],
            requests: (0..scope.jobs).flat_map(copies).collect(),
            grants: Vec::new(),
            listed: Vec::new(),
            resends: scope.resends,
            lapses: scope.lapses,
            renewals: scope.renewals,
        }
    }

    /// A claim that none of the workers made.
    pub(crate) fn rescuer() -> ClaimId {
        ClaimId::of(WORKERS, CLAIMS_MAX - 1)
    }

    /// Everything that may happen now.
    pub(crate) fn events(&self, scope: &Scope) -> Vec<Event> {
        let mut events: Vec<Event> =
            (0..WORKERS).flat_map(|w| self.worker_events(scope, w)).collect();
        let mut requests = self.requests.clone();
        requests.dedup();
        events.extend(requests.into_iter().map(Event::Arrive));
        events.extend(self.grants.iter().copied().map(Event::Learn));
        events.extend(self.store.due.iter().map(Event::Promote));
        if self.lapses > 0 {
            let valid = self.store.leases.iter().filter(|lease| !lease.lapsed);
            events.extend(valid.map(|lease| Event::Lapse(lease.claim)));
        }
        let reapable = self.store.leases.iter().any(|lease| lease.lapsed);
        if scope.rules.reap == ReapGuard::OneStep {
            events.extend(reapable.then_some(Event::Reap));
        } else if self.listed.is_empty() {
            events.extend(reapable.then_some(Event::ListLapsed));
        } else {
            events.push(Event::ReapListed);
        }
        match &self.disk {
            Disk::Behind => events.push(Event::Persist),
            Disk::Holds(..) => events.push(Event::RollBack),
            Disk::Done => {}
        }
        events
    }

    fn worker_events(&self, scope: &Scope, worker: Worker) -> Vec<Event> {
        let mut events = Vec::new();
        if self.claims_made[worker] < scope.claims[worker] {
            events.push(Event::AskForJobs(worker));
        }
        match &self.phases[worker] {
            Phase::Idle => {}
            Phase::Asking(claim) => events.push(Event::SendAgain(Request::Claim(*claim))),
            Phase::Holding(holding) => {
                for job in holding.running.iter() {
                    let end = |outcome: &Outcome| Event::EndAttempt(worker, job, *outcome);
                    events.extend(scope.outcomes.iter().map(end));
                }
                if self.renewals > 0 && !holding.running.is_empty() {
                    events.push(Event::Renew(worker));
                }
                let sent = (0..JOBS).filter_map(|job| holding.settlement(job));
                events.extend(sent.map(|s| Event::SendAgain(Request::Settle(s))));
            }
        }
        events.retain(|event| self.resends > 0 || !matches!(event, Event::SendAgain(_)));
        events
    }

    /// The world after an event, or the promise that the event broke.
    pub(crate) fn after(&self, scope: &Scope, event: &Event) -> Result<Self, Broken> {
        let mut next = self.clone();
        match *event {
            Event::AskForJobs(worker) => {
                let claim = ClaimId::of(worker, self.claims_made[worker]);
                next.claims_made[worker] += 1;
                next.grants.retain(|granted| granted.claim.worker() != worker);
                next.phases[worker] = Phase::Asking(claim);
                next.send(Request::Claim(claim));
            }
            Event::EndAttempt(worker, job, outcome) => next.end_attempt(worker, job, outcome),
            Event::Renew(worker) => next.renew(worker),
            Event::SendAgain(request) => {
                next.resends -= 1;
                next.send(request);
            }
            Event::Arrive(request) => next.arrive(scope, request, &self.store)?,
            Event::Learn(granted) => next.learn(scope, granted),
            Event::Promote(job) => next.store.promote(&scope.rules, job),
            Event::Lapse(claim) => {
                next.lapses -= 1;
                next.store.set_lapsed(claim, true);
            }
            Event::ListLapsed => next.listed = self.store.lapsed(),
            Event::Reap => next.store.reap(&scope.rules, &self.store.lapsed()),
            Event::ReapListed => {
                next.store.reap(&scope.rules, &self.listed);
                next.listed.clear();
            }
            Event::Persist => {
                next.disk = Disk::Holds(Rc::new(self.store.clone()), self.acknowledged);
            }
            Event::RollBack => next.roll_back(),
        }
        if matches!(event, Event::Reap | Event::ReapListed) {
            promises::check_reap(&self.store, &next.store)?;
        }
        Ok(next)
    }

    /// What the store would say to a settlement that arrives now, and the state of its job.
    pub(crate) fn answer_to(
        &self,
        scope: &Scope,
        event: &Event,
    ) -> Option<(Settled, Option<State>)> {
        let Event::Arrive(Request::Settle(settlement)) = event else { return None };
        let state = self.store.records[settlement.job].as_ref().map(|record| record.state);
        Some((self.store.clone().settle(&scope.rules, settlement), state))
    }

    fn send(&mut self, request: Request) {
        self.requests.push(request);
        self.requests.sort();
    }

    fn end_attempt(&mut self, worker: Worker, job: Job, outcome: Outcome) {
        let Phase::Holding(holding) = &mut self.phases[worker] else { return };
        holding.running.remove(job);
        holding.sent[job] = Some(outcome);
        if let Some(settlement) = holding.settlement(job) {
            self.send(Request::Settle(settlement));
        }
    }

    fn renew(&mut self, worker: Worker) {
        let Phase::Holding(holding) = &self.phases[worker] else { return };
        let Granted { claim, token, .. } = holding.granted;
        self.renewals -= 1;
        self.send(Request::Renew(claim, token));
    }

    fn arrive(&mut self, scope: &Scope, request: Request, before: &Store) -> Result<(), Broken> {
        if let Some(index) = self.requests.iter().position(|other| *other == request) {
            self.requests.remove(index);
        }
        match request {
            Request::Enqueue(job) => {
                self.store.enqueue(job);
                self.acknowledged.insert(job);
                promises::check_enqueue(before, job, &self.store)
            }
            Request::Claim(claim) => {
                let granted = self.store.claim(&scope.rules, claim, scope.claim_max);
                if self.phases[claim.worker()] == Phase::Asking(claim) {
                    self.grants.push(granted);
                    self.grants.sort();
                }
                promises::check_claim(before, &self.store, &granted, scope.claim_max)
            }
            Request::Renew(claim, token) => {
                self.store.renew(token);
                promises::check_renew(before, claim, &self.store)
            }
            Request::Settle(settlement) => {
                let answer = self.store.settle(&scope.rules, &settlement);
                promises::check_settle(before, &settlement, &self.store, answer)
            }
        }
    }

    /// The first answer counts; later ones find nobody waiting.
    fn learn(&mut self, scope: &Scope, granted: Granted) {
        let holding = Holding { granted, running: granted.jobs, sent: [None; JOBS] };
        let nothing = granted.jobs.is_empty();
        self.phases[granted.claim.worker()] =
            if nothing { Phase::Idle } else { Phase::Holding(holding) };
        self.grants.retain(|other| other.claim != granted.claim);
        if !scope.answered_claims_linger {
            self.requests.retain(|request| *request != Request::Claim(granted.claim));
        }
    }

    fn roll_back(&mut self) {
        let Disk::Holds(store, acknowledged) = std::mem::replace(&mut self.disk, Disk::Done) else {
            return;
        };
        self.store = Store::clone(&store);
        self.acknowledged = acknowledged;
    }
}

impl Holding {
    /// What was sent about a job whose attempt has ended.
    fn settlement(&self, job: Job) -> Option<Settlement> {
        let Granted { claim, token, .. } = self.granted;
        self.sent[job].map(|outcome| Settlement { job, token, outcome, claim })
    }
}
