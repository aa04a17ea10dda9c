//! The worker's heart: one task that reports ended attempts and claims jobs for free slots, one
//! round trip at a time. While a round trip is out, the next batch gathers; a busy worker thus
//! makes one round trip per cycle, however many jobs it carries.

mod round_trip;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::attempts::{Ended, Report};
use super::leases::Leases;
use super::renew::Renewer;
use super::run::{Conditions, attempt};
use super::slots::Slots;
use super::stop::{Phase, Status, StopReport};
use super::waiting::Waiting;
use super::{QueueSelection, Route};
use crate::backend::PASS_MAX;
use crate::handler::CancelSignal;
use crate::{
    CancelReason, Claim, ClaimRequest, ClaimToken, Interest, Kind, Lease, Outcome, Queue,
    SettleRequest, Wake, WorkerId, telemetry,
};

/// A worker with a free slot asks the store at least this often, so that a lost wake-up costs no
/// more.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How long all slots must be busy before the wait for jobs is exchanged for one for cancel
/// requests only. Short jobs thus cost no change of the wait.
const BUSY_PATIENCE: Duration = Duration::from_millis(100);

/// What a cycle is made of.
pub(super) struct Cycle {
    pub(super) queue: Queue,
    pub(super) id: WorkerId,
    pub(super) selection: QueueSelection,
    pub(super) lease: Duration,
    pub(super) routes: HashMap<Kind, Route>,
    pub(super) slots: Slots,
    pub(super) leases: Arc<Leases>,
    pub(super) renewer: Renewer,
    pub(super) conditions: Conditions,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) status: Arc<Status>,
    pub(super) maintain_due: Arc<Notify>,
    pub(super) claimed: Arc<Notify>,
}

/// A cycle at work.
pub(super) struct Turning {
    set: Cycle,
    ended: mpsc::UnboundedReceiver<Ended>,
    ended_sender: mpsc::UnboundedSender<Ended>,
    /// Ended attempts that no request carries yet.
    pending: VecDeque<Ended>,
    /// The most settlements of a request; 1 while a bad one is being singled out.
    batch_max: usize,
    waiting: Waiting,
    /// There may be jobs: ask in the next request.
    ask: bool,
    /// Ask at the latest then.
    ask_at: Instant,
    /// The store has refused to be asked: try again no sooner.
    no_claim_before: Instant,
    report: StopReport,
}

impl Cycle {
    /// Runs until the worker is stopped and everything is reported.
    pub(super) async fn run(self) -> StopReport {
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let turning = Turning {
            waiting: Waiting::new(&self.queue),
            set: self,
            ended,
            ended_sender,
            pending: VecDeque::new(),
            batch_max: PASS_MAX as usize,
            ask: true,
            ask_at: Instant::now(),
            no_claim_before: Instant::now(),
            report: StopReport::default(),
        };
        turning.turn().await
    }
}

impl Turning {
    async fn turn(mut self) -> StopReport {
        loop {
            while let Ok(ended) = self.ended.try_recv() {
                self.take_in_ended(ended);
            }
            self.set.status.progress(self.set.slots.busy());
            let phase = *self.set.phase.borrow_and_update();
            if self.is_over(phase) {
                return self.report;
            }
            match self.next_request(phase) {
                Some((request, carried)) => self.round_trip(request, carried).await,
                None => self.sleep(phase).await,
            }
        }
    }

    /// Whether the worker has stopped; counts what is lost if it had to stop before it was done.
    fn is_over(&mut self, phase: Phase) -> bool {
        if phase == Phase::Running {
            return false;
        }
        self.waiting.detach();
        let Phase::Stopping { give_up_at } = phase else {
            return self.set.slots.busy() == 0 && self.pending.is_empty();
        };
        // Again each time: a claim that came in meanwhile is also to stop.
        self.set.leases.stop_all(CancelReason::Shutdown);
        let unfinished = self.set.slots.busy() + self.pending.len();
        if Instant::now() >= give_up_at {
            self.report.lost += unfinished;
            return true;
        }
        unfinished == 0
    }

    fn take_in_ended(&mut self, ended: Ended) {
        self.set.slots.give_back(&ended.lease.spec.kind);
        self.pending.push_back(ended);
    }

