//! One request to the store, repeated until it is answered.

use std::time::{Duration, Instant};

use super::Turning;
use crate::worker::attempts::Ended;
use crate::worker::stop::Phase;
use crate::{Error, Outcome, Queue, SettleReply, SettleRequest, Settled, telemetry};

/// The pauses between two tries grow from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Turning {
    /// Sends `request` until the store answers. The very same request: its claim may have taken
    /// effect although the reply was lost, and only a repeat with its token finds the jobs.
    pub(super) async fn round_trip(&mut self, request: SettleRequest, carried: Vec<Ended>) {
        let queue = self.set.queue.clone();
        let mut pause = PAUSE_FIRST;
        loop {
            let sent_at = Instant::now();
            let error = match send(&queue, &request).await {
                Ok(reply) => {
                    self.store_is_up(true);
                    return self.answered(reply, carried, sent_at);
                }
                Err(error) => error,
            };
            self.store_is_up(false);
            if !error.is_retryable() {
                let claims = request.claim.is_some();
                return self.refused(&error, carried, claims).await;
            }
            tracing::warn!(event = "store_unavailable", %error, settlements = carried.len());
            if !self.pause(pause).await {
                self.report.lost += carried.len();
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sleeps with full jitter; `false` if the worker has to stop without an answer.
    async fn pause(&mut self, at_most: Duration) -> bool {
        let pause = at_most.mul_f64(fastrand::f64());
        self.set.status.progress(self.set.slots.busy());
        let phase = *self.set.phase.borrow_and_update();
        match phase {
            Phase::Stopping { give_up_at } => {
                let left = give_up_at.saturating_duration_since(Instant::now());
                tokio::time::sleep(pause.min(left)).await;
                !left.is_zero()
            }
            _ => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.set.phase.changed() => {}
                }
                true
            }
        }
    }

    fn answered(&mut self, reply: SettleReply, carried: Vec<Ended>, sent_at: Instant) {
        if self.pending.is_empty() {
            self.batch_max = crate::backend::PASS_MAX as usize;
        }
        for (ended, settled) in carried.into_iter().zip(reply.settled) {
            ended.settled(settled);
            self.set.leases.remove(ended.settlement.token, ended.settlement.id);
            self.count(&ended.settlement.outcome, settled);
        }
        if let Some(claim) = reply.claim {
            self.claimed(claim, sent_at);
        }
    }

    fn count(&mut self, outcome: &Outcome, settled: Settled) {
        match (outcome, settled) {
            (_, Settled::Stale(_) | Settled::Gone) => self.report.lost += 1,
            (Outcome::Released, _) => self.report.released += 1,
            _ => self.report.finished += 1,
        }
    }

    /// The store will not take this request however often it is sent. What is at fault is
    /// singled out: first the claim is left away, then the settlements are sent one by one. One
    /// bad settlement must not hold up the others; it is left to its lease.
    async fn refused(&mut self, error: &Error, carried: Vec<Ended>, claims: bool) {
        if claims {
            tracing::error!(event = "claim_refused", %error);
            self.no_claim_before = Instant::now() + PAUSE_MAX;
        }
        match carried.as_slice() {
            [ended] if !claims => {
                let job_id = ended.settlement.id;
                tracing::error!(event = "settle_refused", %error, %job_id);
                self.set.leases.remove(ended.settlement.token, job_id);
                self.report.lost += 1;
            }
            _ => {
                if !claims {
                    self.batch_max = 1;
                }
                for ended in carried.into_iter().rev() {
                    self.pending.push_front(ended);
                }
            }
        }
    }

    fn store_is_up(&self, up: bool) {
        if self.set.status.set_store_up(up) != up {
            telemetry::store_up().set(if up { 1.0 } else { 0.0 });
        }
    }
}

async fn send(queue: &Queue, request: &SettleRequest) -> Result<SettleReply, Error> {
    match &request.claim {
        Some(claim) if request.settlements.is_empty() => {
            let claim = queue.backend().claim_boxed(claim).await?;
            Ok(SettleReply::new(Vec::new(), Some(claim)))
        }
        _ => queue.backend().settle_boxed(request).await,
    }
}
