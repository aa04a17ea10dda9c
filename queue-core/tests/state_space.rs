//! The fencing protocol as a small model, and every state that it can get into.
//!
//! The model test of `queue_core::conformance` compares stores with each other, on random sequences
//! of calls that arrive in order. This test is about the rules themselves: it goes through *all*
//! orders in which the messages of two workers, time, a reaper and a restart can meet in the store,
//! and checks the promises P1–P5 of the protocol in each state. Then it exchanges one guard at a
//! time for a broken one that real queues have shipped, and demands that the same exploration finds
//! out, with a shortest trace: the promises would notice.
//!
//! | file | what |
//! |---|---|
//! | `vocabulary.rs` | ids, tokens, states, outcomes |
//! | `store.rs` | the store and its exchangeable guards: read this for the protocol |
//! | `world.rs` | workers, messages, disk; every event that may happen next |
//! | `promises.rs` | what must hold |
//! | `explorer.rs` | breadth first through all states |
//!
//! **In the model:** one or two jobs, two workers. Enqueue, claim, renewal and settlement travel as
//! messages, which may be late, be lost, and be sent again. A worker may be slow, stop for good, or
//! forget what it did, at any point; its lease may run out meanwhile, and its outcome still arrives.
//! Once, the store may restart from any earlier point of its life while everybody else goes on and
//! old messages arrive. T1–T9 and T11 of `docs/state-machine.md`.
//!
//! **Not in the model:** how long things take (a lease may run out at any moment, a retry be due at
//! any moment), cancel requests, snoozing (to the guards the same as T7), retention, expiry, queues,
//! kinds, priorities and the order in a lane, fence numbers, batches of settlements (they are applied one by one), a
//! second restart, two random tokens that are equal.

mod state_space {
    pub(crate) mod explorer;
    mod promises;
    pub(crate) mod store;
    pub(crate) mod vocabulary;
    pub(crate) mod world;

    pub(crate) use promises::Broken;
}

use state_space::Broken;
use state_space::explorer::{Explored, Found, explore};
use state_space::store::{ClaimGuard, ReapGuard, Rules, SettleGuard, Settled, TokenSource};
use state_space::vocabulary::{Outcome, State};
use state_space::world::Scope;

/// One job, which each worker claims once. The tests widen it where they need to.
const SMALL: Scope = Scope {
    rules: Rules::BACKENDS,
    jobs: 1,
    enqueue_copies: 1,
    claims: [1, 1],
    claim_max: 1,
    outcomes: &[Outcome::Completed, Outcome::Failed, Outcome::Released],
    resends: 0,
    lapses: 0,
    renewals: 0,
    rollback: false,
    answered_claims_linger: false,
};

/// Without a restart, but with more of everything else.
const BUSY: Scope = Scope { claims: [2, 1], resends: 1, lapses: 2, renewals: 1, ..SMALL };

/// With a restart at any point.
const ROLLBACK: Scope = Scope {
    claims: [2, 1],
    outcomes: &[Outcome::Completed, Outcome::Failed],
    resends: 1,
    lapses: 1,
    rollback: true,
    ..SMALL
};

// The rules of the backends keep the promises.

#[test]
fn every_promise_holds_for_one_job() {
    let explored = passes(BUSY, 100_000);
    assert_happened(&explored, &["AskForJobs", "Learn", "EndAttempt", "Renew", "SendAgain(Claim"]);
    assert_happened(&explored, &["SendAgain(Settle", "Arrive(Renew", "Promote", "Lapse", "Reap"]);
    for answer in [
        (Settled::Applied(State::Completed), Some(State::Running)),
        (Settled::Applied(State::Waiting), Some(State::Running)),
        (Settled::Applied(State::Dead), Some(State::Running)),
        (Settled::Applied(State::Ready), Some(State::Running)),
        (Settled::AlreadyDone, Some(State::Completed)),
        // A repeat after another claim has taken the job.
        (Settled::AlreadyDone, Some(State::Running)),
        (Settled::Stale, Some(State::Running)),
        (Settled::Stale, Some(State::Completed)),
    ] {
        assert!(explored.answers.contains(&answer), "never answered {answer:?}");
    }
}

#[test]
fn every_promise_holds_for_one_job_when_the_store_is_rolled_back() {
    let explored = passes(ROLLBACK, 80_000);
    assert_happened(&explored, &["Persist", "RollBack", "Lapse", "Reap", "SendAgain(Settle"]);
    assert!(explored.answers.contains(&(Settled::Gone, None)), "no job was rolled back");
}

