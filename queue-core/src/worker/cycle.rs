//! The worker's heart: one task that reports ended attempts and claims jobs for free slots, in one
//! request. While a request is out the next batch gathers; once that is worth it, it follows without
//! waiting for the answer, so that neither the store nor the worker waits for the other. A busy
//! worker thus makes few requests, however many jobs they carry.

mod ahead;
mod flight;
mod landing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use self::ahead::{Ahead, HOLD};
use self::flight::Flights;
use super::attempts::{Ended, Gathering, Report};
use super::leases::{Held, Leases};
use super::maintain::Upkeep;
use super::renew::Renewer;
use super::run::{Conditions, attempt};
use super::slots::Slots;
use super::stop::{Phase, Status, StopReport};
use super::waiting::Waiting;
use super::{QueueSelection, Route};
use crate::backend::PASS_MAX;
use crate::handler::CancelSignal;
use crate::telemetry::PairMetrics;
use crate::{
    CancelReason, Claim, ClaimRequest, ClaimToken, Interest, JobSpec, Kind, KindLimits, Lease,
    Outcome, Queue, QueueName, SettleRequest, Settled, Wake, WorkerId, telemetry,
};

/// A worker with a free slot asks the store at least this often, so that a lost wake-up costs no
/// more.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The most requests that are out at a time.
const FLIGHTS_MAX: usize = 2;

/// A request follows another that is out once it reports the jobs of so many of the slots: one in
/// four. Fewer would cost the store more than the wait costs the worker.
const WORTH_A_FLIGHT: usize = 4;

/// How long all slots must be busy before the wait for jobs is exchanged for one for cancel
/// requests only. Short jobs thus cost no change of the wait.
const BUSY_PATIENCE: Duration = Duration::from_millis(100);

/// So many wake-ups in a row may lead to no job before the worker listens less.
const FRUITLESS_FREE: u32 = 4;
const FRUITLESS_PAUSE_MAX: Duration = Duration::from_millis(50);

/// So many times in a row may a time that the store has named bring no job: others were faster, or
/// it was that of a job of another kind. Then the worker believes such times less and less.
const IN_VAIN_FREE: u32 = 8;

/// What a cycle is made of.
pub(super) struct Cycle {
    pub(super) queue: Queue,
    pub(super) id: WorkerId,
    pub(super) selection: QueueSelection,
    pub(super) lease: Duration,
    pub(super) routes: BTreeMap<Kind, Route>,
    pub(super) slots: Slots,
    pub(super) leases: Arc<Leases>,
    pub(super) renewer: Renewer,
    pub(super) conditions: Arc<Conditions>,
    /// A sender too, so that the channel stays open when the worker's owner is gone.
    pub(super) phase: watch::Sender<Phase>,
    pub(super) phase_seen: watch::Receiver<Phase>,
    pub(super) status: Arc<Status>,
    pub(super) upkeep: Arc<Upkeep>,
}

/// A cycle at work.
pub(super) struct Turning {
    set: Cycle,
    ended: mpsc::UnboundedReceiver<Ended>,
    gathering: Arc<Gathering>,
    flights: Flights,
    /// Says now and then that the cycle is not stuck, however long a request is out.
    pulse: Interval,
    /// Ended attempts that no request carries yet.
    pending: VecDeque<Ended>,
    /// Batches of ended attempts that hold one which the store refuses: sent by themselves, and
    /// before anything is claimed.
    suspects: Vec<Vec<Ended>>,
    /// Attempts that the store has settled and that are not counted yet.
    settled: Vec<(Ended, Settled)>,
    /// Claimed jobs that have no slot yet.
    ahead: Ahead,
    /// Claimed jobs that have their slots and are about to start.
    to_start: VecDeque<Held>,
    /// Those of the job that started last: the next one is mostly alike.
    metrics: Option<(QueueName, Kind, Arc<PairMetrics>)>,
    waiting: Waiting,
    /// There may be jobs: ask in the next request.
    ask: bool,
    /// Ask at the latest then.
    ask_at: Instant,
    /// The store has refused to be asked: try again no sooner.
    no_claim_before: Instant,
    /// When the next job may be there, by what the store has said last.
    due_at: Option<Instant>,
    /// How many such times in a row led to no job.
    in_vain: u32,
    /// How many wake-ups in a row led to no job.
    fruitless: u32,
    /// Whether the next claim is because of a wake-up.
    was_woken: bool,
    /// Too many wake-ups were in vain: listen for the next one no sooner.
    no_wait_before: Instant,
    report: StopReport,
}

