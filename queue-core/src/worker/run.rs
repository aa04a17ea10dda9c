//! One attempt: runs the executor, keeps its time, and says how it ended.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempts::Report;
use super::panics::{caught, caught_now};
use super::reports::send_last;
use crate::duration::deadline;
use crate::handler::{
    CancelSignal, Context, DynExecutor, Fail, Reporter, States, THROTTLE_MAX, Then,
};
use crate::payload::RESULT_MAX_BYTES;
use crate::{CancelReason, ErrorKind, JobError, Lease, LimitKeys, Outcome, Payload, Queue};

/// What every attempt of a worker shares.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) states: Arc<States>,
    /// How long an attempt may take to stop once it was told to.
    pub(super) cancel_grace: Duration,
    /// The same once its lease is lost: from then on another worker may run the job.
    pub(super) lost_grace: Duration,
    pub(super) queue: Queue,
    /// To the task that sends what attempts report.
    pub(super) outbox: mpsc::UnboundedSender<Reporter>,
    /// Fires when nothing may go on, not even for the grace.
    pub(super) abort: CancellationToken,
}

/// How the future of an attempt came to its end.
enum End {
    /// It answered.
    Answered(Result<Option<Payload>, Fail>),
    /// It panicked.
    Panicked(String),
    /// It was told to stop, did not, and was dropped.
    Dropped,
}

/// Runs one attempt and reports its outcome.
pub(super) async fn attempt(
    route: (Arc<dyn DynExecutor>, LimitKeys),
    lease: Arc<Lease>,
    cancel: CancelSignal,
    conditions: Arc<Conditions>,
    report: Report,
) {
    if !cancel.begin() {
        return report.send_not_begun();
    }
    let (executor, limits) = route;
    let deadline = deadline(lease.spec.options.timeout);
    let reporter = Reporter::new(lease.spec.id, lease.token, conditions.outbox.clone());
    let states = Arc::clone(&conditions.states);
    let context =
        Context::new(Arc::clone(&lease), deadline, cancel.clone(), states, reporter.clone());
    let end = watched(executor.as_ref(), context, deadline, &cancel, &conditions).await;
    if let Some(told) = reporter.take_up()
        && cancel.reason() != Some(CancelReason::LeaseLost)
        && !conditions.abort.is_cancelled()
    {
        Box::pin(send_last(&conditions.queue, &reporter, told)).await;
    }
    report.send(outcome(&lease, end, cancel.reason(), limits));
}

/// Runs the executor until it answers, or until it had to stop and its grace is over.
async fn watched(
    executor: &dyn DynExecutor,
    context: Context,
    deadline: Instant,
    cancel: &CancelSignal,
    conditions: &Conditions,
) -> End {
    // The executor is called inside: the part before its first await may panic, too.
    let mut run = Box::pin(caught(async move { executor.run_boxed(context).await }));
    let first = std::future::poll_fn(|context| Poll::Ready(run.as_mut().poll(context)));
    let end = match first.await {
        Poll::Ready(answer) => answered(answer),
        // In a box: attempts that end at once need no room for what the others wait for.
        Poll::Pending => Box::pin(raced(&mut run, deadline, cancel, conditions)).await,
    };
    // So may whatever the attempt holds when it is dropped.
    match caught_now(move || drop(run)) {
        Ok(()) => end,
        Err(message) => End::Panicked(message),
    }
}

/// What became of an executor that was called: an answer or a panic.
type Answer = Result<Result<Option<Payload>, Fail>, String>;

fn answered(answer: Answer) -> End {
    match answer {
        Ok(answer) => End::Answered(answer),
        Err(message) => End::Panicked(message),
    }
}

async fn raced(
    run: &mut (impl Future<Output = Answer> + Unpin),
    deadline: Instant,
    cancel: &CancelSignal,
    conditions: &Conditions,
) -> End {
    tokio::select! {
        biased;
        answer = &mut *run => return answered(answer),
        _ = cancel.fired() => {}
        () = conditions.abort.cancelled() => cancel.fire(CancelReason::Shutdown),
        () = tokio::time::sleep_until(deadline.into()) => cancel.fire(CancelReason::TimedOut),
    }
    let grace = match cancel.reason() {
        Some(CancelReason::LeaseLost) => conditions.lost_grace.min(conditions.cancel_grace),
        _ => conditions.cancel_grace,
    };
    tokio::select! {
        biased;
        answer = run => answered(answer),
        () = conditions.abort.cancelled() => End::Dropped,
        () = tokio::time::sleep(grace) => End::Dropped,
    }
}

/// What becomes of the job. An attempt that completes although it was told to stop has completed.
fn outcome(lease: &Lease, end: End, stopped: Option<CancelReason>, limits: LimitKeys) -> Outcome {
    let fail = match end {
        End::Answered(Ok(result)) => return completed(result),
        End::Answered(Err(fail)) => Some(fail),
        End::Panicked(message) => Some(Fail::retry(message).kind(ErrorKind::Panicked)),
        End::Dropped => None,
    };
    match stopped {
        Some(CancelReason::Requested) => Outcome::Cancelled,
        Some(CancelReason::LeaseLost | CancelReason::Shutdown) => Outcome::Released,
        Some(CancelReason::TimedOut) => timed_out(lease, fail),
        None => fail.map_or(Outcome::Released, |fail| failed(lease, fail, limits)),
    }
}

fn completed(result: Option<Payload>) -> Outcome {
    match &result {
        Some(result) if result.bytes().len() > RESULT_MAX_BYTES => {
            let bytes = result.bytes().len();
            let message =
                format!("the result has {bytes} bytes; at most {RESULT_MAX_BYTES} are kept");
            // Running again would make the same result.
            Outcome::Dead { error: JobError::new(ErrorKind::Failed, message) }
        }
        _ => Outcome::Completed { result },
    }
}

/// `limits` are the keys of the job's kind on this worker.
fn failed(lease: &Lease, fail: Fail, limits: LimitKeys) -> Outcome {
    let error = fail.error;
    match fail.then {
        Then::Dead => Outcome::Dead { error },
        Then::Snooze(delay) => Outcome::Snoozed { delay },
        Then::Throttled(delay) => {
            let delay = delay.min(THROTTLE_MAX);
            Outcome::Throttled { delay, limits: fail.limits.unwrap_or(limits) }
        }
        Then::RetryIn(delay) => Outcome::Retry { delay, error },
        Then::Retry => {
            let delay = lease.spec.options.backoff.wait(lease.attempt(), fastrand::f64());
            Outcome::Retry { delay, error }
        }
    }
}

fn timed_out(lease: &Lease, fail: Option<Fail>) -> Outcome {
    let mut message = format!("timed out after {:?}", lease.spec.options.timeout);
    if let Some(fail) = fail.filter(|fail| !fail.error.message.is_empty()) {
        message = format!("{message}: {}", fail.error.message);
    }
    failed(lease, Fail::retry(message).kind(ErrorKind::TimedOut), LimitKeys::NONE)
}
