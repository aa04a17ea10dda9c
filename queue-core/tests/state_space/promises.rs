//! What must hold: [`check_state`] in every state of the world, the others at every step. They
//! look at [`Truth`](super::store::Truth) and at the store before and after, never at the guards.

use super::store::{
    ATTEMPTS_MAX, Granted, JOBS, Record, Rules, STALLS_MAX, Settled, Settlement, Store,
};
use super::vocabulary::{ClaimId, Job, Outcome, State};

/// A promise that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// P2: an outcome changed a job that its claim does not hold.
    OutcomeOfAnother,
    /// P3: an outcome was applied twice.
    AppliedTwice,
    /// P3: the repeat of the last settlement did not answer `AlreadyDone`, or an outcome that was
    /// never applied did.
    WrongAnswer,
    /// P1: the outcome of the claim that holds the job was not applied as its worker asked.
    WrongEffect,
    /// P2: a renewal changed more than the end of its own lease.
    RenewalChangedMore,
    /// P3: a repeated claim did not get just the jobs that it holds.
    RepeatedClaimDiffers,
    /// T4: a claim took a job that was not ready, or more than it asked for.
    ClaimTookTooMuch,
    /// T11: a job was taken from a lease that was not over, or not counted as one stall.
    TakenFromValidLease,
    /// P3: an enqueue changed a job that exists.
    EnqueuedTwice,
    /// P4: a job is not in exactly the one place that its record names; this includes two leases.
    InTwoPlaces,
    /// P4: a key without its job, or a job without its key.
    KeyWithoutJob,
    /// The failures of a record are not its failed attempts.
    Miscounted,
    /// P1: an acknowledged job that was not rolled back is not there.
    Lost,
    /// P1, P8: no worker that comes later can bring a job to its end.
    DeadEnd,
}

type Promise = Result<(), Broken>;

fn require(holds: bool, broken: Broken) -> Promise {
    if holds { Ok(()) } else { Err(broken) }
}

/// P2, P3, T6–T9. The outcome of a claim is due once, while the claim holds the job.
pub(crate) fn check_settle(
    before: &Store,
    settlement: &Settlement,
    after: &Store,
    answer: Settled,
) -> Promise {
    let Settlement { job, claim, outcome, .. } = *settlement;
    let Some(record) = &before.records[job] else {
        return require(answer == Settled::Gone && before == after, Broken::OutcomeOfAnother);
    };
    let truth = &record.truth;
    if before != after {
        require(!truth.settled.has(claim.0), Broken::AppliedTwice)?;
        require(truth.holder == Some(claim), Broken::OutcomeOfAnother)?;
    }
    if truth.holder == Some(claim) && !truth.settled.has(claim.0) {
        let expected = expected_effect(record, outcome);
        let applied = after.records[job].as_ref().map(counters) == Some(expected);
        let alone = others_unchanged(before, after, |other| other == job);
        return require(
            applied && alone && answer == Settled::Applied(expected.0),
            Broken::WrongEffect,
        );
    }
    // Only the last settlement is remembered: a repeat after another attempt has settled is stale.
    let last = truth.settled_by == Some(claim);
    let expected = if last { Settled::AlreadyDone } else { Settled::Stale };
    require(answer == expected, Broken::WrongAnswer)
}

/// State, failures and stalls after an outcome.
fn expected_effect(record: &Record, outcome: Outcome) -> (State, u8, u8) {
    let (state, failures) = match outcome {
        Outcome::Completed => (State::Completed, record.failures),
        Outcome::Failed if record.failures + 1 == ATTEMPTS_MAX => {
            (State::Dead, record.failures + 1)
        }
        Outcome::Failed => (State::Waiting, record.failures + 1),
        Outcome::Released => (State::Ready, record.failures),
    };
    (state, failures, record.stalls)
}

fn counters(record: &Record) -> (State, u8, u8) {
    (record.state, record.failures, record.stalls)
}

