//! The worker's one outstanding wait, and the claim that stands behind it.

use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::leases::{Held, Leases, Way};
use crate::{Claim, ClaimRequest, Error, Interest, Queue, Wake, Woken};

/// How long one wait lasts. The worker asks the store once a second anyway; this only bounds how
/// long a wait hangs on a connection that died silently.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A wait that stays outstanding while the worker does other things, so that a worker that turns
/// between waiting and claiming does not pay for a new wait each time.
pub(super) struct Waiting {
    queue: Queue,
    leases: Arc<Leases>,
    outstanding: Option<Outstanding>,
}

struct Outstanding {
    interest: Interest,
    /// The claim that the store makes when the wait ends.
    standing: Option<Standing>,
    end: BoxFuture<'static, Result<Heard, Error>>,
}

struct Standing {
    request: Arc<ClaimRequest>,
    /// Dropped to revoke it.
    wanted: Option<oneshot::Sender<()>>,
}

/// What a wait has brought.
pub(super) struct Heard {
    pub(super) wake: Wake,
    /// The answer to the standing claim, without its jobs, these, and when it was made, or before.
    pub(super) claimed: Option<(Claim, Vec<Held>, Instant)>,
    /// The standing claim, if nobody knows whether the store has made it.
    pub(super) in_doubt: Option<Arc<ClaimRequest>>,
}

impl Waiting {
    pub(super) fn new(queue: &Queue, leases: &Arc<Leases>) -> Self {
        Self { queue: queue.clone(), leases: Arc::clone(leases), outstanding: None }
    }

    /// Whether to attach a wait for `interest`: it is not what is waited for. A standing claim that
    /// is not wanted with it, or does not `fit` any more, is revoked, and its answer comes first.
    pub(super) fn needs(
        &mut self,
        interest: &Interest,
        fits: impl FnOnce(&ClaimRequest) -> bool,
    ) -> bool {
        let Some(Outstanding { interest: current, standing, .. }) = &mut self.outstanding else {
            return true;
        };
        let is_current = current == interest;
        if standing.is_none() {
            return !is_current;
        }
        self.revoke_unless(|claim| is_current && fits(claim));
        false
    }

    /// Revokes a standing claim unless it `fits`.
    pub(super) fn revoke_unless(&mut self, fits: impl FnOnce(&ClaimRequest) -> bool) {
        if let Some(Outstanding { standing: Some(standing), .. }) = &mut self.outstanding
            && !fits(&standing.request)
        {
            standing.wanted = None;
        }
    }

    /// Waits for `interest` from now on, with a standing claim if there is one.
    pub(super) fn attach(&mut self, interest: Interest, claim: Option<ClaimRequest>) {
        let (queue, wanted) = (self.queue.clone(), interest.clone());
        let Some(request) = claim else {
            let end = Box::pin(async move {
                let wake = queue.backend().wait_boxed(&wanted, WAIT_MAX).await?;
                Ok(Heard { wake, claimed: None, in_doubt: None })
            });
            self.outstanding = Some(Outstanding { interest, standing: None, end });
            return;
        };
        let (request, leases) = (Arc::new(request), Arc::clone(&self.leases));
        leases.await_claim(Way::Standing(Arc::clone(&request)));
        let (sender, revoked) = oneshot::channel();
        let standing = Standing { request: Arc::clone(&request), wanted: Some(sender) };
        let end = Box::pin(async move {
            let backend = queue.backend();
            let woken = backend.wait_and_claim_boxed(&wanted, &request, revoked, WAIT_MAX).await;
            // One of which nobody knows is made again.
            if !matches!(&woken, Ok(Woken { claim: Some(_), .. }) | Err(Error::Unavailable(_))) {
                leases.await_no_more(request.token);
            }
            let woken = woken?;
            let now = Instant::now();
            let claimed_at = now.checked_sub(woken.claimed_ago).unwrap_or(now);
            // No await from here to the worker: what the claim has brought cannot get lost.
            let claimed = woken.claim.map(|mut claim| {
                let brought = std::mem::take(&mut claim.leases);
                let held = leases.take_in(request.token, claimed_at, brought);
                (claim, held, claimed_at)
            });
            Ok(Heard { wake: woken.wake, claimed, in_doubt: None })
        });
        self.outstanding = Some(Outstanding { interest, standing: Some(standing), end });
    }

    pub(super) fn is_attached(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether the store may be about to give jobs to this worker.
    pub(super) fn may_bring_jobs(&self) -> bool {
        self.outstanding.as_ref().is_some_and(|outstanding| outstanding.standing.is_some())
    }

    /// Stops waiting for jobs: a wake-up that comes now must go to another worker. A wait that is
    /// for cancel requests alone stays, and one with a standing claim until that is answered.
    pub(super) fn listen_for_cancels_at_most(&mut self) {
        self.revoke_unless(|_| false);
        self.outstanding.take_if(|outstanding| {
            outstanding.standing.is_none() && !outstanding.interest.kinds.is_empty()
        });
    }

    /// The end of the outstanding wait; never, if there is none.
    ///
    /// # Cancel safety
    /// Safe: the wait stays outstanding when this is dropped.
    pub(super) async fn woken(&mut self) -> Heard {
        let Some(outstanding) = &mut self.outstanding else {
            return std::future::pending().await;
        };
        let heard = outstanding.end.as_mut().await;
        let standing = self.outstanding.take().and_then(|outstanding| outstanding.standing);
        let error = match heard {
            Ok(heard) => return heard,
            Err(error) => error,
        };
        tracing::debug!(event = "wait_failed", %error);
        let is_in_doubt = matches!(error, Error::Unavailable(_));
        let in_doubt = standing.filter(|_| is_in_doubt).map(|standing| standing.request);
        if in_doubt.is_none() {
            // Without wake-ups the worker lives on its question once a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Heard { wake: Wake::Timeout, claimed: None, in_doubt }
    }
}
