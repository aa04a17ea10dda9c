//! The store of the model: records, the indexes that place each job, and the four guards that the
//! tests exchange ([`Rules`]). One call is one atomic step.

use std::fmt;

use super::vocabulary::{ClaimId, Job, Outcome, SmallSet, State, Token};

/// The failed attempt that makes a job dead.
pub(crate) const ATTEMPTS_MAX: u8 = 2;
/// The expired lease that makes a job dead.
pub(crate) const STALLS_MAX: u8 = 2;
/// The most jobs of a model.
pub(crate) const JOBS: usize = 2;

/// How a store decides; [`Rules::BACKENDS`] is what every backend does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) settle: SettleGuard,
    pub(crate) reap: ReapGuard,
    pub(crate) tokens: TokenSource,
    pub(crate) claim: ClaimGuard,
}

impl Rules {
    pub(crate) const BACKENDS: Self = Self {
        settle: SettleGuard::Token,
        reap: ReapGuard::OneStep,
        tokens: TokenSource::Client,
        claim: ClaimGuard::Repeatable,
    };
}

/// Whose outcome changes a job (T6–T10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettleGuard {
    /// That of the token that holds it.
    Token,
    /// Broken: of anybody who knows its id.
    JobId,
    /// Broken: of anybody, while it is running.
    Running,
}

/// How expired leases are taken back (T11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReapGuard {
    /// Found and taken back in one step.
    OneStep,
    /// Listed in one step and taken back in a later one, if the lease is still over and its token
    /// still holds the job.
    ListThenCheck,
    /// Broken: listed in one step and taken back in a later one, if the job is running.
    ListThenTrust,
}

/// Where the token of a lease comes from (T4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// From the claiming client's random numbers: never the same twice.
    Client,
    /// Broken: counted in the store, which a rollback sets back.
    Counted,
}

/// What a claim with a token that the store has seen before gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimGuard {
    /// The jobs that it holds, if it holds any; else it is a new claim.
    Repeatable,
    /// The jobs that it holds; none once it holds none any more. Stricter than the backends, for
    /// worlds where a copy of a claim outlives the claim.
    Once,
    /// Broken: more jobs.
    Forgetful,
}

/// What the store knows of a job, and what really happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) state: State,
    pub(crate) failures: u8,
    pub(crate) stalls: u8,
    /// The token that holds it, while it is running.
    pub(crate) holder: Option<Token>,
    /// The token of its last settlement.
    pub(crate) settled_by: Option<Token>,
    pub(crate) truth: Truth,
}

/// What the promises are checked against. No guard may look at it. It is rolled back with the
/// store, because it tells what happened in the store's present past.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Truth {
    pub(crate) holder: Option<ClaimId>,
    pub(crate) settled_by: Option<ClaimId>,
    /// Every claim whose outcome was applied.
    pub(crate) settled: SmallSet,
    /// Those of them whose outcome was a failure.
    pub(crate) failed: SmallSet,
}

/// A lease belongs to a claim and covers the jobs that the claim still holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    /// The request, by which a repeat is known.
    pub(crate) claim: ClaimId,
    /// What outcomes and renewals must show.
    pub(crate) token: Token,
    pub(crate) jobs: SmallSet,
    /// Its time is over. It holds its jobs nevertheless until it is reaped.
    pub(crate) lapsed: bool,
}

/// The answer to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Granted {
    pub(crate) claim: ClaimId,
    pub(crate) token: Token,
    pub(crate) jobs: SmallSet,
}

/// How one attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Settlement {
    pub(crate) job: Job,
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
    /// For the promises, not for the guards.
    pub(crate) claim: ClaimId,
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, token, outcome, claim } = self;
        write!(f, "{claim:?}, {token:?}, job {job} {outcome:?}")
    }
}

/// The answer to a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Settled {
    Applied(State),
    AlreadyDone,
    Stale,
    Gone,
}

/// The records, and an index for every place where a job can be (P4).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Store {
    pub(crate) records: [Option<Record>; JOBS],
    /// What a claim takes from.
    pub(crate) ready: Vec<Job>,
    pub(crate) due: SmallSet,
    /// In the order of their claims.
    pub(crate) leases: Vec<Lease>,
    pub(crate) finished: SmallSet,
    /// The jobs whose idempotency key is taken.
    pub(crate) keys: SmallSet,
    /// The last token of [`TokenSource::Counted`].
    tokens_counted: u8,
    /// The claims whose lease has ended, for [`ClaimGuard::Once`].
    ended: SmallSet,
}

impl Store {
    /// T1; T2 for a job that exists.
    pub(crate) fn enqueue(&mut self, job: Job) {
        if self.records[job].is_some() {
            return;
        }
        self.records[job] = Some(Record {
            state: State::Ready,
            failures: 0,
            stalls: 0,
            holder: None,
            settled_by: None,
            truth: Truth::default(),
        });
        self.ready.push(job);
        self.keys.insert(job);
    }

    /// T3.
    pub(crate) fn promote(&mut self, rules: &Rules, job: Job) {
        self.place(rules, job, State::Ready);
    }

