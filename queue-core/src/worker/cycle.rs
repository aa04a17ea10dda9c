//! The worker's heart: one task that reports ended attempts and claims jobs for free slots, in one
//! request. While a request is out the next batch gathers; once that is worth it, it follows without
//! waiting for the answer, so that neither the store nor the worker waits for the other. A busy
//! worker thus makes few requests, however many jobs they carry.

mod ahead;
mod flight;
mod idle;
mod landing;
mod pace;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use self::ahead::Ahead;
use self::flight::Flights;
use self::pace::Pace;
use super::attempts::{Ended, Gathering, Report};
use super::leases::{Held, Leases};
use super::maintain::Upkeep;
use super::renew::Renewer;
use super::run::{Conditions, attempt};
use super::slots::Slots;
use super::starts::Starts;
use super::stop::{LAST_WORDS_MAX, Phase, Status, StopReport};
use super::waiting::Waiting;
use super::{QueueSelection, Route};
use crate::handler::CancelSignal;
use crate::telemetry::PairMetrics;
use crate::{
    CancelReason, Claim, ClaimRequest, JobSpec, Kind, Lease, Outcome, Queue, QueueName,
    SettleRequest, Settled, WorkerId, telemetry,
};

/// A worker with a free slot asks the store at least this often, so that a lost wake-up costs no
/// more. Its cycle turns as often, or as its leases want it (rescue.rs).
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long at least a stopping worker waits for the answer to a claim if nothing else is left.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(1);

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
    pub(super) starts: Arc<Starts>,
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
    pace: Pace,
    /// Claimed jobs that have their slots and are about to start.
    to_start: VecDeque<Held>,
    /// Those of the job that started last: the next one is mostly alike.
    metrics: Option<(QueueName, Kind, Arc<PairMetrics>)>,
    waiting: Waiting,
    /// A claim that the store may have made, to be made again.
    in_doubt: Option<Arc<ClaimRequest>>,
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
    /// Since when the worker is stopping and nothing runs any more.
    quiet_since: Option<Instant>,
    report: StopReport,
}

/// The cycle of a worker with such leases turns at least once in this time, unless its thread is blocked.
pub(super) fn turns_within(lease: Duration) -> Duration {
    ASK_INTERVAL.min(lease / 8)
}

impl Cycle {
    /// Runs until the worker is stopped and everything is reported.
    pub(super) async fn run(self) -> StopReport {
        let (gathering, ended) = Gathering::new();
        let mut pulse = tokio::time::interval(turns_within(self.lease));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turning = Turning {
            waiting: Waiting::new(&self.queue, &self.leases),
            set: self,
            ended,
            gathering,
            flights: Flights::default(),
            pulse,
            pending: VecDeque::new(),
            suspects: Vec::new(),
            settled: Vec::new(),
            ahead: Ahead::new(),
            pace: Pace::new(Instant::now()),
            to_start: VecDeque::new(),
            metrics: None,
            in_doubt: None,
            ask: true,
            ask_at: Instant::now(),
            no_claim_before: Instant::now(),
            due_at: None,
            in_vain: 0,
            fruitless: 0,
            was_woken: false,
            no_wait_before: Instant::now(),
            quiet_since: None,
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
            if self.set.leases.gave_back() {
                // What a claim brings that was given back would be given back as well: another one takes its place.
                self.waiting.revoke_unless(|_| false);
            }
            if self.is_over(phase) {
                self.count_settled();
                return self.report;
            }
            let request = self.next_request(phase);
            let is_sent = request.is_some();
            if let Some((request, carried)) = request {
                self.launch(request, carried).await;
            }
            let is_idle = !is_sent && self.flights.is_empty() && self.pending.is_empty();
            if is_idle && !self.to_start.is_empty() {
                self.listen_before_start(phase);
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

    /// Whether the worker has stopped; counts what is lost if it had to stop before it was done.
    fn is_over(&mut self, phase: Phase) -> bool {
        if phase == Phase::Running {
            return false;
        }
        self.waiting.listen_for_cancels_at_most();
        self.stop_if_stopping();
        let unreported = self.pending.len() + self.suspects.iter().map(Vec::len).sum::<usize>();
        let unfinished = self.set.slots.busy() + unreported + self.flights.carried();
        if self.gives_up(phase, unfinished > 0) {
            self.report.give_up(unfinished);
            // Requests that are out are not sent again.
            self.set.phase.send_replace(Phase::Stopping { give_up_at: Instant::now() });
            self.flights.abandon();
            return true;
        }
        unfinished == 0 && self.flights.is_empty() && !self.waiting.may_bring_jobs()
    }

    /// Whether a worker that is stopping waits no longer for the store's answers: to what it has reported, or only
    /// to a claim, which may have got jobs that would have to wait for the end of their lease.
    fn gives_up(&mut self, phase: Phase, has_unfinished: bool) -> bool {
        let now = Instant::now();
        let is_quiet = self.set.slots.busy() == 0;
        self.quiet_since = is_quiet.then(|| self.quiet_since.unwrap_or(now));
        let quiet_for = self.quiet_since.map(|since| now - since);
        match phase {
            Phase::Running => false,
            Phase::Draining => !has_unfinished && quiet_for >= Some(LAST_WORDS_MAX),
            Phase::Stopping { give_up_at } => {
                let patience = if has_unfinished { LAST_WORDS_MAX } else { LAST_ANSWER_MAX };
                now >= give_up_at || quiet_for >= Some(patience)
            }
        }
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
        self.pace.note(&ended);
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

    /// Takes in the answer to a claim that was sent at `sent_at`, and the jobs that it brought.
    fn claimed(&mut self, claim: &Claim, held: Vec<Held>, sent_at: Instant) {
        self.ask = claim.more;
        if claim.was_reset {
            self.set.status.set_reset(true);
            self.ask = true;
            // What runs has lost its lease, and hears of it by that.
            self.set.renewer.renew_all_now();
        }
        self.note_wake_up(held.len());
        self.ask_at = Instant::now() + self.next_ask(claim, held.is_empty(), sent_at);
        self.set.upkeep.claimed(claim.maintain);
        for ((queue, kind), jobs) in &claim.expired {
            telemetry::expired(queue, kind, *jobs);
        }
        self.ahead.extend(held, claim.more, claim.spare);
        self.fill_slots();
        let slots = &self.set.slots;
        self.waiting.revoke_unless(|claim| slots.can_take(claim));
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
        self.set.starts.go();
    }

    /// Starts an attempt, or gives the job back at once if the worker is stopping, or the attempt
    /// was to stop before it has begun.
    fn start(&mut self, lease: Arc<Lease>, cancel: CancelSignal) {
        let spec = &lease.spec;
        let told = cancel.reason();
        let may_begin = told.is_none() && !cancel.is_taken_back();
        let runs = *self.set.phase.borrow() == Phase::Running && may_begin;
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
        self.set.starts.add(attempt(route, lease, cancel, conditions, report));
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
