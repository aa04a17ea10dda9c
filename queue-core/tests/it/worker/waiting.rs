//! When a worker asks for jobs, and for which.

use std::time::{Duration, Instant};

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};
use queue_core::{Context, Fail, JobState, Kind, NewJob, Payload, Queue, State, Worker};

/// It asks once a second anyway.
#[tokio::test]
async fn an_idle_worker_does_not_wait_with_a_new_job_until_it_would_ask() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let worker = Worker::new(&queue).handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()));
    let worker = worker.start().unwrap();
    let begun = Instant::now();
    for n in 0..5 {
        eventually("it listens", async || backend.listening() == 1).await;
        let id = queue.enqueue(number(n)).await.unwrap().id;
        finished(&queue, id).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    worker.drain(LONG).await;
}

/// A wake-up that it took would be lost for the workers that take jobs.
#[tokio::test]
async fn a_worker_that_takes_no_more_jobs_does_not_listen_for_them() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let go = Gate::default();
    let handler = async |State(go): State<Gate>, _: Number| {
        go.passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(2).state(go.clone());
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    eventually("it listens", async || backend.listening() == 1).await;
    queue.enqueue(number(0)).await.unwrap();
    eventually("it runs one", async || worker.status().running == 1).await;
    eventually("it listens for another", async || backend.listening() == 1).await;
    let drain = worker.drain(LONG);
    let rest = async {
        eventually("it listens no more", async || backend.listening() == 0).await;
        assert_eq!(worker.status().running, 1);
        go.open();
    };
    let (drained, ()) = tokio::join!(drain, rest);
    assert_eq!(drained.finished, 1);
}

#[tokio::test]
async fn a_full_kind_does_not_hold_up_another() {
    let queue = Queue::memory();
    let go = Gate::default();
    struct Slow(Gate);
    impl queue_core::Executor for Slow {
        async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
            self.0.passed().await;
            Ok(None)
        }
    }
    let slow = Kind::new("slow").unwrap();
    let worker = Worker::new(&queue)
        .concurrency(4)
        .executor(slow.clone(), Some(1), Slow(go.clone()))
        .handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()))
        .start()
        .unwrap();
    let mut slow_ids = Vec::new();
    for _ in 0..3 {
        let job = NewJob::new(slow.clone(), Payload::default());
        slow_ids.push(queue.enqueue(job).await.unwrap().id);
    }
    let fast = queue.enqueue(number(0)).await.unwrap().id;
    assert_eq!(finished(&queue, fast).await.state, JobState::Completed);
    let running = queue.get_all(&slow_ids).await.unwrap();
    let running = running.iter().flatten().filter(|record| record.state == JobState::Running);
    assert_eq!(running.count(), 1);
    go.open();
    for id in slow_ids {
        assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    }
    worker.drain(LONG).await;
}
