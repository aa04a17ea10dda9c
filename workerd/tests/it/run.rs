//! A daemon from its start to its end by signals.

use queue::{Connect, JobState, Queue};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Daemon, Gate, Redis, Store, executor, job, on_every_store, soon, until, until_finished,
    until_state,
};

on_every_store!(
    the_first_signal_lets_running_jobs_finish,
    the_second_signal_gives_running_jobs_back_at_once,
    a_job_that_outlasts_the_grace_is_given_back,
    a_running_job_can_be_cancelled,
    a_replica_that_cannot_start_programs_burns_no_attempts,
    metrics_tell_what_happened,
);

/// No renewal by chance: the tests that use it do not wait for leases.
const LONG_LEASE: &str = "[worker]\nlease = \"60s\"\nshutdown_grace = \"60s\"\nconcurrency = 2\n";

async fn the_first_signal_lets_running_jobs_finish(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let mut daemon = Daemon::start(&store.url(), &(LONG_LEASE.to_owned() + &gate.executor()));
    let running = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    until_state(&queue, running, JobState::Running).await;
    // The job runs as soon as the store says so; the daemon has yet to hear its answer.
    let ready = (200, "ready\n".to_owned());
    until("ready", async || (daemon.get("/readyz") == ready).then_some(())).await;

    daemon.signal(Signal::TERM);
    daemon.wait_for_event("draining");
    until("not ready", async || (daemon.get("/readyz").0 == 503).then_some(())).await;
    assert_eq!(daemon.get("/livez").0, 200);
    let waiting = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    gate.open();

    assert_eq!(daemon.exit_code(), Some(0));
    assert_eq!(until_finished(&queue, running).await.state, JobState::Completed);
    assert_eq!(queue.get(waiting).await.unwrap().unwrap().state, JobState::Ready);
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn the_second_signal_gives_running_jobs_back_at_once(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let config = LONG_LEASE.to_owned() + &gate.holding_executor();
    let mut daemon = Daemon::start(&store.url(), &config);
    let (started, gone) = gate.watch();
    let id = queue.enqueue(job("held", &json!({}))).await.unwrap().id;
    soon(started).await;

    daemon.signal(Signal::TERM);
    daemon.wait_for_event("draining");
    daemon.signal(Signal::INT);

    assert_eq!(daemon.exit_code(), Some(7));
    assert!(daemon.left_nothing());
    let record = queue.get(id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failures, record.stalls), (JobState::Ready, 0, 0));
    soon(gone).await;
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn a_job_that_outlasts_the_grace_is_given_back(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let config = "[worker]\nshutdown_grace = \"50ms\"\n".to_owned() + &gate.holding_executor();
    let mut daemon = Daemon::start(&store.url(), &config);
    let (started, gone) = gate.watch();
    let id = queue.enqueue(job("held", &json!({}))).await.unwrap().id;
    soon(started).await;

    daemon.signal(Signal::TERM);

    assert_eq!(daemon.exit_code(), Some(0));
    assert!(daemon.left_nothing());
    let record = queue.get(id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failures, record.stalls), (JobState::Ready, 0, 0));
    soon(gone).await;
}

/// Its jobs are not given back: who looks at exit codes should know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_cannot_tell_its_store_says_so_at_its_end() {
    let (gate, mut redis) = (Gate::new(), Redis::start());
    let config = LONG_LEASE.to_owned() + &gate.holding_executor();
    let mut daemon = Daemon::start(&redis.url(), &config);
    let (started, gone) = gate.watch();
    let queue = Queue::connect(&redis.url()).await.unwrap();
    queue.enqueue(job("held", &json!({}))).await.unwrap();
    soon(started).await;
    redis.stop();

    daemon.signal(Signal::TERM);
    daemon.wait_for_event("draining");
    daemon.signal(Signal::INT);

    assert_eq!(daemon.exit_code(), Some(8));
    let stopped = daemon.wait_for_event("stopped");
    assert_eq!((&stopped["level"], &stopped["untold"]), (&json!("WARN"), &json!(1)), "{stopped}");
    soon(gone).await;
}

async fn a_running_job_can_be_cancelled(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let config = LONG_LEASE.to_owned() + &gate.holding_executor();
    let _daemon = Daemon::start(&store.url(), &config);
    let (started, gone) = gate.watch();
    let id = queue.enqueue(job("held", &json!({}))).await.unwrap().id;
    soon(started).await;

    assert_eq!(queue.cancel(id).await.unwrap(), queue::CancelOutcome::Requested);

    assert_eq!(until_finished(&queue, id).await.state, JobState::Cancelled);
    soon(gone).await;
}

async fn a_replica_that_cannot_start_programs_burns_no_attempts(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    gate.open();
    let daemon = Daemon::start(&store.url(), &(LONG_LEASE.to_owned() + &gate.executor()));
    daemon.wait_for_event("worker_started");
    std::fs::remove_dir(daemon.attempts()).unwrap();
    let id = queue.enqueue(job("gate", &json!({})).max_attempts(1)).await.unwrap().id;
    let event = daemon.wait_for_event("attempt_not_started");
    assert!(event["error"].is_string(), "{event}");
    std::fs::create_dir(daemon.attempts()).unwrap();

    let record = until_finished(&queue, id).await;
    assert_eq!((record.state, record.failures), (JobState::Completed, 0));
    assert!(record.snoozes > 0);
}