    /// What to send now, if anything, and the attempts that it reports.
    fn next_request(&mut self, phase: Phase) -> Option<(SettleRequest, Vec<Ended>)> {
        let carried = self.pending.len().min(self.batch_max);
        let mut carried: Vec<Ended> = self.pending.drain(..carried).collect();
        // Each job that is given back goes to the head of its lane: the first one goes last.
        carried.sort_by_key(|ended| std::cmp::Reverse(ended.lease.fence));
        let now = Instant::now();
        let asks = self.ask || !carried.is_empty() || now >= self.ask_at;
        let has_room = phase == Phase::Running && self.set.slots.free() > 0;
        let may_claim = has_room && now >= self.no_claim_before;
        let claim = (asks && may_claim).then(|| self.next_claim());
        if carried.is_empty() && claim.is_none() {
            return None;
        }
        let settlements = carried.iter().map(|ended| ended.settlement.clone()).collect();
        Some((SettleRequest { settlements, claim }, carried))
    }

    fn next_claim(&mut self) -> ClaimRequest {
        let free = u32::try_from(self.set.slots.free()).unwrap_or(u32::MAX);
        ClaimRequest {
            token: ClaimToken::random(),
            worker: self.set.id.clone(),
            queues: self.set.selection.next_order(),
            kinds: self.set.slots.per_kind(),
            max: free.min(PASS_MAX),
            lease: self.set.lease,
        }
    }

    /// Waits until there is something to do.
    async fn sleep(&mut self, phase: Phase) {
        let running = phase == Phase::Running;
        let has_room = running && self.set.slots.free() > 0;
        if has_room {
            self.wait_for(self.set.slots.free_kinds());
        } else {
            // A wake-up for jobs that this worker cannot take must reach another one.
            self.waiting.detach();
        }
        let tick = Instant::now() + ASK_INTERVAL;
        let next_claim = self.ask_at.max(self.no_claim_before);
        let tick = if has_room { tick.min(next_claim) } else { tick };
        tokio::select! {
            Some(ended) = self.ended.recv() => self.take_in_ended(ended),
            wake = self.waiting.woken() => self.woken(wake),
            () = tokio::time::sleep_until(tick.into()) => {}
            () = tokio::time::sleep(BUSY_PATIENCE), if running && !has_room => {
                self.wait_while_full().await;
            }
            _ = self.set.phase.changed() => {}
        }
    }

    /// All slots are busy for a while: waits for one to end, and for cancel requests.
    async fn wait_while_full(&mut self) {
        self.wait_for(Vec::new());
        tokio::select! {
            Some(ended) = self.ended.recv() => self.take_in_ended(ended),
            wake = self.waiting.woken() => self.woken(wake),
            () = tokio::time::sleep(ASK_INTERVAL) => {}
            _ = self.set.phase.changed() => {}
        }
    }

    fn wait_for(&mut self, kinds: Vec<Kind>) {
        let worker = self.set.id.clone();
        self.waiting.attach(Interest { worker, queues: self.set.selection.names(), kinds });
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Work => self.ask = true,
            Wake::Cancel => self.set.renewer.renew_all_now(),
            Wake::Timeout => {}
        }
    }

    /// Takes in the answer to a claim that was sent at `sent_at`.
    fn claimed(&mut self, claim: Claim, sent_at: Instant) {
        self.ask = claim.more;
        let next_due = claim.next_due.unwrap_or(ASK_INTERVAL).min(ASK_INTERVAL);
        // Due times are whole milliseconds: ask when that millisecond has begun.
        self.ask_at = Instant::now() + next_due + Duration::from_millis(1);
        self.set.claimed.notify_one();
        if claim.maintain {
            self.set.maintain_due.notify_one();
        }
        let Some(token) = claim.leases.first().map(|lease| lease.token) else { return };
        let leases: Vec<(Arc<Lease>, CancelSignal)> =
            claim.leases.into_iter().map(|l| (Arc::new(l), CancelSignal::default())).collect();
        let signals = leases.iter().map(|(lease, cancel)| (lease.spec.id, cancel.clone()));
        self.set.leases.add(token, sent_at, signals);
        self.set.renewer.claim_added();
        for (lease, cancel) in leases {
            self.start(lease, cancel);
        }
    }

    /// Starts an attempt, or gives the job back at once if the worker is stopping.
    fn start(&mut self, lease: Arc<Lease>, cancel: CancelSignal) {
        let spec = &lease.spec;
        let metrics = telemetry::of_pair(&spec.queue, &spec.kind);
        let runs = *self.set.phase.borrow() == Phase::Running;
        let Some(route) = self.set.routes.get(&spec.kind).filter(|_| runs) else {
            self.pending.push_back(Ended::new(lease, Outcome::Released, Duration::ZERO));
            return;
        };
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
        self.set.slots.take(&spec.kind);
        let report = Report::new(Arc::clone(&lease), self.ended_sender.clone());
        let executor = Arc::clone(&route.executor);
        let conditions = self.set.conditions.clone();
        tokio::spawn(attempt(executor, lease, cancel, conditions, report));
    }
}
