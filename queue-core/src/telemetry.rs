//! Every metric of the library, described once. They go to the `metrics` facade: without a
//! recorder they cost next to nothing.
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `queue_enqueued_total` | counter | queue, kind, result: created, duplicate, conflict, refused |
//! | `queue_wait_seconds` | histogram | queue, kind: from due to start |
//! | `queue_run_seconds` | histogram | queue, kind, outcome |
//! | `queue_finished_total` | counter | queue, kind, outcome: completed, retried, dead, cancelled, snoozed, throttled, released, lease_lost; expired: jobs that were not started in time |
//! | `queue_redeliveries_total` | counter | queue: jobs started again after an expired lease |
//! | `queue_stale_settles_total` | counter | queue: outcomes that came too late to count |
//! | `queue_leases_expired_total` | counter | queue: jobs taken back from expired leases |
//! | `queue_store_op_seconds` | histogram | op: enqueue, claim, settle and so on; result: ok, unavailable, error |
//! | `queue_store_reconnects_total` | counter | – : connections to the store that were made again |
//! | `queue_store_up` | gauge | – : whether the last call of the worker reached the store |
//!
//! Queues and kinds of label values are bounded: after [`LABEL_PAIRS_MAX`] different pairs of a
//! process, further ones are counted as `other`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Once, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

use crate::{EnqueueOutcome, Error, Kind, LimitKey, NewJob, QueueName};

/// The most pairs of queue and kind that get label values of their own.
pub const LABEL_PAIRS_MAX: usize = 1000;

/// Describes every metric to the recorder; only the first call does anything.
pub(crate) fn describe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use metrics::{describe_counter as counter, describe_gauge as gauge};
        counter!("queue_enqueued_total", "Jobs enqueued, by result.");
        counter!("queue_finished_total", "Attempts ended, and jobs expired, by outcome.");
        counter!("queue_redeliveries_total", "Attempts started after an expired lease.");
        counter!("queue_stale_settles_total", "Outcomes that came too late to count.");
        counter!("queue_leases_expired_total", "Jobs taken back from expired leases.");
        counter!("queue_store_reconnects_total", "Connections to the store made again.");
        counter!("queue_throttled_total", "Times that a limit key was closed, by key.");
        gauge!("queue_store_up", "Whether the worker's last call reached the store.");
        let seconds = Unit::Seconds;
        metrics::describe_histogram!("queue_store_op_seconds", seconds, "Calls of the store.");
        metrics::describe_histogram!("queue_wait_seconds", seconds, "From due to start.");
        metrics::describe_histogram!("queue_run_seconds", seconds, "From start to outcome.");
    });
}

/// How an enqueue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnqueueResult {
    Created,
    Duplicate,
    Conflict,
    Refused,
}

impl EnqueueResult {
    pub(crate) const fn of(outcome: &EnqueueOutcome) -> Self {
        match outcome {
            EnqueueOutcome::Done(enqueued) if enqueued.duplicate => Self::Duplicate,
            EnqueueOutcome::Done(_) => Self::Created,
            EnqueueOutcome::Conflict { .. } => Self::Conflict,
            EnqueueOutcome::Full { .. } => Self::Refused,
        }
    }

    const NAMES: [&str; 4] = ["created", "duplicate", "conflict", "refused"];
}

/// How an attempt ended, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    Completed,
    Retried,
    Dead,
    Cancelled,
    Snoozed,
    Throttled,
    Released,
    LeaseLost,
}