async fn metrics_tell_what_happened(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    gate.open();
    let daemon = Daemon::start(&store.url(), &(LONG_LEASE.to_owned() + &gate.executor()));
    let id = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    until_finished(&queue, id).await;

    // Counted once the store has answered, which may be a moment after the job is seen finished.
    let finished = "queue_finished_total{queue=\"default\",kind=\"gate\",outcome=\"completed\"} 1";
    let ended = daemon.wait_for_event("attempt_ended");
    assert_eq!((&ended["job_id"], &ended["outcome"]), (&json!(id), &json!("completed")));
    assert!(ended["elapsed_sec"].is_number() && ended["kind"] == "gate", "{ended}");
    let metrics = until("the job counted", async || {
        let (_, metrics) = daemon.get("/metrics");
        let counted = metrics.lines().any(|line| line == finished);
        (counted && metrics.contains("queue_jobs{queue=\"default\",state=\"completed\"} 1"))
            .then_some(metrics)
    })
    .await;
    for line in [
        "queue_wait_seconds_bucket{queue=\"default\",kind=\"gate\",le=\"3600\"} 1",
        concat!(
            "queue_run_seconds_bucket{queue=\"default\",kind=\"gate\",outcome=\"completed\",",
            "le=\"14400\"} 1"
        ),
        "queue_jobs{queue=\"default\",state=\"dead\"} 0",
        "queue_store_up 1",
        "workerd_slots{state=\"free\"} 2",
        "workerd_draining 0",
        "workerd_inflight_jobs{queue=\"default\"} 0",
        "# HELP workerd_inflight_jobs Jobs that this replica runs, by queue.",
        "queue_oldest_job_age_seconds{queue=\"default\"} 0",
        concat!("workerd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("workerd_fetch_last_progress_timestamp_seconds "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_made_again_and_jobs_that_run_and_wait_are_measured() {
    let redis = Redis::start();
    let gate = Gate::new();
    let daemon = Daemon::start(&redis.url(), &(LONG_LEASE.to_owned() + &gate.executor()));
    let queue = Queue::connect(&redis.url()).await.unwrap();
    queue.enqueue_all((0..3).map(|n| job("gate", &json!({ "n": n })))).await.unwrap();
    let metrics = |lines: &'static [&str]| {
        let daemon = &daemon;
        until("the metrics", async move || {
            let (_, metrics) = daemon.get("/metrics");
            lines.iter().all(|line| metrics.lines().any(|l| l == *line)).then_some(metrics)
        })
    };
    let busy = metrics(&[
        "workerd_inflight_jobs{queue=\"default\"} 2",
        "queue_store_reconnects_total 0",
        "queue_jobs{queue=\"default\",state=\"ready\"} 1",
    ]);
    let age = |metrics: &str| -> f64 {
        let ages = metrics.lines();
        let mut ages =
            ages.filter_map(|l| l.strip_prefix("queue_oldest_job_age_seconds{queue=\"default\"} "));
        ages.next().unwrap().parse().unwrap()
    };
    let before = age(&busy.await);
    until("the age grows", async || (age(&daemon.get("/metrics").1) > before).then_some(())).await;

    redis.call("CLIENT KILL TYPE normal");
    metrics(&["queue_store_reconnects_total 1"]).await;
    gate.open();
    metrics(&[
        "workerd_inflight_jobs{queue=\"default\"} 0",
        "queue_oldest_job_age_seconds{queue=\"default\"} 0",
        "queue_jobs{queue=\"default\",state=\"completed\"} 3",
    ])
    .await;
}

/// The children of a process's main thread, ended or not.
#[cfg(target_os = "linux")]
fn children(process: u32) -> Vec<String> {
    let list = format!("/proc/{process}/task/{process}/children");
    std::fs::read_to_string(list).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_programs_leave_behind_is_ended_and_reaped() {
    let store = Store::sqlite();
    let queue = store.connect().await;
    let script = "(setsid sleep 1000 & echo $! > $WORKERD_RESULT); (setsid true &); exit 0";
    let daemon = Daemon::start(&store.url(), &executor("leaves", script));
    for _ in 0..10 {
        let id = queue.enqueue(job("leaves", &json!({}))).await.unwrap().id;
        let record = until_finished(&queue, id).await;
        let left: i32 = record.result.unwrap().decode().unwrap();
        let left = rustix::process::Pid::from_raw(left).unwrap();
        assert!(rustix::process::test_kill_process(left).is_err());
        assert_eq!(children(daemon.id()), [""; 0]);
    }
}

/// That makes it cheap to know what is left of a program.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_adopts_what_has_lost_its_parent() {
    let store = Store::sqlite();
    let queue = store.connect().await;
    let look = "read -r id name state parent rest < /proc/$$/stat && [ $parent = $daemon ]";
    let orphan = format!("until {look}; do sleep 0.01; done; echo 1 > $WORKERD_RESULT");
    let script = format!(
        "export daemon=$PPID; (sh -c '{orphan}' &)
         while [ ! -s $WORKERD_RESULT ]; do sleep 0.01; done"
    );
    let _daemon = Daemon::start(&store.url(), &executor("adopted", &script));
    let id = queue.enqueue(job("adopted", &json!({}))).await.unwrap().id;
    assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
}
