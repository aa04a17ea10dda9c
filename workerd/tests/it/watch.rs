//! What programs say while they run, and who follows it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use queue::{Connect, JobState, Queue};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Gate, Redis, Store, ask, ask_plainly, executor, is_plain, job, on_every_store, said,
    until, until_finished, workerd,
};

on_every_store!(
    a_running_job_is_followed_to_its_end,
    what_a_job_said_stays_with_it,
    how_a_job_ended_is_how_its_watch_ends,
    a_watch_ends_when_nobody_reads_it,
);

/// Tells how far it is, waits at the gate, and ends.
fn telling(gate: &Gate) -> String {
    let script = format!(
        "exec 3<> \"$WORKERD_EVENTS\"; echo '{{\"progress\": 40, \"text\": \"half\"}}' >&3
         echo working >&2; {}; echo '{{\"log\": \"done\"}}' >&3",
        gate.script()
    );
    executor("telling", &script)
}

async fn a_running_job_is_followed_to_its_end(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let id = queue.enqueue(job("telling", &json!({}))).await.unwrap().id;
    let mut watch = workerd();
    watch.args(["--json", "job", "watch", &id.to_string()]).env("WORKERD_URL", store.url());
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next(), json!({ "event": "state", "state": "ready", "failures": 0 }));

    let _daemon = Daemon::start(&store.url(), &telling(&gate));
    // They come in any order: the program writes to two pipes.
    let mut events = Vec::new();
    while !["progress", "log"].iter().all(|name| events.iter().any(|e: &Value| e["event"] == *name))
    {
        events.push(next());
    }
    let progress = json!({ "event": "progress", "percent": 40, "text": "half" });
    assert!(events.contains(&progress), "{events:?}");
    let log = events.iter().find(|event| event["event"] == "log").unwrap();
    assert_eq!((&log["line"], &log["attempt"]), (&json!(1), &json!(1)));
    assert_eq!(log["text"], "working");
    assert_eq!(queue.get(id).await.unwrap().unwrap().state, JobState::Running);

    gate.open();
    loop {
        let event = next();
        if event["event"] == "state" && event["state"] != "running" {
            assert_eq!(event["state"], "completed");
            break;
        }
        events.push(event);
    }
    assert!(events.iter().any(|event| event["text"] == "done"), "{events:?}");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

async fn what_a_job_said_stays_with_it(store: Store) {
    let queue = store.connect().await;
    let script = "printf '\\033[31mred\\n' >&2; echo '{\"progress\": 7, \"text\": \"\\u001b[0m\"}' \
                  1<> \"$WORKERD_EVENTS\"; exit 100";
    let _daemon = Daemon::start(&store.url(), &executor("hostile", script));
    let id = queue.enqueue(job("hostile", &json!({}))).await.unwrap().id;
    assert_eq!(until_finished(&queue, id).await.state, JobState::Dead);

    let id = id.to_string();
    let watched = ask_plainly(&store, &["job", "watch", &id]);
    assert_eq!(watched.code, 1, "{watched:?}");
    assert!(watched.out.contains("\\u{1b}[31mred") && is_plain(&watched.out), "{watched:?}");
    assert!(watched.out.contains("progress    7% \\u{1b}[0m\n"), "{watched:?}");
    assert!(watched.out.contains("state     dead (1 attempt has failed)\n"), "{watched:?}");
    let shown = ask(&store, &["job", "show", &id]).json();
    assert_eq!(shown["progress"], json!({ "percent": 7, "text": "\u{1b}[0m" }));
    let plainly = ask_plainly(&store, &["job", "show", &id]);
    assert!(plainly.out.contains("progress   7% \\u{1b}[0m\n"), "{plainly:?}");
    let from_there = ask(&store, &["job", "watch", &id, "--after-line", "1"]);
    assert!(from_there.documents().iter().all(|event| event["event"] != "log"), "{from_there:?}");
}

