//! Requests on their way to the store, each repeated until it is answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Cycle;
use crate::worker::attempts::Ended;
use crate::worker::leases::{Held, Leases, Way};
use crate::worker::panics::caught;
use crate::worker::stop::{Phase, Status};
use crate::{Claim, ClaimRequest, Error, Queue, SettleReply, SettleRequest, Settled, telemetry};

/// The pauses between two tries grow from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A request that has come to its end, and the attempts that it reported.
pub(super) struct Landed {
    pub(super) request: Arc<SettleRequest>,
    pub(super) carried: Vec<Ended>,
    /// When the store was asked last.
    pub(super) sent_at: Instant,
    /// `None` if the worker had to end without an answer.
    pub(super) answer: Option<Result<Answer, Error>>,
}

/// What the store answered.
pub(super) struct Answer {
    pub(super) settled: Vec<Settled>,
    /// The jobs stand beside the claim, not in it.
    pub(super) claimed: Option<(Claim, Vec<Held>)>,
}

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// The requests that are out; few.
#[derive(Default)]
pub(super) struct Flights {
    out: Vec<Flight>,
    /// How many attempts they report.
    carried: usize,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("out", &self.out.len()).finish_non_exhaustive()
    }
}

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// How many attempts the requests report that are out.
    pub(super) fn carried(&self) -> usize {
        self.carried
    }

    /// Sends a request. Answers what has become of it if that is known at once.
    pub(super) async fn launch(
        &mut self,
        cycle: &Cycle,
        request: SettleRequest,
        carried: Vec<Ended>,
    ) -> Option<Landed> {
        let pilot = Pilot {
            queue: cycle.queue.clone(),
            leases: Arc::clone(&cycle.leases),
            status: Arc::clone(&cycle.status),
            phase: cycle.phase_seen.clone(),
        };
        let jobs = carried.len();
        let mut flight: Flight = Box::pin(pilot.fly(Arc::new(request), carried));
        // The first poll lets the call go out. Here, and not by a yield to a task: a handler that
        // blocks its thread could take the turn, and the call would wait behind it.
        let first = std::future::poll_fn(|context| Poll::Ready(flight.as_mut().poll(context)));
        match first.await {
            Poll::Ready(landed) => Some(landed),
            Poll::Pending => {
                self.out.push(flight);
                self.carried += jobs;
                None
            }
        }
    }

    /// Waits for the next request to come to its end; for ever if none is out.
    ///
    /// # Cancel safety
    /// Safe to drop: the requests stay out.
    pub(super) async fn landed(&mut self) -> Landed {
        std::future::poll_fn(|context| self.poll_landed(context)).await
    }

    fn poll_landed(&mut self, context: &mut Context<'_>) -> Poll<Landed> {
        let done = self.out.iter_mut().enumerate().find_map(|(nth, flight)| {
            match flight.as_mut().poll(context) {
                Poll::Ready(landed) => Some((nth, landed)),
                Poll::Pending => None,
            }
        });
        let Some((nth, landed)) = done else { return Poll::Pending };
        drop(self.out.remove(nth));
        self.carried -= landed.carried.len();
        Poll::Ready(landed)
    }

    /// Leaves the requests that are out to themselves: a call must not be dropped half-way.
    pub(super) fn abandon(&mut self) {
        self.carried = 0;
        for flight in self.out.drain(..) {
            tokio::spawn(flight);
        }
    }
}

/// What a request needs on its way.
struct Pilot {
    queue: Queue,
    leases: Arc<Leases>,
    status: Arc<Status>,
    phase: watch::Receiver<Phase>,
}

impl Pilot {
    /// Sends `request` until the store answers. The very same request: its claim may have taken
    /// effect although the reply was lost, and only a repeat with its token finds the jobs.
    async fn fly(mut self, request: Arc<SettleRequest>, carried: Vec<Ended>) -> Landed {
        let landed = self.fly_until_landed(request, carried).await;
        if let Some(claim) = &landed.request.claim {
            self.leases.await_no_more(claim.token);
        }
        landed
    }

    async fn fly_until_landed(
        &mut self,
        request: Arc<SettleRequest>,
        carried: Vec<Ended>,
    ) -> Landed {
        let mut pause = PAUSE_FIRST;
        loop {
            let sent_at = Instant::now();
            self.leases.await_claim(Way::Sent(Arc::clone(&request)));
            // A panic in a backend is an error like others.
            let answer = caught(self.send(&request)).await;
            let answer = answer.unwrap_or_else(|panic| Err(Error::Unavailable(panic)));
            self.store_is_up(answer.is_ok());
            self.status.set_needs_restart(matches!(answer, Err(Error::NeedsRestart(_))));
            let error = match answer {
                Err(error) if !error.is_about_items() => error,
                answer => return Landed { request, carried, sent_at, answer: Some(answer) },
            };
            // Smaller outcomes may still fit: a full store is drained by its outcomes.
            let divisible = carried.len() > 1 || (request.claim.is_some() && !carried.is_empty());
            if matches!(error, Error::StoreFull(_)) && divisible {
                self.pause(PAUSE_FIRST).await;
                return Landed { request, carried, sent_at, answer: Some(Err(error)) };
            }
            tracing::warn!(event = "store_unavailable", %error, settlements = carried.len());
            if !self.pause(pause).await {
                return Landed { request, carried, sent_at, answer: None };
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends the request once. The leases are held from the moment that the store's answer is there,
    /// whatever the worker's other tasks wait for.
    async fn send(&self, request: &SettleRequest) -> Result<Answer, Error> {
        let sent_at = Instant::now();
        let reply = match &request.claim {
            Some(claim) if request.settlements.is_empty() => {
                SettleReply::new(Vec::new(), Some(self.queue.backend().claim_boxed(claim).await?))
            }
            _ => self.queue.backend().settle_boxed(request).await?,
        };
        let claimed = reply.claim.zip(request.claim.as_ref());
        let claimed = claimed.map(|(mut claim, ClaimRequest { token, .. })| {
            let brought = std::mem::take(&mut claim.leases);
            let held = self.leases.take_in(*token, sent_at, brought);
            (claim, held)
        });
        Ok(Answer { settled: reply.settled, claimed })
    }

    fn store_is_up(&self, up: bool) {
        if self.status.set_store_up(up) != up {
            telemetry::store_up().set(if up { 1.0 } else { 0.0 });
        }
    }

    /// Sleeps with full jitter; `false` if the worker has to end without an answer.
    async fn pause(&mut self, at_most: Duration) -> bool {
        let pause = at_most.mul_f64(fastrand::f64());
        let phase = *self.phase.borrow_and_update();
        match phase {
            Phase::Stopping { give_up_at } => {
                let left = give_up_at.saturating_duration_since(Instant::now());
                tokio::time::sleep(pause.min(left)).await;
                !left.is_zero()
            }
            _ => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.phase.changed() => {}
                }
                true
            }
        }
    }
}
