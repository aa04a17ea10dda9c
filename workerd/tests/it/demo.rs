//! `workerd demo`, as in the README.

use std::io::BufRead;

use queue::{Connect, ConnectOptions, Namespace, Queue};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Daemon, Store, on_every_store, said, workerd};

on_every_store!(every_job_is_accounted_for, an_interrupted_demo_leaves_nothing);

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..20 {
        std::fs::write(folder.path().join(format!("-file {number}")), "x".repeat(number)).unwrap();
    }
    folder
}

async fn every_job_is_accounted_for(store: Store) {
    let folder = folder();
    let mut demo = workerd();
    demo.args(["demo", "--json", "--url", &store.url(), "--dir"]).arg(folder.path());
    let said = said(&mut demo);
    assert_eq!(said.code, 0, "{said:?}");
    let summary = said.json();
    assert_eq!(summary["jobs"], 26);
    assert_eq!(summary["states"], serde_json::json!({ "completed": 24, "dead": 2 }));
    assert_eq!(summary["retried"][0]["kind"], "demo.flaky");
    assert_eq!(summary["problems"], serde_json::json!([]));
    assert!(summary["most_at_once"].as_u64() <= summary["limit"].as_u64(), "{summary}");
    // The demo's jobs are nobody else's, and nothing of them stays.
    assert!(store.connect().await.stats().await.unwrap().is_empty());
    assert!(is_clean(&store).await);
}

/// Whether no demo left anything but a note of its namespace.
async fn is_clean(store: &Store) -> bool {
    let options = ConnectOptions::default().namespace(Namespace::new("demo").unwrap());
    let demo = Queue::connect_with(&store.url(), options).await.unwrap();
    let is_empty = demo.stats().await.unwrap().iter().all(|row| row.jobs.is_empty());
    let has_no_limits = demo.limits().await.unwrap().is_empty();
    let is_sound = demo.audit().await.unwrap().is_empty();
    let keys = store.lasting_keys();
    let is_clean = is_empty && has_no_limits && is_sound && keys.len() <= 2;
    if !is_clean {
        eprintln!("jobs: {}, limits: {}, keys: {keys:?}", !is_empty, !has_no_limits);
    }
    is_clean
}

async fn an_interrupted_demo_leaves_nothing(store: Store) {
    let folder = folder();
    // Its checksums take for ever.
    let programs = tempfile::tempdir().unwrap();
    let slow = programs.path().join("cksum");
    std::fs::write(&slow, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let mut demo = workerd();
    demo.args(["demo", "--serve", "--listen", "127.0.0.1:0", "--url", &store.url(), "--dir"]);
    demo.arg(folder.path()).env("PATH", path).env("WORKERD_LOG_LEVEL", "info");
    let mut demo = demo.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let started = std::io::BufReader::new(demo.stderr.take().unwrap());
    let mut lines = started.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("worker_started")));
    let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(lines.any(|line| line.contains("interrupted by SIGINT")));
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    assert!(is_clean(&store).await);
}

#[test]
fn a_file_that_vanishes_is_accounted_for() {
    let folder = folder();
    let programs = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nrm -f \"$1\"\necho gone >&2\nexit 1\n";
    let path = programs.path().join("cksum");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let said =
        said(workerd().args(["demo", "--json", "--dir"]).arg(folder.path()).env("PATH", path));
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!((&said.json()["vanished"], &said.json()["jobs"]), (&23.into(), &26.into()));
}

#[test]
fn what_it_would_not_heed_is_refused() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let demo = |arguments: &[&str]| {
        said(workerd().arg("demo").args(arguments).arg("--dir").arg(folder.path()))
    };
    let with_file = demo(&["-c", "workerd.toml"]);
    assert!(with_file.code == 2 && with_file.err.contains("leave -c out"), "{with_file:?}");
    let used = demo(&["--serve", "--listen", &address]);
    assert!(used.code == 1 && used.err.contains("--listen") && used.out.is_empty(), "{used:?}");
}

#[test]
fn it_needs_no_store_and_is_for_people() {
    let folder = folder();
    // Somebody's own queue is left alone.
    let said = said(
        workerd()
            .arg("demo")
            .arg("--dir")
            .arg(folder.path())
            .env("WORKERD_URL", "redis://127.0.0.1:1"),
    );
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("26 jobs in ") && said.out.contains("timed out"), "{said:?}");
    assert!(said.out.contains("Every job ended as intended"), "{said:?}");
}

#[test]
fn a_folder_without_files_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let said = said(workerd().arg("demo").arg("--dir").arg(folder.path()));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("--dir"), "{said:?}");
}

#[test]
fn it_can_go_on_with_its_metrics() {
    let folder = folder();
    let mut demo = workerd();
    demo.args(["demo", "--serve", "--listen", "127.0.0.1:0", "--dir"]).arg(folder.path());
    let mut daemon = Daemon::spawn(&mut demo, folder);
    let (status, metrics) = daemon.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("outcome=\"retried\"}"), "{metrics}");
    assert_eq!(daemon.get("/readyz").0, 200);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.exit_code(), Some(0));
}