impl Cycle {
    /// Runs until the worker is stopped and everything is reported.
    pub(super) async fn run(self) -> StopReport {
        let (gathering, ended) = Gathering::new();
        let mut pulse = tokio::time::interval(ASK_INTERVAL);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turning = Turning {
            waiting: Waiting::new(&self.queue),
            set: self,
            ended,
            gathering,
            flights: Flights::default(),
            pulse,
            pending: VecDeque::new(),
            suspects: Vec::new(),
            settled: Vec::new(),
            ahead: Ahead::new(),
            to_start: VecDeque::new(),
            metrics: None,
            ask: true,
            ask_at: Instant::now(),
            no_claim_before: Instant::now(),
            due_at: None,
            in_vain: 0,
            fruitless: 0,
            was_woken: false,
            no_wait_before: Instant::now(),
            report: StopReport::default(),
        };
        turning.turn().await
    }
}

impl Turning {
    async fn turn(mut self) -> StopReport {
        loop {
            while let Ok(ended) = self.ended.try_recv() {
                self.take_in_reported(ended);
            }
            self.set.slots.resize(self.set.status.slots());
            self.set.status.progress(self.set.slots.busy());
            let phase = *self.set.phase_seen.borrow_and_update();
            self.give_back_waiting(phase);
            if self.is_over(phase) {
                self.count_settled();
                return self.report;
            }
            let request = self.next_request(phase);
            let is_sent = request.is_some();
            if let Some((request, carried)) = request {
                self.launch(request, carried).await;
            }
            self.catch_up();
            if is_sent {
                continue;
            }
            if !self.flights.is_empty() {
                self.wait_for_answers(phase).await;
            } else if self.pending.is_empty() || self.hold_until(phase).is_some() {
                // A worker that is stopping gives back at once what it has just claimed.
                self.sleep(phase).await;
            }
        }
    }

    async fn launch(&mut self, request: SettleRequest, carried: Vec<Ended>) {
        if let Some(claim) = &request.claim {
            self.set.slots.ask(claim);
        }
        if let Some(landed) = self.flights.launch(&self.set, request, carried).await {
            self.catch_up();
            self.land(landed);
        }
    }

