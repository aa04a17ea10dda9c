//! What operators do from the command line: list, retry, delete, cancel, purge, pause, redrive.

use std::collections::BTreeSet;
use std::time::Duration;

use queue::{Fail, JobState, Kind, NewJob, Payload, Queue, Worker};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Gate, Store, ask, ask_plainly, job, on_every_store, text, until, until_finished,
    until_state,
};

on_every_store!(
    jobs_are_listed_page_by_page,
    a_finished_job_can_run_again,
    a_key_that_is_taken_is_not_taken_back,
    jobs_are_deleted_but_running_ones,
    all_of_a_selection_are_cancelled_when_that_is_meant,
    a_queue_is_purged_when_that_is_meant,
    a_paused_queue_waits,
    dead_jobs_are_grouped_redriven_and_purged_by_what_killed_them,
    a_redrive_stops_when_too_many_fail_again,
    a_redrive_of_all_dead_jobs_is_asked_for_and_gives_up_without_workers,
);

async fn enqueue(queue: &Queue, kind: &str, count: usize, delay: Duration) -> Vec<String> {
    let job = |_| NewJob::new(Kind::new(kind).unwrap(), Payload::raw("x")).delay(delay);
    let jobs: Vec<NewJob> = (0..count).map(job).collect();
    let ids = jobs.iter().map(|job| job.job_id().to_string()).collect();
    queue.enqueue_all(jobs).await.unwrap();
    ids
}

/// Makes dead jobs, one for each message.
async fn dead(queue: &Queue, kind: &str, messages: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for message in messages {
        let new = job(kind, &json!(message)).max_attempts(1);
        ids.push(queue.enqueue(new).await.unwrap().id);
    }
    let worker = failing(queue, kind);
    for id in &ids {
        assert_eq!(until_finished(queue, *id).await.state, JobState::Dead);
    }
    worker.drain(Duration::from_secs(5)).await;
    ids.iter().map(ToString::to_string).collect()
}

/// Fails each job with its payload.
fn failing(queue: &Queue, kind: &str) -> queue::RunningWorker {
    struct Failing;
    impl queue::Executor for Failing {
        async fn run(&self, context: queue::Context) -> Result<Option<Payload>, Fail> {
            Err(Fail::retry(context.spec().payload.decode::<String>().unwrap()))
        }
    }
    Worker::new(queue).executor(Kind::new(kind).unwrap(), None, Failing).start().unwrap()
}

async fn count(queue: &Queue, state: JobState) -> u64 {
    let stats = queue.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
}

fn ids(listed: &Value) -> Vec<String> {
    let jobs = listed["jobs"].as_array().unwrap();
    jobs.iter().map(|job| text(&job["id"]).to_owned()).collect()
}

