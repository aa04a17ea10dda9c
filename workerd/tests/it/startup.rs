//! Stores that are not there yet, and configurations that are wrong.

use std::time::Instant;

use queue::{Connect, JobState, Queue};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Daemon, Gate, PATIENCE, Redis, Store, executor, job, said, text, until, until_finished, workerd,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_waits_for_a_store_that_starts_later() {
    let (gate, mut redis) = (Gate::new(), Redis::not_started());
    gate.open();
    let daemon = Daemon::start(&redis.url(), &gate.executor());
    daemon.wait_for_event("connect_failed");
    assert_eq!(daemon.get("/livez").0, 200);
    assert_eq!(daemon.get("/readyz"), (503, "not connected to the store\n".to_owned()));
    assert!(daemon.get("/metrics").1.contains("queue_store_up 0"));

    redis.start_now();

    until("ready", async || (daemon.get("/readyz").0 == 200).then_some(())).await;
    let queue = Queue::connect(&redis.url()).await.unwrap();
    let id = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_says_what_is_wrong_with_its_store_and_works_on() {
    let (gate, redis) = (Gate::new(), Redis::start());
    gate.open();
    let queue = Queue::connect(&redis.url()).await.unwrap();
    assert!(redis.call("CONFIG SET appendfsync no").starts_with("+OK"));
    let keys = redis.call("KEYS *:meta");
    let meta = keys.lines().find(|line| line.ends_with(":meta")).unwrap();
    // A clock that was once in the year 2100.
    assert!(redis.call(&format!("HSET {meta} clock_ms 4102444800000")).starts_with(':'));

    let daemon = Daemon::start(&redis.url(), &gate.executor());
    for (level, name) in [("WARN", "persistence"), ("ERROR", "store clock")] {
        let what = format!("store_check of {name}");
        let entry = daemon.wait_for_entry(&what, |entry| {
            entry["event"] == "store_check" && entry["name"] == name
        });
        assert_eq!(entry["level"], level, "{entry}");
        assert!(!text(&entry["found"]).is_empty() && !text(&entry["remedy"]).is_empty());
    }
    let id = queue.enqueue(job("gate", &json!({}))).await.unwrap().id;
    assert_eq!(until_finished(&queue, id).await.state, JobState::Completed);
}

/// As while a fail-over is under way.
#[test]
fn a_daemon_whose_address_leads_to_a_replica_waits_for_the_master() {
    let (gate, redis) = (Gate::new(), Redis::start());
    assert!(redis.call("REPLICAOF 127.0.0.1 1").starts_with("+OK"));
    let daemon = Daemon::start(&redis.url(), &gate.executor());
    let failed = daemon.wait_for_entry("why", |entry| entry["event"] == "connect_failed");
    assert!(text(&failed["error"]).contains("master"), "{failed}");
    assert!(redis.call("REPLICAOF NO ONE").starts_with("+OK"));
    daemon.wait_for_event("connected");
}

/// Its calls would leave half of their work.
#[test]
fn a_daemon_that_may_not_do_all_of_its_work_does_not_start() {
    let (gate, redis) = (Gate::new(), Redis::start());
    assert!(redis.call("ACL SETUSER w on >s ~* &* +@all -rpush").starts_with("+OK"));
    let url = format!("{}?user=w&pass=s", redis.url());
    let mut daemon = Daemon::start(&url, &gate.executor());
    let found = daemon.wait_for_entry("what is forbidden", |entry| entry["name"] == "permissions");
    assert!(text(&found["found"]).contains("RPUSH"), "{found}");
    assert_eq!(daemon.exit_code(), Some(3));
}

/// Only a restart helps: the file that it has open is not the one that others would use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_file_was_moved_asks_for_a_restart() {
    let (gate, store) = (Gate::new(), Store::sqlite());
    let daemon = Daemon::start(&store.url(), &gate.executor());
    until("ready", async || (daemon.get("/readyz").0 == 200).then_some(())).await;
    assert_eq!(daemon.get("/livez").0, 200);
    let url = store.url();
    let file = url.strip_prefix("sqlite:").unwrap();
    std::fs::rename(file, format!("{file}.away")).unwrap();
    let red = || async { Some(daemon.get("/livez")).filter(|(status, _)| *status == 503) };
    let (_, why) = until("red", red).await;
    assert!(why.contains("start it again"), "{why}");
}

