//! One of two replicas is killed in the middle of its work.

use std::time::{Duration, Instant};

use queue::{JobId, JobRecord, JobState, Queue};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Daemon, Gate, Store, executor, job, on_every_store, soon, until, until_finished,
};

on_every_store!(the_jobs_of_a_killed_replica_run_elsewhere);

/// The first block of the README that shows how to write events.
fn shown_to_write_events() -> &'static str {
    let blocks = include_str!("../../README.md").split("```sh\n").skip(1);
    let mut scripts = blocks.map(|block| block.split("```").next().unwrap());
    scripts.find(|script| script.contains("WORKERD_EVENTS")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_outlives_its_daemon_does_not_wait_for_a_reader() {
    let (gate, store) = (Gate::new(), Store::sqlite());
    let queue = store.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let (started, ended) = (folder.path().join("started"), folder.path().join("ended"));
    let script = [
        &format!(": > '{}'", started.display()),
        &gate.script(),
        shown_to_write_events(),
        &format!(": > '{}'", ended.display()),
    ];
    let mut daemon = Daemon::start(&store.url(), &executor("orphan", &script.join("\n")));
    queue.enqueue(job("orphan", &json!({}))).await.unwrap();
    until("the program started", async || started.exists().then_some(())).await;

    daemon.signal(Signal::KILL);
    assert_eq!(daemon.exit_code(), None);
    gate.open();

    until("the program at its end", async || ended.exists().then_some(())).await;
}

/// The folders in a place.
fn entries(place: &std::path::Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// But not while a program works in there, which only Linux tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_has_left_is_removed_by_the_next() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let (gate, store) = (Gate::new(), Store::sqlite());
    let queue = store.connect().await;
    let place = tempfile::tempdir().unwrap();
    let config = gate.watched_executor();
    let mut killed = Daemon::start_beside(&store.url(), &config, place.path());
    let (started, gone) = gate.watch();
    queue.enqueue(job("held", &json!({}))).await.unwrap();
    soon(started).await;
    let left = entries(place.path());
    assert_eq!(left.len(), 1);
    killed.signal(Signal::KILL);
    assert_eq!(killed.exit_code(), None);

    let another = Gate::new();
    let second = Daemon::start_beside(&store.url(), &another.executor(), place.path());
    let swept = second.wait_for_event("folders_swept");
    assert_eq!((&swept["removed"], &swept["used"]), (&json!(0), &json!(1)));
    assert_eq!(entries(place.path()), left);
    gate.open();
    soon(gone).await;

    let third = Daemon::start_beside(&store.url(), &another.executor(), place.path());
    assert_eq!(third.wait_for_event("folders_swept")["removed"], 1);
    assert_eq!(entries(place.path()), [""; 0]);
}

const LEASE: Duration = Duration::from_secs(1);

async fn the_jobs_of_a_killed_replica_run_elsewhere(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let config = |concurrency: usize| {
        let lease = humantime::format_duration(LEASE);
        format!("[worker]\nconcurrency = {concurrency}\nlease = \"{lease}\"\n")
            + &gate.executor()
            + "provider = \"x\"\n[limits.\"provider:x\"]\nconcurrency = 6\n"
    };
    let mut killed = Daemon::start(&store.url(), &config(3));
    let killed_worker = killed.wait_for_event("worker_started")["worker"].clone();
    let jobs = (0..6).map(|number| job("gate", &json!({ "number": number })));
    let mut ids = Vec::new();
    for outcome in queue.enqueue_all(jobs).await.unwrap() {
        let queue::EnqueueOutcome::Done(enqueued) = outcome else { panic!("{outcome:?}") };
        ids.push(enqueued.id);
    }
    let of_killed = until("three jobs running", async || {
        let running = running(&queue, &ids).await;
        (running.len() == 3).then_some(running)
    })
    .await;
    assert!(of_killed.iter().all(|r| r.worker.as_ref().unwrap().as_str() == killed_worker));
    // Room for all: what the killed one ran need not wait for what the other one runs.
    let other = Daemon::start(&store.url(), &config(6));
    until("all running", async || (running(&queue, &ids).await.len() == 6).then_some(())).await;

    killed.signal(Signal::KILL);
    let killed_at = Instant::now();
    assert_eq!(killed.exit_code(), None);
    until("all running elsewhere", async || {
        let running = running(&queue, &ids).await;
        let elsewhere = |r: &JobRecord| r.worker.as_ref().unwrap().as_str() != killed_worker;
        (running.len() == 6 && running.iter().all(elsewhere)).then_some(())
    })
    .await;
    // P8. The margin on top is for a busy machine.
    let took = killed_at.elapsed();
    assert!(took <= LEASE + Duration::from_millis(1500) + Duration::from_secs(3), "{took:?}");
    // P4: the places of the killed one went with its jobs.
    until("the gauges of the provider", async || {
        let (_, metrics) = other.get("/metrics");
        let value = |name: &str| gauge(&metrics, &format!("{name}{{key=\"provider:x\"}}"));
        assert!(matches!(value("queue_limit_drift").as_deref(), None | Some("0")), "{metrics}");
        (value("queue_limit_in_use")? == "6" && value("queue_limit_drift")? == "0").then_some(())
    })
    .await;
    gate.open();

    for id in &ids {
        let record = until_finished(&queue, *id).await;
        let was_of_killed = of_killed.iter().any(|r| r.spec.id == *id);
        assert_eq!(record.state, JobState::Completed);
        assert_eq!((record.failures, record.stalls), (0, u8::from(was_of_killed)));
    }
    assert!(queue.audit().await.unwrap().is_empty());
}

/// The value of a line of `/metrics`.
fn gauge(metrics: &str, name: &str) -> Option<String> {
    let values = metrics.lines().filter_map(|line| line.strip_prefix(name));
    values.map(|value| value.trim().to_owned()).next()
}

async fn running(queue: &Queue, ids: &[JobId]) -> Vec<JobRecord> {
    let records = queue.get_all(ids).await.unwrap().into_iter().flatten();
    records.filter(|record| record.state == JobState::Running).collect()
}