#[test]
fn every_promise_holds_for_two_jobs_of_one_claim() {
    let outcomes = &[Outcome::Completed, Outcome::Failed];
    let scope = Scope { jobs: 2, claim_max: 2, outcomes, resends: 1, lapses: 1, ..SMALL };
    let explored = passes(scope, 40_000);
    assert_happened(&explored, &["Learn", "SendAgain(Claim", "SendAgain(Settle", "Reap"]);
}

#[test]
fn every_promise_holds_for_two_jobs_of_two_claims() {
    let scope =
        Scope { jobs: 2, enqueue_copies: 0, claims: [2, 1], resends: 1, lapses: 1, ..SMALL };
    let explored = passes(scope, 70_000);
    assert_happened(&explored, &["Learn", "SendAgain(Claim", "SendAgain(Settle", "Reap"]);
}

#[test]
fn every_promise_holds_for_two_jobs_when_the_store_is_rolled_back() {
    let outcomes = &[Outcome::Failed];
    let two = Scope { jobs: 2, claim_max: 2, enqueue_copies: 0, claims: [1, 1], ..ROLLBACK };
    let explored = passes(Scope { outcomes, ..two }, 90_000);
    assert_happened(&explored, &["RollBack", "SendAgain(Claim", "SendAgain(Settle", "Reap"]);
}

#[test]
fn an_enqueue_sent_again_is_one_job_until_a_rollback_forgets_it() {
    let scope = Scope { enqueue_copies: 2, lapses: 1, rollback: true, ..SMALL };
    let explored = passes(scope, 5_000);
    assert_happened(&explored, &["Arrive(Enqueue", "RollBack", "Lapse", "Reap"]);
}

/// The guard of T11 names the listed token: with it a reaper may take two steps.
#[test]
fn a_reaper_may_list_first_if_it_checks_again() {
    let rules = Rules { reap: ReapGuard::ListThenCheck, ..Rules::BACKENDS };
    let explored = passes(Scope { rules, outcomes: &[Outcome::Released], ..BUSY }, 40_000);
    assert_happened(&explored, &["ListLapsed", "ReapListed", "Arrive(Renew"]);
}

// Broken guards are found.

#[test]
fn settling_by_job_id_counts_a_repeated_failure_twice() {
    let rules = Rules { settle: SettleGuard::JobId, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, outcomes: &[Outcome::Failed], resends: 1, ..SMALL });
    assert_eq!(found.broken, Broken::AppliedTwice, "{found}");
    assert_shows(&found, &["SendAgain(Settle(w0", "Arrive(Settle(w0", "Arrive(Settle(w0"]);
}

#[test]
fn settling_by_job_id_lets_a_worker_that_lost_its_lease_finish_the_job() {
    let rules = Rules { settle: SettleGuard::JobId, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, lapses: 1, ..SMALL });
    assert_eq!(found.broken, Broken::OutcomeOfAnother, "{found}");
    assert_shows(&found, &["Arrive(Claim(w0", "Lapse(w0", "Reap", "Arrive(Settle(w0"]);
}

#[test]
fn settling_what_is_running_lets_a_slow_worker_settle_the_attempt_of_another() {
    let rules = Rules { settle: SettleGuard::Running, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, lapses: 1, ..SMALL });
    assert_eq!(found.broken, Broken::OutcomeOfAnother, "{found}");
    let slow = ["Arrive(Claim(w0", "Lapse(w0", "Reap", "Arrive(Claim(w1", "Arrive(Settle(w0"];
    assert_shows(&found, &slow);
}

#[test]
fn a_reaper_that_trusts_its_list_takes_a_renewed_job() {
    let rules = Rules { reap: ReapGuard::ListThenTrust, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, lapses: 1, renewals: 1, ..SMALL });
    assert_eq!(found.broken, Broken::TakenFromValidLease, "{found}");
    assert_shows(&found, &["Lapse(w0", "ListLapsed", "Arrive(Renew(w0", "ReapListed"]);
}

#[test]
fn a_reaper_that_trusts_its_list_takes_a_job_from_its_next_worker() {
    let rules = Rules { reap: ReapGuard::ListThenTrust, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, lapses: 1, ..SMALL });
    assert_eq!(found.broken, Broken::TakenFromValidLease, "{found}");
    let settled_meanwhile = ["ListLapsed", "Arrive(Settle(w0", "Arrive(Claim(w1", "ReapListed"];
    assert_shows(&found, &settled_meanwhile);
}