    /// Waits until a request is answered, or another one may follow it.
    async fn wait_for_answers(&mut self, phase: Phase) {
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

    /// Whether a request may go out beside one that is out.
    fn may_follow(&self) -> bool {
        self.flights.len() < FLIGHTS_MAX
            && self.suspects.is_empty()
            && self.set.status.is_store_up()
    }

    /// How many ended attempts make a request that follows another one.
    fn worth_a_flight(&self) -> usize {
        self.set.slots.total().div_ceil(WORTH_A_FLIGHT).max(1)
    }

    /// Whether the worker has stopped; counts what is lost if it had to stop before it was done.
    fn is_over(&mut self, phase: Phase) -> bool {
        if phase == Phase::Running {
            return false;
        }
        self.waiting.listen_for_cancels_at_most();
        self.stop_if_stopping();
        let unreported = self.pending.len() + self.suspects.iter().map(Vec::len).sum::<usize>();
        let unfinished = self.set.slots.busy() + unreported + self.flights.carried();
        if let Phase::Stopping { give_up_at } = phase
            && Instant::now() >= give_up_at
        {
            self.report.lost += unfinished;
            self.flights.abandon();
            return true;
        }
        unfinished == 0 && self.flights.is_empty()
    }

    /// Tells every job to stop if the worker is stopping. Again each time: a claim that came in
    /// meanwhile is to stop as well.
    fn stop_if_stopping(&self) {
        if matches!(*self.set.phase_seen.borrow(), Phase::Stopping { .. }) {
            self.set.leases.stop_all(CancelReason::Shutdown);
        }
    }

    fn take_in_reported(&mut self, ended: Ended) {
        self.gathering.took();
        self.take_in_ended(ended);
    }

    fn take_in_ended(&mut self, ended: Ended) {
        self.set.slots.give_back(&ended.lease.spec.kind);
        self.set.status.ended(&ended.lease.spec.queue);
        self.ahead.note(&ended);
        self.pending.push_back(ended);
        self.fill_slots();
    }

    /// Gives slots to jobs that have none.
    fn fill_slots(&mut self) {
        while let Some((lease, cancel)) = self.ahead.next(|kind| self.set.slots.has_room(kind)) {
            self.set.slots.take(&lease.spec.kind);
            self.set.status.started(&lease.spec.queue);
            self.to_start.push_back((lease, cancel));
        }
    }

    /// Gives back what has waited for a slot for too long, or waits while the worker stops.
    fn give_back_waiting(&mut self, phase: Phase) {
        for (lease, _) in self.ahead.take_back(phase != Phase::Running) {
            self.pending.push_back(Ended::new(lease, None, Outcome::Released, Duration::ZERO));
        }
    }

    /// Until when the outcomes of short attempts wait for others, if they do: as long as slots have
    /// something to go on with.
    fn hold_until(&self, phase: Phase) -> Option<Instant> {
        let slots = &self.set.slots;
        let may_wait = phase == Phase::Running
            && slots.free() == 0
            && self.ahead.is_well_filled(slots.total())
            && self.pending.len() < PASS_MAX as usize;
        if !may_wait {
            return None;
        }
        let first = self.pending.iter().map(|ended| ended.at).min()?;
        Some(first + HOLD).filter(|until| Instant::now() < *until)
    }

    /// What to send now, if anything, and the attempts that it reports.
    fn next_request(&mut self, phase: Phase) -> Option<(SettleRequest, Vec<Ended>)> {
        let is_worth_it = self.pending.len() >= self.worth_a_flight();
        let may_go_out = self.flights.is_empty() || self.may_follow() && is_worth_it;
        if !may_go_out {
            return None;
        }
        if let Some(suspects) = self.suspects.pop() {
            return Some((settle_request(&suspects, None), suspects));
        }
        if self.hold_until(phase).is_some() {
            return None;
        }
        // Each job that is given back goes to the head of its lane: the first one goes last.
        self.pending.make_contiguous().sort_by_key(|ended| std::cmp::Reverse(ended.lease.fence));
        let carried = self.pending.len().min(PASS_MAX as usize);
        let carried: Vec<Ended> = self.pending.drain(..carried).collect();
        let now = Instant::now();
        let asks = self.ask || !carried.is_empty() || now >= self.ask_at;
        // Not by calls of their own: those who wait for jobs are faster then.
        let is_busy = !carried.is_empty();
        let slots = &self.set.slots;
        let may_be_ahead = is_busy && self.flights.is_empty();
        let ahead = if may_be_ahead { self.ahead.room(slots.total()) } else { 0 };
        let has_room = phase == Phase::Running && slots.free() + ahead > 0;
        // Outcomes first: a store that takes them slowly must not be asked for yet more jobs.
        let may_claim = has_room && self.pending.is_empty() && now >= self.no_claim_before;
        let claim = (asks && may_claim).then(|| self.next_claim(ahead));
        if carried.is_empty() && claim.is_none() {
            return None;
        }
        Some((settle_request(&carried, claim), carried))
    }

    /// For the slots that are free, and `ahead` jobs more.
    fn next_claim(&mut self, ahead: usize) -> ClaimRequest {
        let free = u32::try_from(self.set.slots.free() + ahead).unwrap_or(u32::MAX);
        let waiting = |kind: &Kind| self.ahead.of_kind(kind);
        ClaimRequest {
            token: ClaimToken::random(),
            worker: self.set.id.clone(),
            queues: self.set.selection.next_order(),
            kinds: self.set.slots.per_kind(ahead, waiting),
            max: free.min(PASS_MAX),
            lease: self.set.lease,
        }
    }

    /// Waits until there is something to do.
    async fn sleep(&mut self, phase: Phase) {
        let now = Instant::now();
        let has_room = phase == Phase::Running && self.set.slots.free() > 0;
        let deaf_until = self.no_claim_before.max(self.no_wait_before);
        if has_room && now >= deaf_until {
            self.listen(self.set.slots.free_kinds());
        } else {
            // A wake-up for jobs that this worker cannot take must reach another one.
            self.waiting.listen_for_cancels_at_most();
        }
        let mut tick = now + ASK_INTERVAL;
        let ends = [self.ahead.deadline(), self.hold_until(phase)];
        tick = ends.into_iter().flatten().fold(tick, Instant::min);
        if has_room {
            tick = tick.min(self.ask_at.max(self.no_claim_before));
            tick = if now < deaf_until { tick.min(deaf_until) } else { tick };
        }
        let is_deaf = !self.waiting.is_attached();
        tokio::select! {
            Some(ended) = self.ended.recv() => self.take_in_reported(ended),
            wake = self.waiting.woken() => self.woken(wake),
            () = tokio::time::sleep_until(tick.into()) => {}
            () = tokio::time::sleep(BUSY_PATIENCE), if is_deaf => self.listen(Vec::new()),
            _ = self.set.phase_seen.changed() => {}
        }
    }

    fn listen(&mut self, kinds: Vec<KindLimits>) {
        let worker = self.set.id.clone();
        self.waiting.attach(Interest { worker, queues: self.set.selection.names(), kinds });
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Work => (self.ask, self.was_woken) = (true, true),
            Wake::Cancel => self.set.renewer.renew_all_now(),
            Wake::Timeout => {}
        }
    }