#[tokio::test]
async fn a_daemon_without_a_store_ends_at_the_first_signal() {
    let (gate, redis) = (Gate::new(), Redis::not_started());
    let mut daemon = Daemon::start(&redis.url(), &gate.executor());
    daemon.wait_for_event("connect_failed");
    let before = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code(), Some(0));
    assert!(before.elapsed() < PATIENCE / 2);
}

#[test]
fn a_wrong_configuration_is_reported_whole_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "[store]\nurl = \"sqlite:x.db\"\n[worker]\nslots = 1\n[http]\nlisten = \"0.0.0.0:1\"\n";
    let path = crate::support::write_config(folder.path(), text);
    for command in ["run", "check", "config"] {
        let said = said(workerd().arg(command).arg("-c").arg(&path).current_dir(folder.path()));
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("workerd.toml:4: worker.slots: unknown key"), "{said:?}");
        assert!(said.err.contains("workerd.toml:6: http.listen: "), "{said:?}");
    }
    assert!(!folder.path().join("x.db").exists());
}

#[test]
fn a_daemon_with_nothing_to_run_says_so() {
    let store = Store::sqlite();
    let said = said(workerd().args(["run", "--listen", "off", "--url", &store.url()]));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("add [executors.\"KIND\"]"), "{said:?}");
    // Before it has touched the store.
    assert!(!std::path::Path::new(store.url().strip_prefix("sqlite:").unwrap()).exists());
    let folder = tempfile::tempdir().unwrap();
    let path = crate::support::write_config(folder.path(), "");
    let check =
        crate::support::said(workerd().args(["check", "--url", &store.url(), "-c"]).arg(path));
    assert!(check.code == 0 && check.out.contains("[executors."), "{check:?}");
}

#[test]
fn an_address_that_is_wrong_is_reported_with_its_place_and_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[store]\nurl = \"redis://:hunter2@host:port\"\n";
    let path = crate::support::write_config(folder.path(), text);
    for command in ["run", "check", "config"] {
        let said = said(workerd().arg(command).arg("-c").arg(&path));
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("workerd.toml:2: store.url: the port is"), "{said:?}");
        assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
    }
}

#[test]
fn variables_that_nobody_reads_and_those_that_programs_will_not_get_are_told() {
    let (gate, store) = (Gate::new(), Store::sqlite());
    let config = gate.executor() + "env = [\"NO_SUCH_VARIABLE\"]\n";
    let daemon = Daemon::start_with(&store.url(), &config, Some(("WORKERD_LEASES", "5s")));
    let unknown = daemon.wait_for_event("variable_unknown");
    let (variable, nearest) = (&unknown["variable"], &unknown["nearest"]);
    assert_eq!((variable, nearest), (&json!("WORKERD_LEASES"), &json!("WORKERD_LEASE")));
    assert_eq!(daemon.wait_for_event("variable_missing")["variable"], "NO_SUCH_VARIABLE");
}

#[tokio::test]
async fn two_daemons_cannot_listen_at_one_place_and_the_second_says_what_to_do() {
    let (gate, store) = (Gate::new(), Store::sqlite());
    let first = Daemon::start(&store.url(), &gate.executor());
    let folder = tempfile::tempdir().unwrap();
    let path = crate::support::write_config(folder.path(), &gate.executor());
    let mut run = workerd();
    run.args(["run", "--listen", &first.address, "--url", &store.url(), "-c"]).arg(path);
    let second = said(&mut run);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("http.listen"), "{second:?}");
}

#[test]
fn a_daemon_that_cannot_make_folders_does_not_take_jobs() {
    let (gate, store) = (Gate::new(), Store::sqlite());
    let folder = tempfile::tempdir().unwrap();
    let path = crate::support::write_config(folder.path(), &gate.executor());
    let mut run = workerd();
    run.args(["run", "--listen", "off", "--url", &store.url(), "-c"]).arg(&path);
    let said = said(run.env("TMPDIR", folder.path().join("missing")));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("set TMPDIR"), "{said:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_cannot_read_the_environment_of_their_daemon() {
    let store = Store::sqlite();
    let script = "cat /proc/$PPID/environ >/dev/null 2>&1 && echo '\"read\"' || echo '\"no\"'";
    let _daemon = Daemon::start(&store.url(), &executor("spy", script));
    let queue = store.connect().await;
    let id = queue.enqueue(job("spy", &json!({}))).await.unwrap().id;
    let result = until_finished(&queue, id).await.result.unwrap();
    // Whoever may read everything may read this.
    let expected = if rustix::process::geteuid().is_root() { "read" } else { "no" };
    assert_eq!(result.decode::<String>().unwrap(), expected);
}