#[test]
fn counted_tokens_are_given_out_twice_after_a_rollback() {
    let rules = Rules { tokens: TokenSource::Counted, ..Rules::BACKENDS };
    let scope = Scope { rules, rollback: true, ..SMALL };
    let found = breaks(scope);
    assert_eq!(found.broken, Broken::OutcomeOfAnother, "{found}");
    let repeated =
        ["Persist", "Arrive(Claim(w0", "RollBack", "Arrive(Claim(w1", "Arrive(Settle(w0"];
    assert_shows(&found, &repeated);
    // Without a rollback, counted tokens fence.
    passes(Scope { rollback: false, claims: [2, 1], lapses: 2, ..scope }, 7_000);
}

#[test]
fn a_claim_that_is_not_repeatable_does_not_tell_its_worker_what_it_holds() {
    let rules = Rules { claim: ClaimGuard::Forgetful, ..Rules::BACKENDS };
    // Nothing else is ready: the repeat is told that there is no work.
    let found = breaks(Scope { rules, resends: 1, ..SMALL });
    assert_eq!(found.broken, Broken::RepeatedClaimDiffers, "{found}");
    assert_shows(&found, &["SendAgain(Claim(w0", "Arrive(Claim(w0", "Arrive(Claim(w0"]);
}

#[test]
fn a_claim_that_is_not_repeatable_takes_a_second_job() {
    let rules = Rules { claim: ClaimGuard::Forgetful, ..Rules::BACKENDS };
    let found = breaks(Scope { rules, jobs: 2, enqueue_copies: 0, resends: 1, ..SMALL });
    assert_eq!(found.broken, Broken::RepeatedClaimDiffers, "{found}");
    assert_shows(&found, &["SendAgain(Claim(w0", "Arrive(Claim(w0", "Arrive(Claim(w0"]);
    assert_eq!(found.trace.len(), 4, "both jobs were ready: {found}");
}

// The edge of the contract.

/// `Backend::claim` says that a repeat which arrives after the claim's jobs were settled is a new
/// claim, and that nobody sends one. Here is why it must not arrive late either: the token holds
/// the job again, and an old copy of its outcome is taken for a new one.
#[test]
fn a_claim_that_outlives_its_answer_can_count_one_failure_twice() {
    let outcomes = &[Outcome::Completed, Outcome::Failed];
    let scope = Scope { outcomes, resends: 2, answered_claims_linger: true, ..SMALL };
    let found = breaks(scope);
    assert_eq!(found.broken, Broken::AppliedTwice, "{found}");
    let copies = ["Arrive(Claim(w0", "Arrive(Settle(w0", "Arrive(Claim(w0", "Arrive(Settle(w0"];
    assert_shows(&found, &copies);
    // A store that remembers which claims are over needs no such contract.
    let rules = Rules { claim: ClaimGuard::Once, ..Rules::BACKENDS };
    passes(Scope { rules, claims: [2, 1], lapses: 1, ..scope }, 30_000);
}

/// Explores a scope that keeps its promises and has more than `states_min` states.
fn passes(scope: Scope, states_min: usize) -> Explored {
    let explored = explore(scope).unwrap_or_else(|found| panic!("{found}"));
    assert!(explored.states > states_min, "only {} states", explored.states);
    explored
}

/// Explores a scope that breaks a promise.
fn breaks(scope: Scope) -> Box<Found> {
    match explore(scope) {
        Ok(explored) => panic!("nothing found in {} states", explored.states),
        Err(found) => found,
    }
}

/// Asserts that events of all these names happened.
fn assert_happened(explored: &Explored, names: &[&str]) {
    for name in names {
        let happened = explored.events.iter().any(|event| format!("{event:?}").starts_with(name));
        assert!(happened, "{name} never happened");
    }
}

/// Asserts that events of these names are in the trace, in this order, the last one at its end.
fn assert_shows(found: &Found, names: &[&str]) {
    let mut left = names.iter().peekable();
    let mut last_matched = false;
    for event in &found.trace {
        last_matched = left.next_if(|name| format!("{event:?}").starts_with(**name)).is_some();
    }
    assert!(left.peek().is_none() && last_matched, "{names:?} are not in this trace: {found}");
}
