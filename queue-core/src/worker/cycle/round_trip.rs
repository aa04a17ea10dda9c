//! One request to the store, repeated until it is answered.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Turning;
use crate::worker::attempts::Ended;
use crate::worker::leases::{Held, Leases};
use crate::worker::panics::caught;
use crate::worker::stop::Phase;
use crate::{Claim, Error, Outcome, Queue, SettleReply, SettleRequest, Settled, telemetry};

/// The pauses between two tries grow from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Turning {
    /// Sends `request` until the store answers. The very same request: its claim may have taken
    /// effect although the reply was lost, and only a repeat with its token finds the jobs.
    pub(super) async fn round_trip(&mut self, request: SettleRequest, carried: Vec<Ended>) {
        let request = Arc::new(request);
        let mut pause = PAUSE_FIRST;
        loop {
            let sent_at = Instant::now();
            let Some(answer) = self.sent(&request).await else {
                self.report.lost += carried.len();
                return;
            };
            self.store_is_up(answer.is_ok());
            let error = match answer {
                Ok(answer) => return self.answered(answer, carried, sent_at),
                Err(error) => error,
            };
            let claims = request.claim.is_some();
            if error.is_about_items() {
                return self.refused(&error, carried, claims);
            }
            // Smaller outcomes may still fit: a full store is drained by its outcomes.
            let divisible = carried.len() > 1 || (claims && !carried.is_empty());
            if matches!(error, Error::StoreFull(_)) && divisible {
                self.refused(&error, carried, claims);
                self.pause(PAUSE_FIRST).await;
                return;
            }
            tracing::warn!(event = "store_unavailable", %error, settlements = carried.len());
            if !self.pause(pause).await {
                self.report.lost += carried.len();
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends a request once. A panic in a backend is an error like others, and a call that hangs
    /// does not keep the worker from stopping: it ends in a task of its own then, as it must not be
    /// dropped half-way. `None` if the worker has to end without an answer.
    async fn sent(&mut self, request: &Arc<SettleRequest>) -> Option<Result<Answer, Error>> {
        let call = send(self.set.queue.clone(), Arc::clone(&self.set.leases), Arc::clone(request));
        let mut call = Box::pin(caught(call));
        // The first poll lets the call go out. Here, and not by a yield to its task: a handler that
        // blocks its thread could take the turn, and this cycle would wait behind it.
        let first = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        // What the call before claimed starts while this one is on its way.
        self.start_claimed();
        let panicked = |panic| Err(Error::Unavailable(panic));
        if let Poll::Ready(answer) = first {
            return Some(answer.unwrap_or_else(panicked));
        }
        loop {
            let phase = *self.set.phase_seen.borrow_and_update();
            let give_up = async {
                match phase {
                    Phase::Stopping { give_up_at } => {
                        tokio::time::sleep_until(give_up_at.into()).await;
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = &mut call => return Some(answer.unwrap_or_else(panicked)),
                () = give_up => {
                    tokio::spawn(call);
                    return None;
                }
                // A slot that gets free need not wait for the store if a job waits for it.
                Some(ended) = self.ended.recv(), if !self.ahead.is_empty() => {
                    self.take_in_ended(ended);
                    self.start_claimed();
                }
                // Jobs that run hear of the stop even while the store does not answer.
                _ = self.set.phase_seen.changed() => self.stop_if_stopping(),
            }
        }
    }

    /// Sleeps with full jitter; `false` if the worker has to end without an answer.
    async fn pause(&mut self, at_most: Duration) -> bool {
        let pause = at_most.mul_f64(fastrand::f64());
        self.set.status.progress(self.set.slots.busy());
        self.stop_if_stopping();
        let phase = *self.set.phase_seen.borrow_and_update();
        match phase {
            Phase::Stopping { give_up_at } => {
                let left = give_up_at.saturating_duration_since(Instant::now());
                tokio::time::sleep(pause.min(left)).await;
                !left.is_zero()
            }
            _ => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.set.phase_seen.changed() => {}
                }
                true
            }
        }
    }

    fn answered(&mut self, answer: Answer, carried: Vec<Ended>, sent_at: Instant) {
        for (ended, settled) in carried.into_iter().zip(answer.settled) {
            ended.settled(settled);
            self.set.leases.remove(ended.settlement.token, ended.settlement.id);
            self.count(&ended.settlement.outcome, settled);
        }
        if let Some((claim, held)) = answer.claimed {
            self.claimed(&claim, held, sent_at);
        }
    }

    fn count(&mut self, outcome: &Outcome, settled: Settled) {
        if let (Outcome::Throttled { limits, .. }, Settled::Applied(_)) = (outcome, settled) {
            for key in limits.iter() {
                let is_added = self.set.routes.values().any(|route| route.limits.contains(key));
                telemetry::throttled(Some(key).filter(|_| is_added));
            }
        }
        match (outcome, settled) {
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
                self.set.leases.remove(ended.settlement.token, job_id);
                self.report.lost += 1;
            }
            _ if claims => self.suspects.push(carried),
            _ => {
                let rest = carried.split_off(carried.len() / 2);
                self.suspects.extend([rest, carried]);
            }
        }
    }

    fn store_is_up(&self, up: bool) {
        if self.set.status.set_store_up(up) != up {
            telemetry::store_up().set(if up { 1.0 } else { 0.0 });
        }
    }
}

/// What the store answered.
struct Answer {
    settled: Vec<Settled>,
    /// The jobs stand beside the claim, not in it.
    claimed: Option<(Claim, Vec<Held>)>,
}

/// The leases are held from the moment that the store's answer is there, whatever the worker's
/// other tasks wait for.
async fn send(
    queue: Queue,
    leases: Arc<Leases>,
    request: Arc<SettleRequest>,
) -> Result<Answer, Error> {
    let sent_at = Instant::now();
    let reply = match &request.claim {
        Some(claim) if request.settlements.is_empty() => {
            SettleReply::new(Vec::new(), Some(queue.backend().claim_boxed(claim).await?))
        }
        _ => queue.backend().settle_boxed(&request).await?,
    };
    let claimed = reply.claim.map(|mut claim| {
        let held = leases.add(sent_at, std::mem::take(&mut claim.leases));
        (claim, held)
    });
    Ok(Answer { settled: reply.settled, claimed })
}
