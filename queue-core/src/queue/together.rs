//! Enqueues of one process that are in flight together travel together: while one call is out, the
//! next batch gathers, and goes as soon as that call is answered. A caller who is alone waits for
//! nobody; there are no timers.
//!
//! Every call goes out in its caller's turn. One who is alone sees it to its end; once others wait,
//! or he has gone, it goes on in a task of its own: a caller who does not poll, or drops, the future
//! of an enqueue must not hold up the others.

mod ride;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ride::Ride;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::Queue;
use crate::backend::PASS_MAX;
use crate::telemetry;
use crate::{Durability, EnqueueOutcome, Error, NewJob, OnConflict};

/// A job with a larger payload goes by itself, so that small ones do not wait for its bytes.
const SHARED_PAYLOAD_MAX_BYTES: usize = 16 * 1024;

/// Who is under way, and who waits for the next batch; shared by all clones of a queue.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// Those that have somebody under way.
    lines: Mutex<Vec<Line>>,
}

/// Those who can travel together: on one runtime, because one that is blocked must not hold up
/// another, and with one durability, because a slow promise must not hold up a fast one.
#[derive(Debug)]
struct Line {
    runtime: Id,
    durability: Durability,
    waiting: Vec<Passenger>,
    /// The call that is under way, as long as nobody depends on it but its caller.
    first: Option<Arc<Ride>>,
}

/// A job whose caller waits for the answer.
#[derive(Debug)]
struct Passenger {
    job: NewJob,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum Answer {
    Of(Result<EnqueueOutcome, Error>),
    /// The batch was refused, maybe because of another's job: ask again without the others.
    Alone(Box<NewJob>),
}

/// Puts one job into the store, with those of other callers if a call is under way.
pub(super) async fn enqueue(queue: &Queue, job: NewJob) -> Result<EnqueueOutcome, Error> {
    let Some(runtime) = Handle::try_current().ok().filter(|_| may_share(&job)) else {
        return alone(queue, job).await;
    };
    let (answer, mut answered) = oneshot::channel();
    let passenger = Passenger { job, answer };
    let (id, durability) = (runtime.id(), queue.durability);
    let mut own = queue.together.join(&runtime, durability, passenger).map(|(first, ride)| {
        let batches = Batches { queue: queue.clone(), runtime: id, is_done: false };
        // A panic of the store is no business of the caller, who hears of it as all others do.
        let call = AssertUnwindSafe(batches.run(vec![first])).catch_unwind();
        Own { ride, call: Some(call.map(drop).boxed()) }
    });
    let answer = poll_fn(|context| {
        if let Some(Own { ride, call }) = &mut own {
            ride.poll(call.take(), context);
        }
        answered.poll_unpin(context)
    });
    match answer.await {
        Ok(Answer::Of(outcome)) => outcome,
        Ok(Answer::Alone(job)) => alone(queue, *job).await,
        Err(_) => Err(Error::Unavailable("the task that made the call is gone".to_owned())),
    }
}

/// A ride as its caller has it. Dropped, it goes on without him.
struct Own {
    ride: Arc<Ride>,
    /// Before it begins.
    call: Option<BoxFuture<'static, ()>>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.ride.hand_over();
    }
}

async fn alone(queue: &Queue, job: NewJob) -> Result<EnqueueOutcome, Error> {
    let jobs = [job];
    let answer = queue.backend.enqueue_boxed(&jobs, queue.durability).await;
    telemetry::enqueued(&jobs, &answer);
    answer?
        .into_iter()
        .next()
        .ok_or_else(|| Error::Corrupt("the store did not answer for the job".to_owned()))
}

/// Whether others are no worse off if the job travels with theirs: a call that may be refused
/// because of itself is not repeated by the stores, and one that replaces jobs costs more.
fn may_share(job: &NewJob) -> bool {
    job.on_conflict == OnConflict::Existing
        && job.spec.payload.bytes().len() <= SHARED_PAYLOAD_MAX_BYTES
}

