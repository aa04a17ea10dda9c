//! Enqueues of many callers that travel together.

use std::time::Duration;

use futures_util::future::join_all;
use queue_core::{Durability, Error, JobState, MemoryBackend, NewJob, Queue};
use tokio::time::timeout;

use crate::support::{Faulty, LONG, number};

fn set_up() -> (Faulty, Queue) {
    let backend = Faulty::new(MemoryBackend::new());
    (backend.clone(), Queue::new(backend))
}

async fn is_ready(backend: &Faulty, job: &NewJob) -> bool {
    backend.record(job.spec.id).await.state == JobState::Ready
}

#[tokio::test]
async fn callers_that_come_while_a_call_is_out_share_the_next_one() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let callers = join_all((0..1200).map(|n| queue.enqueue(number(n))));
    let (answers, ()) = tokio::join!(callers, async { gate.open() });
    assert!(answers.iter().all(|answer| matches!(answer, Ok(done) if !done.duplicate)));
    assert_eq!(backend.enqueues(), [1, 500, 500, 199]);
}

#[tokio::test]
async fn each_caller_gets_the_answer_for_its_own_job() {
    let (backend, queue) = set_up();
    let job = number(1);
    queue.enqueue(job.clone()).await.unwrap();
    let gate = backend.enqueue_waits();
    let other = number(2).id(job.spec.id);
    let calls = async {
        tokio::join!(
            queue.enqueue(number(3)),
            queue.enqueue(job.clone()),
            queue.enqueue(other),
            queue.enqueue(number(4)),
        )
    };
    let ((_, again, conflict, new), ()) = tokio::join!(calls, async { gate.open() });
    assert!(again.unwrap().duplicate);
    assert!(matches!(conflict, Err(Error::Conflict { existing, .. }) if existing == job.spec.id));
    assert!(!new.unwrap().duplicate);
}

/// As in a `select!` whose other branch enqueues, too.
#[tokio::test]
async fn a_caller_who_does_not_poll_holds_up_nobody() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let mut first = std::pin::pin!(queue.enqueue(number(1)));
    assert!(timeout(Duration::ZERO, &mut first).await.is_err(), "it waits for the gate");
    gate.open();
    let second = timeout(LONG, queue.enqueue(number(2))).await;
    second.expect("it waits for the first caller").unwrap();
    first.await.unwrap();
}

/// Each answer that comes by way of a task wakes one more thread.
#[tokio::test]
async fn a_call_has_a_task_only_if_somebody_else_depends_on_it() {
    let (backend, queue) = set_up();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let gate = backend.enqueue_waits();
    let mut first = std::pin::pin!(queue.enqueue(number(1)));
    assert!(timeout(Duration::ZERO, &mut first).await.is_err(), "it waits for the gate");
    assert_eq!(tasks(), 0);
    let mut second = std::pin::pin!(queue.enqueue(number(2)));
    assert!(timeout(Duration::ZERO, &mut second).await.is_err(), "it waits for the first");
    assert_eq!(tasks(), 1);
    gate.open();
    let (first, second) = tokio::join!(first, second);
    first.and(second).unwrap();
}

#[tokio::test]
async fn those_who_wait_go_when_the_caller_before_them_has_gone() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let first = timeout(Duration::ZERO, queue.enqueue(number(1))).await;
    assert!(first.is_err(), "it waits for the gate");
    gate.open();
    let second = timeout(LONG, queue.enqueue(number(2))).await;
    second.expect("the second goes on").unwrap();
}

#[tokio::test]
async fn a_job_whose_caller_has_gone_before_it_was_sent_is_not_sent() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let first = queue.enqueue(number(1));
    let gone = async {
        let gone = timeout(Duration::ZERO, queue.enqueue(number(2))).await;
        assert!(gone.is_err());
        gate.open();
    };
    let (first, ()) = tokio::join!(first, gone);
    first.unwrap();
    queue.enqueue(number(3)).await.unwrap();
    assert_eq!(backend.enqueues(), [1, 1]);
}

#[tokio::test]
async fn a_job_that_the_store_refuses_spoils_nothing_for_others() {
    let (backend, queue) = set_up();
    let jobs: Vec<NewJob> = (0..10).map(number).collect();
    backend.refuses_enqueue(jobs[5].spec.id);
    let gate = backend.enqueue_waits();
    let callers = join_all(jobs.iter().map(|job| queue.enqueue(job.clone())));
    let (answers, ()) = tokio::join!(callers, async { gate.open() });
    for (n, (job, answer)) in jobs.iter().zip(answers).enumerate() {
        match answer {
            Ok(_) => assert!(n != 5 && is_ready(&backend, job).await),
            Err(error) => assert!(n == 5 && matches!(error, Error::Corrupt(_)), "{n}: {error}"),
        }
    }
}

/// The same call again might find what the first has left behind, and take that for a success.
#[tokio::test]
async fn a_job_that_is_refused_alone_is_not_sent_again() {
    let (backend, queue) = set_up();
    let job = number(1);
    backend.refuses_enqueue(job.spec.id);
    assert!(matches!(queue.enqueue(job).await, Err(Error::Corrupt(_))));
    assert_eq!(backend.enqueues(), [1]);
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_once_for_all() {
    let (backend, queue) = set_up();
    backend.cut_off(true);
    let gate = backend.enqueue_waits();
    let callers = join_all((0..100).map(|n| queue.enqueue(number(n))));
    let (answers, ()) = tokio::join!(callers, async { gate.open() });
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Unavailable(_)))));
    assert_eq!(backend.enqueues(), [1, 99]);
}

#[tokio::test]
async fn a_slow_promise_does_not_hold_up_a_fast_one() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let durable = queue.clone().durability(Durability::Fsync);
    let fast = async {
        queue.enqueue(number(2)).await.unwrap();
        gate.open();
    };
    let ended = timeout(LONG, async { tokio::join!(durable.enqueue(number(1)), fast) }).await;
    assert!(ended.is_ok(), "the fast one waited");
}

#[tokio::test]
async fn a_job_that_may_be_refused_because_of_itself_goes_alone() {
    let (backend, queue) = set_up();
    let gate = backend.enqueue_waits();
    let first = queue.enqueue(number(1));
    let alone = async {
        while backend.enqueues().is_empty() {
            tokio::task::yield_now().await;
        }
        let exclusive = number(2).on_conflict(queue_core::OnConflict::Reject);
        queue.enqueue(exclusive).await.unwrap();
        gate.open();
    };
    let ended = timeout(LONG, async { tokio::join!(first, alone) }).await;
    assert!(ended.is_ok(), "it waited for the call before it");
}

/// The calls of a runtime that ends are gone with it; those of others, and of later ones, are not.
#[test]
fn a_runtime_that_ends_takes_nobody_with_it() {
    let (backend, queue) = set_up();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _never = backend.enqueue_waits();
    let ended = runtime();
    for n in 0..3 {
        ended.spawn({
            let queue = queue.clone();
            async move { queue.enqueue(number(n)).await }
        });
    }
    ended.block_on(async {
        while backend.enqueues().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    let next = runtime();
    let beside = next.block_on(async { timeout(LONG, queue.enqueue(number(3))).await });
    beside.expect("it waits for another runtime").unwrap();
    drop(ended);
    for n in 4..100 {
        // Ids of runtimes are used again: none may be left behind as being under way.
        let later = runtime().block_on(async { timeout(LONG, queue.enqueue(number(n))).await });
        later.expect("it waits for nobody").unwrap();
    }
}
