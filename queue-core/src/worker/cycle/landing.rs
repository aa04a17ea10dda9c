//! What becomes of a request once the store has answered it.

use std::time::Instant;

use super::Turning;
use super::flight::{Answer, Landed, PAUSE_MAX};
use crate::worker::attempts::Ended;
use crate::{Error, Outcome, Settled, telemetry};

impl Turning {
    pub(super) fn land(&mut self, landed: Landed) {
        let Landed { request, carried, sent_at, answer } = landed;
        if let Some(claim) = &request.claim {
            self.set.slots.give_up(claim);
        }
        match answer {
            Some(Ok(answer)) => self.answered(answer, carried, sent_at),
            Some(Err(error)) => self.refused(&error, carried, request.claim.is_some()),
            None => self.report.give_up(carried.len()),
        }
    }

    fn answered(&mut self, answer: Answer, carried: Vec<Ended>, sent_at: Instant) {
        self.settled.extend(carried.into_iter().zip(answer.settled));
        if let Some((claim, held)) = answer.claimed {
            self.claimed(&claim, held, sent_at);
        }
    }

    /// Counts what the store has made of attempts.
    pub(super) fn count_settled(&mut self) {
        let mut all = std::mem::take(&mut self.settled);
        let ids = |ended: &Ended| (ended.settlement.token, ended.settlement.id);
        self.set.leases.remove(all.iter().map(|(ended, _)| ids(ended)));
        for (ended, settled) in all.drain(..) {
            ended.settled(settled);
            self.count(&ended, settled);
        }
        self.settled = all;
    }

    fn count(&mut self, ended: &Ended, settled: Settled) {
        let outcome = &ended.settlement.outcome;
        if let (Outcome::Throttled { limits, .. }, Settled::Applied(_)) = (outcome, settled) {
            for key in limits.iter() {
                let is_added = self.set.routes.values().any(|route| route.limits.contains(key));
                telemetry::throttled(Some(key).filter(|_| is_added));
            }
        }
        match (outcome, settled) {
            // A job that was not begun, and given back before.
            (_, Settled::Stale(_) | Settled::Gone) if !ended.was_started() => {}
            (_, Settled::Stale(_) | Settled::Gone) => self.report.lost += 1,
            (Outcome::Released, _) => self.report.released += 1,
            _ => self.report.finished += 1,
        }
    }

    /// The store will not take this request however often it is sent. What is at fault is singled
    /// out, first without the claim and then by halves; one bad settlement must not hold up the
    /// others, and is left to its lease. A claim that is refused by itself is made again later.
    fn refused(&mut self, error: &Error, mut carried: Vec<Ended>, claims: bool) {
        match carried.as_slice() {
            [] => {
                tracing::error!(event = "claim_refused", %error);
                self.no_claim_before = Instant::now() + PAUSE_MAX;
            }
            [ended] if !claims => {
                let job_id = ended.settlement.id;
                tracing::error!(event = "settle_refused", %error, %job_id);
                self.set.leases.remove(std::iter::once((ended.settlement.token, job_id)));
                self.report.lost += 1;
            }
            _ if claims => self.suspects.push(carried),
            _ => {
                let rest = carried.split_off(carried.len() / 2);
                self.suspects.extend([rest, carried]);
            }
        }
    }
}