impl AttemptEnd {
    const NAMES: [&str; 8] = [
        "completed",
        "retried",
        "dead",
        "cancelled",
        "snoozed",
        "throttled",
        "released",
        "lease_lost",
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The handles of one queue and kind, resolved once.
#[derive(Debug)]
pub(crate) struct PairMetrics {
    enqueued: [Counter; 4],
    finished: [Counter; 8],
    run_seconds: [Histogram; 8],
    pub(crate) wait_seconds: Histogram,
    /// Jobs that were not started in time, which no attempt has ended.
    expired: Counter,
    pub(crate) redeliveries: Counter,
    pub(crate) stale_settles: Counter,
}

impl PairMetrics {
    fn new(queue: &str, kind: &str) -> Self {
        let queue = queue.to_owned();
        let kind = kind.to_owned();
        Self {
            enqueued: EnqueueResult::NAMES.map(|result| {
                counter!("queue_enqueued_total",
                    "queue" => queue.clone(), "kind" => kind.clone(), "result" => result)
            }),
            finished: AttemptEnd::NAMES.map(|outcome| {
                counter!("queue_finished_total",
                    "queue" => queue.clone(), "kind" => kind.clone(), "outcome" => outcome)
            }),
            run_seconds: AttemptEnd::NAMES.map(|outcome| {
                histogram!("queue_run_seconds",
                    "queue" => queue.clone(), "kind" => kind.clone(), "outcome" => outcome)
            }),
            wait_seconds: histogram!("queue_wait_seconds",
                "queue" => queue.clone(), "kind" => kind.clone()),
            expired: counter!("queue_finished_total",
                "queue" => queue.clone(), "kind" => kind, "outcome" => "expired"),
            redeliveries: counter!("queue_redeliveries_total", "queue" => queue.clone()),
            stale_settles: counter!("queue_stale_settles_total", "queue" => queue),
        }
    }

    pub(crate) fn ended(&self, end: AttemptEnd, elapsed_seconds: f64) {
        self.finished[end as usize].increment(1);
        self.run_seconds[end as usize].record(elapsed_seconds);
    }
}

type Pairs = HashMap<QueueName, HashMap<Kind, Arc<PairMetrics>>>;

/// The handles of a queue and kind.
pub(crate) fn of_pair(queue: &QueueName, kind: &Kind) -> Arc<PairMetrics> {
    static PAIRS: LazyLock<RwLock<Pairs>> = LazyLock::new(RwLock::default);
    static OTHER: LazyLock<Arc<PairMetrics>> =
        LazyLock::new(|| Arc::new(PairMetrics::new("other", "other")));
    let known = PAIRS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(metrics) = known.get(queue).and_then(|kinds| kinds.get(kind)) {
        return Arc::clone(metrics);
    }
    let is_full = known.values().map(HashMap::len).sum::<usize>() >= LABEL_PAIRS_MAX;
    drop(known);
    if is_full {
        return Arc::clone(&OTHER);
    }
    let mut pairs = PAIRS.write().unwrap_or_else(PoisonError::into_inner);
    let metrics = pairs.entry(queue.clone()).or_default().entry(kind.clone());
    Arc::clone(metrics.or_insert_with(|| Arc::new(PairMetrics::new(queue.as_str(), kind.as_str()))))
}

/// Counts the jobs of one call by what came of them.
pub(crate) fn enqueued(jobs: &[NewJob], answer: &Result<Vec<EnqueueOutcome>, Error>) {
    let outcomes = answer.as_deref().unwrap_or_default();
    let mut results = outcomes.iter().map(EnqueueResult::of);
    // Neighbours are mostly alike, and a look at the metrics of a pair is not for nothing.
    for alike in
        jobs.chunk_by(|a, b| (&a.spec.queue, &a.spec.kind) == (&b.spec.queue, &b.spec.kind))
    {
        let mut counts = [0; EnqueueResult::NAMES.len()];
        for _ in alike {
            counts[results.next().unwrap_or(EnqueueResult::Refused) as usize] += 1;
        }
        let metrics = of_pair(&alike[0].spec.queue, &alike[0].spec.kind);
        for (counter, jobs) in metrics.enqueued.iter().zip(counts).filter(|(_, jobs)| *jobs > 0) {
            counter.increment(jobs);
        }
    }
}

/// Records one call of a store.
pub(crate) fn store_op(op: &'static str, error: Option<&Error>, took: Duration) {
    type Handles = RwLock<HashMap<(&'static str, &'static str), Histogram>>;
    static HANDLES: LazyLock<Handles> = LazyLock::new(RwLock::default);
    let result = match error {
        None => "ok",
        Some(Error::Unavailable(_)) => "unavailable",
        Some(_) => "error",
    };
    let seconds = took.as_secs_f64();
    let known = HANDLES.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = known.get(&(op, result)) {
        return handle.record(seconds);
    }
    drop(known);
    let handle = histogram!("queue_store_op_seconds", "op" => op, "result" => result);
    handle.record(seconds);
    let mut handles = HANDLES.write().unwrap_or_else(PoisonError::into_inner);
    handles.insert((op, result), handle);
}

/// A provider turned a job away, and this key was closed for it. Only keys that workers add have
/// labels of their own: those are configured.
pub(crate) fn throttled(key: Option<&LimitKey>) {
    let key = key.map_or_else(|| "other".to_owned(), ToString::to_string);
    counter!("queue_throttled_total", "key" => key, "reason" => "provider").increment(1);
}

/// Jobs of a queue were taken back; of one that cannot be read it is not known which.
pub(crate) fn leases_expired(queue: Option<&QueueName>, jobs: u64) {
    static KNOWN: LazyLock<RwLock<HashSet<QueueName>>> = LazyLock::new(RwLock::default);
    // Any worker takes back jobs of any queue, so these may be many.
    let is_known = |queue: &QueueName| {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(queue) || known.len() >= LABEL_PAIRS_MAX {
            return known.contains(queue);
        }
        drop(known);
        KNOWN.write().unwrap_or_else(PoisonError::into_inner).insert(queue.clone());
        true
    };
    let queue = queue.filter(|queue| is_known(queue)).map_or("other", QueueName::as_str);
    counter!("queue_leases_expired_total", "queue" => queue.to_owned()).increment(jobs);
}

/// Jobs that no claim may start any more.
pub(crate) fn expired(queue: &QueueName, kind: &Kind, jobs: u64) {
    of_pair(queue, kind).expired.increment(jobs);
}

pub(crate) fn store_up() -> Gauge {
    gauge!("queue_store_up")
}