    /// A few wake-ups in vain are usual: another worker was faster, or an earlier job was
    /// scheduled. A store that goes on calling for nothing is listened to less and less.
    fn note_wake_up(&mut self, jobs: usize) {
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
    fn next_ask(&mut self, claim: &Claim, is_empty: bool, sent_at: Instant) -> Duration {
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

    /// Takes in the answer to a claim that was sent at `sent_at`, and the jobs that it brought.
    fn claimed(&mut self, claim: &Claim, held: Vec<Held>, sent_at: Instant) {
        self.ask = claim.more;
        self.note_wake_up(held.len());
        self.ask_at = Instant::now() + self.next_ask(claim, held.is_empty(), sent_at);
        self.set.upkeep.claimed(claim.maintain);
        for ((queue, kind), jobs) in &claim.expired {
            telemetry::expired(queue, kind, *jobs);
        }
        self.ahead.extend(held, claim.more);
        self.fill_slots();
    }

    /// Takes care of what the last answer has brought. The next request goes out before: the store
    /// works on it meanwhile.
    fn catch_up(&mut self) {
        self.count_settled();
        self.start_claimed();
    }

    fn start_claimed(&mut self) {
        while let Some((lease, cancel)) = self.to_start.pop_front() {
            self.start(lease, cancel);
        }
    }

    /// Starts an attempt, or gives the job back at once if the worker is stopping, or the attempt
    /// was to stop before it has begun.
    fn start(&mut self, lease: Arc<Lease>, cancel: CancelSignal) {
        let spec = &lease.spec;
        let told = cancel.reason();
        let runs = *self.set.phase.borrow() == Phase::Running && told.is_none();
        let Some(route) = self.set.routes.get(&spec.kind).filter(|_| runs) else {
            let is_requested = told == Some(CancelReason::Requested);
            let outcome = if is_requested { Outcome::Cancelled } else { Outcome::Released };
            return self.take_in_ended(Ended::new(lease, None, outcome, Duration::ZERO));
        };
        let metrics = metrics_of(&mut self.metrics, spec);
        metrics.wait_seconds.record(lease.claimed_at.since(lease.due_at).as_secs_f64());
        if lease.stalls > 0 {
            metrics.redeliveries.increment(1);
        }
        tracing::debug!(
            event = "attempt_started",
            job_id = %spec.id,
            queue = %spec.queue,
            kind = %spec.kind,
            attempt = lease.attempt(),
        );
        let report = Report::new(Arc::clone(&lease), metrics, Arc::clone(&self.gathering));
        let route = (Arc::clone(&route.executor), route.limits.clone());
        let conditions = Arc::clone(&self.set.conditions);
        tokio::spawn(attempt(route, lease, cancel, conditions, report));
    }
}

/// The metrics of a job, looked up if they are not those of the one before it.
fn metrics_of(
    last: &mut Option<(QueueName, Kind, Arc<PairMetrics>)>,
    spec: &JobSpec,
) -> Arc<PairMetrics> {
    if let Some((queue, kind, metrics)) = last
        && (&*queue, &*kind) == (&spec.queue, &spec.kind)
    {
        return Arc::clone(metrics);
    }
    let metrics = telemetry::of_pair(&spec.queue, &spec.kind);
    *last = Some((spec.queue.clone(), spec.kind.clone(), Arc::clone(&metrics)));
    metrics
}

fn settle_request(carried: &[Ended], claim: Option<ClaimRequest>) -> SettleRequest {
    let settlements = carried.iter().map(|ended| ended.settlement.clone()).collect();
    SettleRequest { settlements, claim }
}
