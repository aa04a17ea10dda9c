//! A process that adopts orphans: all that holds without holds as well, and nobody is left.
//!
//! Adopting is for a whole process. The tests of this file therefore start this very program
//! again, for some of its tests; there, [`VARIABLE`] is set.

use rustix::process::{Pid, getpid, test_kill_process};

use super::*;

const VARIABLE: &str = "TEST_ADOPTS_ORPHANS";

/// Adopts orphans if this process is one that should.
pub(super) fn adopt_if_asked() {
    static ADOPTS: std::sync::Once = std::sync::Once::new();
    if std::env::var_os(VARIABLE).is_some() {
        ADOPTS.call_once(|| tree::adopt().unwrap());
    }
}

/// Runs tests in such a process, and answers how many it were.
fn run_in_another_process(arguments: &[&str]) -> usize {
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    // Two threads, even for one test: with one, tests run on the main thread.
    process.args(["--test-threads", "2"]).args(arguments).env(VARIABLE, "1");
    let output = process.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let count = text.split("test result: ok. ").nth(1).and_then(|rest| rest.split(' ').next());
    count.unwrap().parse().unwrap()
}

const TESTS: &str = "executor::command::tests::";

#[test]
fn everything_else_holds_as_well() {
    assert!(run_in_another_process(&[TESTS, "--skip", "adopts"]) > 25);
}

#[test]
fn orphans_are_ended_and_reaped() {
    let tests = [
        "orphans_of_many_programs_at_once",
        "orphans_of_a_program_that_is_stopped",
        "orphans_of_an_attempt_that_is_dropped",
        "orphans_that_end_by_themselves",
        "a_child_that_is_no_orphan_is_left_alone",
    ];
    for test in tests {
        let test = format!("{TESTS}adopts::{test}");
        assert_eq!(run_in_another_process(&[&test, "--exact", "--ignored"]), 1, "{test}");
    }
}

/// The children of the main thread: orphans, ended or not.
fn adopted() -> Vec<i32> {
    let id = getpid().as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/self/task/{id}/children")).unwrap();
    list.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// A script that leaves processes behind, of which none says in which group or session it is, and
/// that writes their ids to a file.
fn leaving(then: &str) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let file = file.display();
    let sleep = format!("echo $$ >> {file}; exec sleep 1000");
    let script = format!(
        "touch {file}; (setsid sh -c '{sleep}' &); (sh -c '{sleep}' &); (setsid sh -c '(setsid true &); {sleep}' &)
         while [ $(wc -l < {file}) -lt 3 ]; do sleep 0.01; done; {then}"
    );
    (shell(&script), folder)
}

fn left(folder: &tempfile::TempDir) -> Vec<Pid> {
    let ids = std::fs::read_to_string(folder.path().join("ids")).unwrap();
    ids.lines().map(|id| Pid::from_raw(id.parse().unwrap()).unwrap()).collect()
}

/// Neither alive nor a zombie.
fn are_gone(folder: &tempfile::TempDir) -> bool {
    left(folder).into_iter().all(|id| test_kill_process(id).is_err())
}

#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn orphans_of_many_programs_at_once() {
    adopt_if_asked();
    let lifeline = Lifeline::new();
    let long = lifeline.script("", "(setsid sleep 1000 &); sleep 1000");
    let (started, gone) = lifeline.watch();
    let long = tokio::spawn(async move { run(&long, &Payload::default()).await });
    soon(started).await.unwrap();
    for _ in 0..3 {
        let attempts = std::iter::repeat_with(|| async {
            let (command, folder) = leaving("exit 0");
            assert_eq!(soon(run(&command, &Payload::default())).await, Ok(None));
            assert_eq!(left(&folder).len(), 3);
            assert!(are_gone(&folder));
        });
        futures_util::future::join_all(attempts.take(4)).await;
    }
    // What belongs to the one that goes on has not been touched, until it is over.
    soon(async {
        while adopted().len() != 1 {
            a_moment().await
        }
    })
    .await;
    assert!(!long.is_finished());
    long.abort();
    soon(gone).await.unwrap();
    soon(nobody()).await;
}

async fn nobody() {
    while !adopted().is_empty() {
        a_moment().await;
    }
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn orphans_of_a_program_that_is_stopped() {
    adopt_if_asked();
    let (command, folder) = leaving("sleep 1000");
    let command = Command { kill_grace: Duration::from_millis(50), ..command };
    let cancelled = async {
        while !std::fs::read_to_string(folder.path().join("ids"))
            .is_ok_and(|t| t.lines().count() == 3)
        {
            a_moment().await;
        }
        CancelReason::Shutdown
    };
    let fail = soon(run_until(&command, &Payload::default(), cancelled)).await.unwrap_err();
    assert_eq!(fail, Fail::retry("stopped because the worker shuts down"));
    assert_eq!(left(&folder).len(), 3);
    assert!(are_gone(&folder));
    assert!(adopted().is_empty());
}

#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn orphans_of_an_attempt_that_is_dropped() {
    adopt_if_asked();
    let lifeline = Lifeline::new();
    let command = lifeline.script("", "(setsid sleep 1000 &); sleep 1000");
    let (started, gone) = lifeline.watch();
    let attempt = tokio::spawn(async move { run(&command, &Payload::default()).await });
    soon(started).await.unwrap();
    attempt.abort();
    soon(gone).await.unwrap();
    soon(nobody()).await;
}

#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn orphans_that_end_by_themselves() {
    adopt_if_asked();
    let script = "(setsid true &); (true &); (setsid sh -c 'true & true & true' &); exit 0";
    assert_eq!(soon(run(&shell(script), &Payload::default())).await, Ok(None));
    assert!(adopted().is_empty());
    // Nobody knows whose this one is: it may outlive its program, but is reaped beside others.
    let script = "(env -i setsid sh -c 'sleep 0.05' &); exit 0";
    assert_eq!(soon(run(&shell(script), &Payload::default())).await, Ok(None));
    let others = async {
        while !adopted().is_empty() {
            assert_eq!(run(&shell("exit 0"), &Payload::default()).await, Ok(None));
        }
    };
    soon(others).await;
}

#[tokio::test]
#[ignore = "runs in a process of its own"]
async fn a_child_that_is_no_orphan_is_left_alone() {
    // Started by a thread that has ended: a child of the main thread, as orphans are, but older
    // than any program.
    let sleep = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let mut sleep = std::thread::spawn(sleep).join().unwrap();
    let id = i32::try_from(sleep.id()).unwrap();
    soon(async {
        while adopted() != [id] {
            a_moment().await
        }
    })
    .await;
    adopt_if_asked();
    let (command, folder) = leaving("exit 0");
    assert_eq!(soon(run(&command, &Payload::default())).await, Ok(None));
    assert!(are_gone(&folder));
    assert_eq!(adopted(), [id]);
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}
