//! A daemon made with [`workerd::main_with`]. This program is the daemon if its first argument is
//! `run`, and otherwise the test that starts, uses and ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use queue::{Connect, Fail, Job, NewJob, Queue};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Job for Greet {
    const KIND: &'static str = "greet";
}

async fn greet(job: Greet) -> Result<String, Fail> {
    Ok(format!("hello, {}", job.name))
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("run") => return workerd::main_with(|worker| worker.handle::<Greet, _>(greet)),
        // What a test runner asks before it runs anything.
        Some("--list") => {
            if !std::env::args().any(|argument| argument == "--ignored") {
                println!("own_handlers: test");
            }
        }
        _ => test(),
    }
    ExitCode::SUCCESS
}

/// Killed with this value, if it has not ended by itself.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn test() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let daemon = Command::new(std::env::current_exe().unwrap())
        .args(["run", "--listen", "off", "--log-level", "warn", "--url", &url])
        .spawn();
    let mut daemon = Daemon(daemon.unwrap());

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let result: String = runtime.block_on(async {
        let queue = Queue::connect(&url).await.unwrap();
        let id =
            queue.enqueue(NewJob::of(&Greet { name: "you".into() }).unwrap()).await.unwrap().id;
        let record = queue.wait_finished(id, Duration::from_secs(40)).await.unwrap().unwrap();
        record.result.expect("the job completes").decode().unwrap()
    });
    assert_eq!(result, "hello, you");

    let pid = Pid::from_raw(i32::try_from(daemon.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    println!("test own_handlers ... ok");
}