impl Together {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        // Each change is one assignment or one push.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next batch; if nobody is under way, answers with the passenger, who goes now.
    fn join(
        &self,
        runtime: &Handle,
        durability: Durability,
        passenger: Passenger,
    ) -> Option<(Passenger, Arc<Ride>)> {
        let mut lines = self.lock();
        let Some(at) = place_of(&lines, runtime.id(), durability) else {
            let ride = Arc::new(Ride::new(runtime.clone()));
            let (runtime, first) = (runtime.id(), Some(Arc::clone(&ride)));
            lines.push(Line { runtime, durability, waiting: Vec::new(), first });
            return Some((passenger, ride));
        };
        lines[at].waiting.push(passenger);
        let first = lines[at].first.take();
        drop(lines);
        if let Some(first) = first {
            first.hand_over();
        }
        None
    }

    /// Whether nobody waits for the next batch.
    fn is_alone(&self, runtime: Id, durability: Durability) -> bool {
        let lines = self.lock();
        place_of(&lines, runtime, durability).is_none_or(|at| lines[at].waiting.is_empty())
    }

    /// Those who go next; if there are none, nobody is under way any more.
    fn next_batch(&self, runtime: Id, durability: Durability) -> Option<Vec<Passenger>> {
        let mut lines = self.lock();
        let at = place_of(&lines, runtime, durability)?;
        let waiting = &mut lines[at].waiting;
        // A caller who has gone before the job was sent wants it no more.
        waiting.retain(|passenger| !passenger.answer.is_closed());
        if waiting.is_empty() {
            lines.swap_remove(at);
            return None;
        }
        let count = waiting.len().min(PASS_MAX as usize);
        let rest = waiting.split_off(count);
        Some(std::mem::replace(waiting, rest))
    }
}

fn place_of(lines: &[Line], runtime: Id, durability: Durability) -> Option<usize> {
    lines.iter().position(|line| line.runtime == runtime && line.durability == durability)
}

/// What carries batches until nobody waits.
struct Batches {
    queue: Queue,
    runtime: Id,
    is_done: bool,
}

impl Batches {
    async fn run(mut self, mut batch: Vec<Passenger>) {
        loop {
            let was_alone = batch.len() == 1;
            self.carry(batch).await;
            if !was_alone || !self.queue.together.is_alone(self.runtime, self.queue.durability) {
                // Callers that have just been answered may have more: let them come.
                tokio::task::yield_now().await;
            }
            match self.next_batch() {
                Some(next) => batch = next,
                None => break,
            }
        }
        self.is_done = true;
    }

    fn next_batch(&self) -> Option<Vec<Passenger>> {
        self.queue.together.next_batch(self.runtime, self.queue.durability)
    }

    async fn carry(&self, batch: Vec<Passenger>) {
        let (jobs, answers): (Vec<NewJob>, Vec<oneshot::Sender<Answer>>) =
            batch.into_iter().map(|passenger| (passenger.job, passenger.answer)).unzip();
        let answered = self.queue.backend.enqueue_boxed(&jobs, self.queue.durability).await;
        let asks_each = answered.as_ref().is_err_and(|error| may_be_of_one(error, &jobs));
        if !asks_each {
            telemetry::enqueued(&jobs, &answered);
        }
        // A caller who does not listen any more has gone; that is no business of this task.
        match answered {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Answer::Of(Ok(outcome)));
                }
            }
            Err(_) if asks_each => {
                for (answer, job) in answers.into_iter().zip(jobs) {
                    let _ = answer.send(Answer::Alone(Box::new(job)));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Answer::Of(Err(error.clone())));
                }
            }
        }
    }
}

/// Whether a batch may have been refused because of one of its jobs. A store that is away, or does
/// not let this client in, refuses all of them; and one who was alone has the answer: the same call
/// again might find what the first has left behind.
const fn may_be_of_one(error: &Error, jobs: &[NewJob]) -> bool {
    jobs.len() > 1 && !matches!(error, Error::Unavailable(_) | Error::Refused(_))
}

impl Drop for Batches {
    /// The task was dropped with its runtime, or a store panicked: nobody else knows of those who
    /// wait. They hear of it, and whoever comes next is the first again.
    fn drop(&mut self) {
        while !self.is_done && self.next_batch().is_some() {}
    }
}
