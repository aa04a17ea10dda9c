//! What the cycle waits for while it has nothing to send.

use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::{ASK_INTERVAL, Turning, turns_within};
use crate::worker::stop::Phase;
use crate::worker::waiting::Heard;
use crate::{Claim, Interest, KindLimits, Wake};

/// How long all slots must be busy before the wait for jobs is exchanged for one for cancel
/// requests only. Short jobs thus cost no change of the wait.
const BUSY_PATIENCE: Duration = Duration::from_millis(100);

/// So many wake-ups in a row may lead to no job before the worker listens less.
const FRUITLESS_FREE: u32 = 4;
const FRUITLESS_PAUSE_MAX: Duration = Duration::from_millis(50);

/// So many times in a row may a time that the store has named bring no job: others were faster, or
/// it was that of a job of another kind. Then the worker believes such times less and less.
const IN_VAIN_FREE: u32 = 8;

/// Lets the tasks run first that stand in the thread's line already. Attempts that wait for the same moment
/// end one right after the other, and whoever is told of the first end comes before the second: one request
/// would report a single attempt, and the next one all others.
///
/// Not `yield_now`, which waits for a look at the sockets as well, where no other thread can take the task over
/// if one that is before it blocks.
async fn behind_others() {
    let mut is_behind = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Turning {
    /// Waits until a request is answered, or another one may follow it.
    pub(super) async fn wait_for_answers(&mut self, phase: Phase) {
        let give_up = async {
            match phase {
                Phase::Stopping { give_up_at } => {
                    tokio::time::sleep_until(give_up_at.into()).await;
                }
                _ => std::future::pending().await,
            }
        };
        let enough = self.worth_a_flight().saturating_sub(self.pending.len());
        let held_until = self.hold_until(phase);
        let may_follow = self.may_follow();
        let ends = [self.ahead.deadline(), held_until.filter(|_| may_follow)];
        let tick = ends.into_iter().flatten().min();
        tokio::select! {
            landed = self.flights.landed() => self.land(landed),
            // Its jobs are leased, and nobody renews them before they are here.
            heard = self.waiting.woken() => self.woken(heard),
            // A slot that gets free need not wait for the store if a job waits for it.
            Some(ended) = self.ended.recv(), if !self.ahead.is_empty() => self.take_in_reported(ended),
            () = self.gathering.reaches(enough), if may_follow && held_until.is_none() => {}
            () = tokio::time::sleep_until(tick.unwrap_or_else(Instant::now).into()), if tick.is_some() => {}
            // Jobs that run hear of the stop even while the store does not answer.
            _ = self.set.phase_seen.changed() => self.stop_if_stopping(),
            _ = self.pulse.tick() => {}
            () = give_up => {}
        }
    }

    /// Listens for jobs before those start that have come, if it is about to do so anyway: a thread
    /// of the runtime goes on with the task that was woken last, which is then a job and not what
    /// listens.
    pub(super) fn listen_before_start(&mut self, phase: Phase) {
        if !self.has_room(phase) || Instant::now() < self.deaf_until() {
            return;
        }
        self.listen(self.set.slots.free_kinds());
        // The first poll lets the call go out.
        if let Some(heard) = self.waiting.woken().now_or_never() {
            self.woken(heard);
        }
    }

    fn has_room(&self, phase: Phase) -> bool {
        self.may_take_jobs(phase) && self.set.slots.free() > 0
    }

    fn deaf_until(&self) -> Instant {
        self.no_claim_before.max(self.no_wait_before)
    }

    /// Waits until there is something to do.
    pub(super) async fn sleep(&mut self, phase: Phase) {
        let now = Instant::now();
        let (has_room, deaf_until) = (self.has_room(phase), self.deaf_until());
        if has_room && now >= deaf_until {
            self.listen(self.set.slots.free_kinds());
        } else {
            // A wake-up for jobs that this worker cannot take must reach another one.
            self.waiting.listen_for_cancels_at_most();
        }
        let mut tick = now + turns_within(self.set.lease);
        let ends = [self.ahead.deadline(), self.hold_until(phase)];
        tick = ends.into_iter().flatten().fold(tick, Instant::min);
        if has_room {
            tick = tick.min(self.ask_at.max(self.no_claim_before));
            tick = if now < deaf_until { tick.min(deaf_until) } else { tick };
        }
        let is_deaf = !self.waiting.is_attached();
        tokio::select! {
            Some(ended) = self.ended.recv() => {
                self.take_in_reported(ended);
                if self.set.slots.busy() > 0 {
                    behind_others().await;
                }
            }
            heard = self.waiting.woken() => self.woken(heard),
            () = tokio::time::sleep_until(tick.into()) => {}
            () = tokio::time::sleep(BUSY_PATIENCE), if is_deaf => self.listen(Vec::new()),
            _ = self.set.phase_seen.changed() => {}
        }
    }

    pub(super) fn listen(&mut self, kinds: Vec<KindLimits>) {
        let worker = self.set.id.clone();
        let interest = Interest { worker, queues: self.set.selection.names(), kinds };
        if self.waiting.needs(&interest, |claim| self.set.slots.can_take(claim)) {
            let claim = (!interest.kinds.is_empty()).then(|| self.standing_claim());
            self.waiting.attach(interest, claim);
        }
    }

    fn woken(&mut self, heard: Heard) {
        match heard.wake {
            // Nothing is to be asked for if the jobs have come as well.
            Wake::Work => (self.ask, self.was_woken) = (true, true),
            Wake::Cancel => self.set.renewer.renew_all_now(),
            Wake::Timeout => {}
        }
        if let Some((claim, held, claimed_at)) = heard.claimed {
            self.claimed(&claim, held, claimed_at);
        }
        self.in_doubt = heard.in_doubt.or(self.in_doubt.take());
    }

    /// A few wake-ups in vain are usual: another worker was faster, or an earlier job was
    /// scheduled. A store that goes on calling for nothing is listened to less and less.
    pub(super) fn note_wake_up(&mut self, jobs: usize) {
        let was_woken = std::mem::take(&mut self.was_woken);
        match (jobs, was_woken) {
            (1.., _) => self.fruitless = 0,
            (0, false) => {}
            (0, true) => {
                self.fruitless = self.fruitless.saturating_add(1);
                let excess = self.fruitless.saturating_sub(FRUITLESS_FREE).min(16);
                if excess > 0 {
                    let pause = Duration::from_millis(1 << excess).min(FRUITLESS_PAUSE_MAX);
                    self.no_wait_before = Instant::now() + pause;
                }
            }
        }
    }

    /// In what time to ask again if nothing happens, after the answer to a claim that was sent at
    /// `sent_at`.
    pub(super) fn next_ask(&mut self, claim: &Claim, is_empty: bool, sent_at: Instant) -> Duration {
        let was_due = self.due_at.is_some_and(|due_at| due_at <= sent_at);
        self.in_vain = match (is_empty, was_due) {
            (true, true) => self.in_vain.saturating_add(1),
            (true, false) => self.in_vain,
            (false, _) => 0,
        };
        let next_due = claim.next_due.filter(|next_due| *next_due < ASK_INTERVAL);
        // Due times are whole milliseconds: ask when that millisecond has begun.
        let pause = next_due.unwrap_or(ASK_INTERVAL) + Duration::from_millis(1);
        self.due_at = next_due.map(|_| Instant::now() + pause);
        let excess = self.in_vain.saturating_sub(IN_VAIN_FREE).min(16);
        let patience = Duration::from_millis(1 << excess).min(FRUITLESS_PAUSE_MAX);
        if excess > 0 { pause.max(patience) } else { pause }
    }
}
