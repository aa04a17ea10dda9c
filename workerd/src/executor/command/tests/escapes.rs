//! What leaves the process group, and how: each is found although it is in another group.

use super::*;

async fn is_killed_at_the_end_of(script: &str) {
    let lifeline = Lifeline::new();
    let command = lifeline.script("", script);
    let (started, gone) = lifeline.watch();
    let end = tokio::spawn(async move { run(&command, &Payload::default()).await });
    soon(started).await.unwrap();
    soon(gone).await.unwrap();
    assert_eq!(soon(end).await.unwrap(), Ok(None));
}

async fn is_killed_at_the_limit_of(script: &str) {
    let lifeline = Lifeline::new();
    let command = Command {
        timeout: Some(Duration::from_millis(300)),
        kill_grace: Duration::from_millis(100),
        ..lifeline.script("", script)
    };
    let (started, gone) = lifeline.watch();
    let end = tokio::spawn(async move { run(&command, &Payload::default()).await });
    soon(started).await.unwrap();
    let fail = format!("{:?}", soon(end).await.unwrap().unwrap_err());
    assert!(fail.contains("timed out after 300ms"), "{fail}");
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn sessions_and_groups_of_their_own_end_with_the_program() {
    is_killed_at_the_end_of("setsid sleep 1000 & sleep 0.05; exit 0").await;
    is_killed_at_the_end_of("(setsid sh -c 'sleep 1000 & sleep 1000' &); sleep 0.05; exit 0").await;
    is_killed_at_the_end_of("set -m; sleep 1000 & exit 0").await;
}

#[tokio::test]
async fn sessions_and_groups_of_their_own_end_at_the_limit() {
    is_killed_at_the_limit_of("timeout 1000 sleep 1000").await;
    is_killed_at_the_limit_of("env -i setsid -w sleep 1000").await;
}

#[tokio::test]
async fn a_leader_that_leaves_its_group_is_stopped() {
    let script = "import os, signal, time; os.setpgid(0, os.getpgid(os.getppid())); \
                  signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)";
    let Some(python) = crate::config::find_in_path("python3") else {
        return is_killed_at_the_limit_of("perl -e 'setpgrp(0, getppid()); sleep 1000'").await;
    };
    let command = Command {
        program: python,
        arguments: vec![literal("-c"), literal(script)],
        timeout: Some(Duration::from_millis(500)),
        kill_grace: Duration::from_millis(100),
        ..program("")
    };
    let fail = soon(run(&command, &Payload::default())).await.unwrap_err();
    assert_eq!(fail, Fail::retry("timed out after 500ms").kind(ErrorKind::TimedOut));
}

#[tokio::test]
async fn children_have_the_grace_as_well_and_are_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // The leader ends at TERM; its child takes a moment more, and has it.
    let child = format!(
        "trap 'echo asked >> {0}; sleep 0.2; echo cleaned >> {0}; exit' TERM; \
                         echo ready >> {0}; while :; do sleep 0.01; done",
        log.display()
    );
    let lifeline = Lifeline::new();
    let command = lifeline.script("exit 1", &format!("sh -c \"{child}\" & wait"));
    let (started, gone) = lifeline.watch();
    let cancelled = async {
        started.await.unwrap();
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        CancelReason::Requested
    };
    let fail = soon(run_until(&command, &Payload::default(), cancelled)).await.unwrap_err();
    let fail = format!("{fail:?}");
    assert!(fail.contains("stopped because the job was cancelled"), "{fail}");
    soon(gone).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "ready\nasked\ncleaned\n");
}