    /// T4.
    pub(crate) fn claim(&mut self, rules: &Rules, claim: ClaimId, max: usize) -> Granted {
        let nothing = Granted { claim, token: claim.as_token(), jobs: SmallSet::default() };
        let known = self.leases.iter_mut().find(|lease| lease.claim == claim);
        if let (Some(lease), true) = (known, rules.claim != ClaimGuard::Forgetful) {
            lease.lapsed = false;
            return Granted { claim, token: lease.token, jobs: lease.jobs };
        }
        // Only `ClaimGuard::Once` remembers.
        if self.ready.is_empty() || self.ended.has(claim.0) {
            return nothing;
        }
        let token = match rules.tokens {
            TokenSource::Client => claim.as_token(),
            TokenSource::Counted => {
                self.tokens_counted += 1;
                Token(self.tokens_counted)
            }
        };
        let taken: Vec<Job> = self.ready.drain(..max.min(self.ready.len())).collect();
        let jobs: SmallSet = taken.iter().copied().collect();
        for job in &taken {
            let Some(record) = &mut self.records[*job] else { continue };
            record.state = State::Running;
            record.holder = Some(token);
            record.truth.holder = Some(claim);
        }
        match self.leases.iter_mut().find(|lease| lease.claim == claim) {
            // Reached by `ClaimGuard::Forgetful` only.
            Some(lease) => lease.jobs = lease.jobs.iter().chain(jobs.iter()).collect(),
            None => self.leases.push(Lease { claim, token, jobs, lapsed: false }),
        }
        self.leases.sort_by_key(|lease| lease.claim);
        Granted { claim, token, jobs }
    }

    /// T5.
    pub(crate) fn renew(&mut self, token: Token) {
        if let Some(lease) = self.leases.iter_mut().find(|lease| lease.token == token) {
            lease.lapsed = false;
        }
    }

    /// Says whether the time of a claim's lease is over.
    pub(crate) fn set_lapsed(&mut self, claim: ClaimId, lapsed: bool) {
        if let Some(lease) = self.leases.iter_mut().find(|lease| lease.claim == claim) {
            lease.lapsed = lapsed;
        }
    }

    /// T6–T10.
    pub(crate) fn settle(&mut self, rules: &Rules, settlement: &Settlement) -> Settled {
        let Settlement { job, token, outcome, claim } = *settlement;
        let Some(record) = &mut self.records[job] else { return Settled::Gone };
        let admitted = match rules.settle {
            SettleGuard::Token => record.holder == Some(token),
            SettleGuard::JobId => true,
            SettleGuard::Running => record.state == State::Running,
        };
        if !admitted {
            let repeated = record.settled_by == Some(token);
            return if repeated { Settled::AlreadyDone } else { Settled::Stale };
        }
        record.settled_by = Some(token);
        record.truth.settled_by = Some(claim);
        record.truth.settled.insert(claim.0);
        if matches!(outcome, Outcome::Failed) {
            record.failures += 1;
            record.truth.failed.insert(claim.0);
        }
        let state = match outcome {
            Outcome::Completed => State::Completed,
            Outcome::Failed if record.failures >= ATTEMPTS_MAX => State::Dead,
            Outcome::Failed => State::Waiting,
            Outcome::Released => State::Ready,
        };
        self.place(rules, job, state);
        Settled::Applied(state)
    }

    /// What a reaper finds: the jobs of expired leases, with the tokens that hold them.
    pub(crate) fn lapsed(&self) -> Vec<(Job, Token)> {
        let lapsed = self.leases.iter().filter(|lease| lease.lapsed);
        lapsed.flat_map(|lease| lease.jobs.iter().map(|job| (job, lease.token))).collect()
    }

    /// T11. The two guards that check differ in whether anything happens between finding and this.
    pub(crate) fn reap(&mut self, rules: &Rules, listed: &[(Job, Token)]) {
        for (job, token) in listed.iter().copied() {
            let over = rules.reap == ReapGuard::ListThenTrust
                || self.leases.iter().any(|l| l.token == token && l.lapsed && l.jobs.has(job));
            let running = self.records[job].as_mut().filter(|r| r.state == State::Running);
            let (Some(record), true) = (running, over) else { continue };
            record.stalls += 1;
            let state = if record.stalls >= STALLS_MAX { State::Dead } else { State::Ready };
            self.place(rules, job, state);
        }
    }

    /// Takes a job out of where it is, a lease included, and puts it to where `state` says.
    fn place(&mut self, rules: &Rules, job: Job, state: State) {
        self.ready.retain(|ready| *ready != job);
        self.due.remove(job);
        self.finished.remove(job);
        for lease in &mut self.leases {
            lease.jobs.remove(job);
            if lease.jobs.is_empty() && rules.claim == ClaimGuard::Once {
                self.ended.insert(lease.claim.0);
            }
        }
        self.leases.retain(|lease| !lease.jobs.is_empty());
        let Some(record) = &mut self.records[job] else { return };
        record.state = state;
        record.holder = None;
        record.truth.holder = None;
        match state {
            State::Ready => self.ready.push(job),
            State::Waiting => self.due.insert(job),
            State::Completed => self.finished.insert(job),
            State::Dead => {
                self.finished.insert(job);
                self.keys.remove(job);
            }
            State::Running => {}
        }
    }
}
