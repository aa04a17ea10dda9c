//! `workerd demo`, as in the README.

use rustix::process::Signal;

use crate::support::{Daemon, Store, on_every_store, said, workerd};

on_every_store!(every_job_is_accounted_for);

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
    // The demo's jobs are nobody else's.
    assert!(store.connect().await.stats().await.unwrap().is_empty());
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