async fn jobs_are_listed_page_by_page(store: Store) {
    let queue = store.connect().await;
    let ready = enqueue(&queue, "a", 5, Duration::ZERO).await;
    let later = enqueue(&queue, "b", 2, Duration::from_secs(3600)).await;

    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut command = vec!["job", "ls", "--state", "ready", "--limit", "2"];
        if let Some(cursor) = &cursor {
            command.extend(["--cursor", cursor.as_str()]);
        }
        let listed = ask(&store, &command);
        assert_eq!(listed.code, 0, "{listed:?}");
        let listed = listed.json();
        assert!(listed["jobs"].as_array().unwrap().len() <= 2);
        seen.extend(ids(&listed));
        match listed["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(BTreeSet::from_iter(seen), BTreeSet::from_iter(ready));

    let all = ask(&store, &["job", "ls"]).json();
    let states: Vec<&str> =
        all["jobs"].as_array().unwrap().iter().map(|job| text(&job["state"])).collect();
    assert_eq!(states, [["ready"; 5].as_slice(), &["scheduled"; 2]].concat());
    assert_eq!((&all["quarantined"], &all["is_cut"]), (&json!([]), &json!(false)));
    let of_kind = ask(&store, &["job", "ls", "--kind", "b"]).json();
    assert_eq!(BTreeSet::from_iter(ids(&of_kind)), BTreeSet::from_iter(later));
    assert_eq!(ids(&ask(&store, &["job", "ls", "--queue", "other"]).json()), [""; 0]);
    let plainly = ask_plainly(&store, &["job", "ls", "--state", "ready", "--limit", "2"]);
    assert!(plainly.out.contains("there may be more: --cursor "), "{plainly:?}");
}

async fn a_finished_job_can_run_again(store: Store) {
    let queue = store.connect().await;
    let id = dead(&queue, "a", &["broken"]).await.remove(0);
    let shown = ask(&store, &["job", "show", &id]).json();
    let past = &shown["history"][0];
    assert_eq!((&past["number"], &past["end"]), (&json!(1), &json!("failed")));
    assert_eq!(past["error"]["message"], "broken");
    assert!(past["worker"].is_string() && past["ended_at"].is_number(), "{past}");
    let plainly = ask_plainly(&store, &["job", "show", &id]).out;
    assert!(plainly.contains("history    ") && plainly.contains(": broken\n"), "{plainly}");

    let retried = ask(&store, &["job", "retry", &id]);
    assert_eq!((retried.code, &retried.json()["result"]), (0, &json!("ready")));
    let shown = ask(&store, &["job", "show", &id]).json();
    assert_eq!((&shown["state"], &shown["failures"]), (&json!("ready"), &json!(0)));
    let again = ask(&store, &["job", "retry", &id]);
    assert_eq!((again.code, &again.json()["result"]), (1, &json!("not_finished")));

    ask(&store, &["job", "cancel", &id]);
    let unknown = queue::JobId::new().to_string();
    let kept = ask(&store, &["job", "retry", "--keep-counts", &unknown, &id]);
    // What can be done is done, and what is unknown is told.
    assert_eq!((kept.code, &kept.json()["result"]), (4, &json!("ready")));
    assert_eq!(kept.error()["error"]["id"], json!(unknown));
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn a_key_that_is_taken_is_not_taken_back(store: Store) {
    let enqueue = || {
        let said = ask(&store, &["enqueue", "a", "--idempotency-key", "key"]);
        text(&said.json()["id"]).to_owned()
    };
    let first = enqueue();
    assert_eq!(ask(&store, &["job", "cancel", &first]).code, 0);
    let second = enqueue();
    assert_ne!(first, second);
    let retried = ask(&store, &["job", "retry", &first]);
    assert_eq!((retried.code, &retried.json()["result"]), (5, &json!("key_taken")));
    let plainly = ask_plainly(&store, &["job", "retry", &first]);
    assert!(plainly.code == 5 && plainly.out.contains(&second), "{plainly:?}");
}

async fn jobs_are_deleted_but_running_ones(store: Store) {
    let (gate, queue) = (Gate::new(), store.connect().await);
    let _daemon = Daemon::start(&store.url(), &gate.executor());
    let running = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    until_state(&queue, running, JobState::Running).await;
    let waiting = enqueue(&queue, "a", 2, Duration::ZERO).await;

    let running = running.to_string();
    let deleted = ask(&store, &["job", "delete", &waiting[0], &running, &waiting[1]]);
    let results: Vec<Value> = deleted.documents().iter().map(|d| d["result"].clone()).collect();
    assert_eq!(
        (deleted.code, results),
        (1, vec!["deleted".into(), "running".into(), "deleted".into()])
    );
    assert_eq!(ask(&store, &["job", "show", &waiting[0]]).code, 4);
    assert_eq!(ask(&store, &["job", "delete", &waiting[0], &waiting[1]]).code, 4);
    gate.open();
    assert_eq!(ask(&store, &["job", "wait", &running]).code, 0);
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn all_of_a_selection_are_cancelled_when_that_is_meant(store: Store) {
    let queue = store.connect().await;
    enqueue(&queue, "a", 3, Duration::ZERO).await;
    enqueue(&queue, "a", 2, Duration::from_secs(3600)).await;
    enqueue(&queue, "b", 1, Duration::ZERO).await;
    let command = ["job", "cancel", "--all", "--kind", "a"];
    let asked = ask(&store, &command);
    let document = asked.json();
    assert_eq!((asked.code, &document["done"], &document["jobs"]), (1, &json!(false), &json!(5)));
    assert_eq!(document["states"], json!({ "ready": 3, "scheduled": 2 }));
    assert_eq!(count(&queue, JobState::Cancelled).await, 0);

    let done = ask(&store, &[&command[..], &["--state", "ready", "--yes"]].concat());
    assert_eq!((done.code, &done.json()["cancelled"]), (0, &json!(3)));
    let done = ask(&store, &[&command[..], &["--yes"]].concat());
    assert_eq!((done.code, &done.json()["cancelled"]), (0, &json!(2)));
    assert_eq!(count(&queue, JobState::Ready).await, 1);
}

async fn a_queue_is_purged_when_that_is_meant(store: Store) {
    let queue = store.connect().await;
    dead(&queue, "a", &["x"]).await;
    enqueue(&queue, "a", 2, Duration::ZERO).await;
    enqueue(&queue, "a", 1, Duration::from_secs(3600)).await;
    let asked = ask_plainly(&store, &["queue", "purge", "default"]);
    assert_eq!(asked.code, 1);
    assert!(asked.out.starts_with("would be deleted: 3 jobs (2 ready, 1 scheduled);"), "{asked:?}");
    assert_eq!(count(&queue, JobState::Ready).await, 2);

    for arguments in [
        &["queue", "purge", "defualt", "--yes"][..],
        &["queue", "explain", "defualt"],
        &["queue", "pause", "defualt"],
    ] {
        let said = ask_plainly(&store, arguments);
        assert_eq!(said.code, 0);
        assert!(said.out.contains("no job of a queue with this name"), "{said:?}");
    }
    let purged = ask(&store, &["queue", "purge", "default", "--yes"]);
    assert_eq!((purged.code, &purged.json()["deleted"]), (0, &json!(3)));
    // What is over is history, and goes only if it is named.
    assert_eq!(count(&queue, JobState::Dead).await, 1);
    let purged = ask(&store, &["queue", "purge", "default", "--state", "dead", "--yes"]);
    assert_eq!(purged.json()["deleted"], 1);
    assert!(queue.stats().await.unwrap().is_empty());
    assert!(queue.audit().await.unwrap().is_empty());
}

async fn a_paused_queue_waits(store: Store) {
    let gate = Gate::new();
    gate.open();
    // Before there is anything: a queue that is not to start is paused first.
    let paused = ask(&store, &["queue", "pause", "a", "without-jobs"]);
    assert_eq!(paused.code, 0);
    assert!(paused.documents().iter().all(|d| d["changed"] == true && d["paused"] == true));
    assert_eq!(ask(&store, &["queue", "pause", "a"]).json()["changed"], false);
    let queue = store.connect().await;
    let first = queue.enqueue(job("gate", &json!({})).queue("b")).await.unwrap().id;

    let config = "[worker]\nqueues = [\"a\", \"b\"]\n".to_owned() + &gate.executor();
    let daemon = Daemon::start(&store.url(), &config);
    let waits = queue.enqueue(job("gate", &json!({})).queue("a")).await.unwrap().id;
    let runs = queue.enqueue(job("gate", &json!({})).queue("b")).await.unwrap().id;
    until_finished(&queue, first).await;
    until_finished(&queue, runs).await;
    assert_eq!(queue.get(waits).await.unwrap().unwrap().state, JobState::Ready);
    let listed = ask(&store, &["queue", "ls"]).json();
    assert_eq!(listed["paused"], json!(["a", "without-jobs"]));
    let blocked = "queue_blocked_jobs{queue=\"a\",reason=\"paused\"} 1";
    until("the blocked job counted", async || {
        daemon.get("/metrics").1.lines().any(|line| line == blocked).then_some(())
    })
    .await;

    let resumed = ask(&store, &["queue", "resume", "a", "without-jobs"]);
    assert!(resumed.documents().iter().all(|d| d["changed"] == true && d["paused"] == false));
    assert_eq!(until_finished(&queue, waits).await.state, JobState::Completed);
}

async fn dead_jobs_are_grouped_redriven_and_purged_by_what_killed_them(store: Store) {
    let queue = store.connect().await;
    let of_user = dead(&queue, "a", &["no user 1", "no user 2", "no user 3"]).await;
    let other = dead(&queue, "b", &["disk full"]).await;

    let listed = ask(&store, &["dead", "ls", "--kind", "a"]).json();
    assert_eq!(BTreeSet::from_iter(ids(&listed)), BTreeSet::from_iter(of_user.clone()));
    let errors = ask(&store, &["dead", "ls", "--errors"]).json()["errors"].clone();
    assert_eq!((&errors[0]["jobs"], &errors[1]["jobs"]), (&json!(3), &json!(1)));
    assert!(text(&errors[0]["example"]).starts_with("no user "), "{errors}");
    let by_kind = json!([{ "queue": "default", "kind": "b", "jobs": 1 }]);
    assert_eq!((&errors[1]["example"], &errors[1]["by_kind"]), (&json!("disk full"), &by_kind));
    let fingerprint = text(&errors[0]["fingerprint"]);
    assert_eq!(listed["jobs"][0]["fingerprint"], fingerprint);

    let redrive = ["dead", "redrive", "--error", fingerprint];
    let dry = ask(&store, &[&redrive[..], &["--dry-run"]].concat());
    let told = dry.json();
    assert_eq!((dry.code, &told["matched"], &told["ready"]), (0, &json!(3), &json!(0)));
    assert_eq!(count(&queue, JobState::Dead).await, 4);
    let redriven = ask(&store, &[&redrive[..], &["--rate", "1000/s"]].concat());
    assert_eq!((redriven.code, &redriven.json()["ready"]), (0, &json!(3)));
    assert_eq!(count(&queue, JobState::Ready).await, 3);
    let named = ask(&store, &["dead", "redrive", &other[0], &of_user[0]]);
    let results: Vec<Value> = named.documents().iter().map(|d| d["result"].clone()).collect();
    assert_eq!((named.code, results), (1, vec!["ready".into(), "not_dead".into()]));

    let worker = (failing(&queue, "a"), failing(&queue, "b"));
    until("all dead again", async || (count(&queue, JobState::Dead).await == 4).then_some(()))
        .await;
    drop(worker);
    let purge = ["dead", "purge", "--error", fingerprint];
    let asked = ask(&store, &purge);
    assert_eq!((asked.code, &asked.json()["jobs"]), (1, &json!(3)));
    let purged = ask(&store, &[&purge[..], &["--yes"]].concat());
    assert_eq!((purged.code, &purged.json()["deleted"]), (0, &json!(3)));
    assert_eq!(ids(&ask(&store, &["dead", "ls"]).json()), other);
    let purged = ask(&store, &["dead", "purge", "--yes"]);
    assert_eq!((purged.code, &purged.json()["deleted"]), (0, &json!(1)));
    assert!(queue.stats().await.unwrap().is_empty());
}

async fn a_redrive_stops_when_too_many_fail_again(store: Store) {
    let queue = store.connect().await;
    dead(&queue, "a", &["still broken"; 30]).await;
    let worker = failing(&queue, "a");
    let stopped = ask(&store, &["dead", "redrive", "--all", "--max-failures", "50%"]);
    let told = stopped.json();
    assert_eq!((stopped.code, &told["stopped"]), (1, &json!("too_many_failures")), "{told}");
    assert!(told["failed"].as_u64().unwrap() >= 10, "{told}");
    worker.drain(Duration::from_secs(5)).await;
}

async fn a_redrive_of_all_dead_jobs_is_asked_for_and_gives_up_without_workers(store: Store) {
    let queue = store.connect().await;
    let ids = dead(&queue, "a", &["broken"; 3]).await;
    for options in [&[][..], &["--rate", "9/s"], &["--max-failures", "50%"], &["--keep-counts"]] {
        let refused = ask(&store, &[&["dead", "redrive"], options].concat());
        assert_eq!((refused.code, &refused.error()["error"]["code"]), (2, &json!("usage")));
        assert!(text(&refused.error()["error"]["message"]).contains("say --all"), "{refused:?}");
    }
    assert_eq!(ask(&store, &["dead", "redrive", "--all", &ids[0]]).code, 2);
    assert_eq!(count(&queue, JobState::Dead).await, 3);
    let dry = ask(&store, &["dead", "redrive", "--dry-run"]);
    assert_eq!((dry.code, &dry.json()["matched"]), (0, &json!(3)));

    // Without a worker none of them ever runs or ends.
    let careful = ["--max-failures", "50%", "--patience", "50ms"];
    let stopped = ask(&store, &[&["dead", "redrive", "--all"], &careful[..]].concat());
    let told = stopped.json();
    assert_eq!((stopped.code, &told["stopped"]), (6, &json!("no_outcomes")), "{told}");
    assert_eq!(told["ready"], 3, "{told}");
}