fn others_unchanged(before: &Store, after: &Store, may_change: impl Fn(Job) -> bool) -> bool {
    (0..JOBS).all(|job| may_change(job) || before.records[job] == after.records[job])
}

/// P3, T4.
pub(crate) fn check_claim(before: &Store, after: &Store, granted: &Granted, max: usize) -> Promise {
    if let Some(held) = before.leases.iter().find(|lease| lease.claim == granted.claim) {
        let mut expected = before.clone();
        expected.set_lapsed(granted.claim, false);
        let same = granted.jobs == held.jobs && granted.token == held.token;
        return require(same && *after == expected, Broken::RepeatedClaimDiffers);
    }
    let ready = granted.jobs.iter().all(|job| before.ready.contains(&job));
    let alone = others_unchanged(before, after, |job| granted.jobs.has(job));
    require(ready && alone && granted.jobs.len() <= max, Broken::ClaimTookTooMuch)
}

/// P2, T5.
pub(crate) fn check_renew(before: &Store, claim: ClaimId, after: &Store) -> Promise {
    let mut expected = before.clone();
    expected.set_lapsed(claim, false);
    require(*after == expected, Broken::RenewalChangedMore)
}

/// T11.
pub(crate) fn check_reap(before: &Store, after: &Store) -> Promise {
    for job in 0..JOBS {
        let (Some(was), Some(is)) = (&before.records[job], &after.records[job]) else { continue };
        if was == is {
            continue;
        }
        let over = before.leases.iter().any(|lease| lease.lapsed && lease.jobs.has(job));
        let stalls = was.stalls + 1;
        let state = if stalls == STALLS_MAX { State::Dead } else { State::Ready };
        let counted = counters(is) == (state, was.failures, stalls);
        require(over && counted, Broken::TakenFromValidLease)?;
    }
    Ok(())
}

/// T1, T2.
pub(crate) fn check_enqueue(before: &Store, job: Job, after: &Store) -> Promise {
    require(before.records[job].is_none() || before == after, Broken::EnqueuedTwice)
}

/// P4, and the counters.
pub(crate) fn check_state(store: &Store) -> Promise {
    for (job, record) in store.records.iter().enumerate() {
        let Some(record) = record else { continue };
        let leases = store.leases.iter().filter(|lease| lease.jobs.has(job)).count();
        let places = [
            (State::Ready, store.ready.iter().filter(|ready| **ready == job).count()),
            (State::Waiting, usize::from(store.due.has(job))),
            (State::Running, leases),
        ];
        let finished = matches!(record.state, State::Completed | State::Dead);
        let agree = places.iter().all(|(state, n)| *n == usize::from(record.state == *state));
        require(agree && store.finished.has(job) == finished, Broken::InTwoPlaces)?;
        require(store.keys.has(job) == (record.state != State::Dead), Broken::KeyWithoutJob)?;
        let failed = record.truth.failed.len();
        require(usize::from(record.failures) == failed, Broken::Miscounted)?;
    }
    Ok(())
}

/// P1: every lease runs out, whoever held it is gone, and a worker that comes later completes what
/// it finds. If that brings every job to its end, no state before it was a dead end.
pub(crate) fn check_recovery(store: &Store, rules: &Rules, rescuer: ClaimId) -> Promise {
    let mut store = store.clone();
    let leases: Vec<ClaimId> = store.leases.iter().map(|lease| lease.claim).collect();
    for claim in leases {
        store.set_lapsed(claim, true);
    }
    let lapsed = store.lapsed();
    store.reap(rules, &lapsed);
    for job in store.due.iter().collect::<Vec<_>>() {
        store.promote(rules, job);
    }
    let granted = store.claim(rules, rescuer, JOBS);
    for job in granted.jobs.iter() {
        let (token, claim) = (granted.token, rescuer);
        store.settle(rules, &Settlement { job, token, claim, outcome: Outcome::Completed });
    }
    let ended = store.records.iter().flatten().all(|record| {
        matches!(record.state, State::Completed | State::Dead) && record.holder.is_none()
    });
    require(ended, Broken::DeadEnd)
}