async fn how_a_job_ended_is_how_its_watch_ends(store: Store) {
    let queue = store.connect().await;
    let id = queue.enqueue(job("a", &json!({}))).await.unwrap().id.to_string();
    let late = ask(&store, &["job", "watch", &id, "--timeout", "50ms"]);
    assert_eq!((late.code, late.documents().len()), (6, 1), "{late:?}");
    ask(&store, &["job", "cancel", &id]);
    assert_eq!(ask(&store, &["job", "watch", &id]).code, 1);
}

/// Waits until somebody else has run so many scripts.
async fn until_scripts(redis: &Redis, count: u64) {
    let calls = || -> u64 {
        let stats = redis.call("INFO commandstats");
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
    };
    let before = calls();
    until("scripts run", async || (calls() >= before + count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_job_outlasts_a_store_that_is_away() {
    let mut store = Store::redis();
    let id = store.connect().await.enqueue(job("a", &json!({}))).await.unwrap().id.to_string();
    let start = |store: &Store, options: &[&str]| {
        let mut wait = workerd();
        wait.args(["--json", "job", "wait", &id]).args(options).env("WORKERD_URL", store.url());
        wait.stdout(Stdio::piped()).spawn().unwrap()
    };
    let stop = async |store: &mut Store| {
        let Store::Redis(redis) = store else { panic!() };
        // More than it runs to connect: it looks at the job again and again.
        until_scripts(redis, 10).await;
        redis.stop();
    };
    let start_again = |store: &mut Store| {
        let Store::Redis(redis) = store else { panic!() };
        redis.start_now();
    };

    let started_at = Instant::now();
    let mut in_time = start(&store, &["--timeout", "3s"]);
    stop(&mut store).await;
    assert_eq!(in_time.wait().unwrap().code(), Some(6));
    assert!(started_at.elapsed() >= Duration::from_secs(3));

    start_again(&mut store);
    let for_ever = start(&store, &[]);
    stop(&mut store).await;
    assert_eq!(ask(&store, &["job", "show", &id]).code, 3);
    start_again(&mut store);
    assert_eq!(ask(&store, &["job", "cancel", &id]).code, 0);
    let ended = for_ever.wait_with_output().unwrap();
    let record: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((ended.status.code(), &record["state"]), (Some(1), &json!("cancelled")));
}

async fn a_watch_ends_when_nobody_reads_it(store: Store) {
    let queue = store.connect().await;
    let id = queue.enqueue(job("a", &json!({}))).await.unwrap().id.to_string();
    let mut watch = workerd();
    watch.args(["job", "watch", &id]).env("WORKERD_URL", store.url()).stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "state     ready\n");
    // It would be told, and tell with its exit code, that the job is cancelled.
    ask(&store, &["job", "cancel", &id]);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

/// It says so, once, and goes on when the store is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_followed_although_the_store_is_away_at_first() {
    let mut redis = Redis::start();
    let queue = Queue::connect(&redis.url()).await.unwrap();
    let id = queue.enqueue(job("a", &json!({}))).await.unwrap().id;
    queue.cancel(id).await.unwrap();
    redis.stop();
    for command in ["wait", "watch"] {
        let mut process = workerd()
            .args(["job", command, &id.to_string(), "--timeout", "60s", "--url", &redis.url()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.contains("trying on"), "{told}");
        redis.start_now();
        assert_eq!(process.wait().unwrap().code(), Some(1), "{command}");
        redis.stop();
    }
}

#[test]
fn a_check_of_a_replica_is_a_table_with_a_bad_finding() {
    let replica = Redis::start();
    assert!(replica.call("REPLICAOF 127.0.0.1 1").starts_with("+OK"));
    let said = said(workerd().args(["--json", "check", "--url", &replica.url()]));
    let findings = said.json()["findings"].clone();
    let is_bad = |finding: &Value| finding["verdict"] == "bad";
    assert!(said.code == 3 && findings.as_array().unwrap().iter().any(is_bad), "{said:?}");
    assert!(findings.to_string().contains("role"), "{findings}");
}
