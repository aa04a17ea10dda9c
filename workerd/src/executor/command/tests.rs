//! Real programs: their results, their failures, and that nothing of them is left.

#[cfg(target_os = "linux")]
mod adopts;
#[cfg(target_os = "linux")]
mod escapes;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::{
    CancelReason, Codec, ErrorKind, Fail, Fingerprint, JobError, JobId, Kind, Payload, Progress,
    QueueName,
};
use serde_json::json;
use tokio::sync::oneshot;

use super::attempt::{self, Attempt};
use super::listener::tests::Heard;
use super::*;

fn literal(text: &str) -> Template {
    Template::parse(&text.replace('{', "{{").replace('}', "}}")).unwrap()
}

fn program(path: &str) -> Command {
    Command {
        program: PathBuf::from(path),
        arguments: Vec::new(),
        concurrency: None,
        limits: queue::LimitKeys::NONE,
        provider: None,
        timeout: None,
        environment: Vec::new(),
        kill_grace: Duration::from_secs(30),
        working_dir: None,
        output_max_bytes: queue::payload::RESULT_MAX_BYTES,
        stdout: Stdout::Result,
        throttled: None,
    }
}

fn shell(script: &str) -> Command {
    Command { arguments: vec![literal("-c"), literal(script)], ..program("/bin/sh") }
}

/// Adds arguments with slots, which the script sees as `$1` and so on.
fn with_arguments(mut command: Command, arguments: &[&str]) -> Command {
    command.arguments.push(literal("sh"));
    command.arguments.extend(arguments.iter().map(|text| Template::parse(text).unwrap()));
    command
}

async fn run_until(
    command: &Command,
    payload: &Payload,
    cancelled: impl Future<Output = CancelReason>,
) -> Result<Option<Payload>, Fail> {
    hear(command, payload, cancelled, &Heard::default()).await
}

async fn hear(
    command: &Command,
    payload: &Payload,
    cancelled: impl Future<Output = CancelReason>,
    listener: &Heard,
) -> Result<Option<Payload>, Fail> {
    let attempt = Attempt {
        job: JobId::from_bytes([7; 16]),
        kind: &Kind::new("test.kind").unwrap(),
        queue: &QueueName::default(),
        payload,
        number: 2,
        fence: 41,
        remaining: Duration::from_secs(60),
        listener,
    };
    #[cfg(target_os = "linux")]
    adopts::adopt_if_asked();
    let executor = CommandExecutor::new(command.clone(), Arc::default());
    attempt::run(&executor, &attempt, cancelled).await
}

async fn run(command: &Command, payload: &Payload) -> Result<Option<Payload>, Fail> {
    run_until(command, payload, std::future::pending()).await
}

async fn text(command: &Command) -> String {
    let result = run(command, &Payload::default()).await.unwrap().unwrap();
    String::from_utf8(result.bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn exit_codes_decide_what_becomes_of_the_job() {
    let fail = |script: &'static str| async move {
        run(&shell(script), &Payload::default()).await.unwrap_err()
    };
    assert_eq!(run(&shell("exit 0"), &Payload::default()).await, Ok(None));
    assert_eq!(fail("echo broken >&2; exit 3").await, Fail::retry("exit code 3: broken"));
    assert_eq!(fail("exit 75").await, Fail::retry("exit code 75 (retry later)"));
    assert_eq!(
        fail("echo never >&2; exit 100").await,
        Fail::dead("exit code 100 (do not retry): never")
    );
    assert_eq!(fail("kill -9 $$").await, Fail::retry("ended by signal 9"));
}

#[tokio::test]
async fn a_program_can_say_that_its_provider_turned_it_away() {
    let throttled = Some(Throttled { exit_code: 75, delay: Duration::from_secs(7) });
    let fail = async |script: &str| {
        let command = Command { throttled, ..shell(script) };
        run(&command, &Payload::default()).await.unwrap_err()
    };
    let after = |seconds| Fail::throttled(Duration::from_secs(seconds));
    assert_eq!(fail("exit 75").await, after(7));
    let say =
        |seconds: u8| format!("echo '{{\"retry_after_sec\": {seconds}}}' 1<> $WORKERD_EVENTS");
    // What it says last counts, and only with the code.
    assert_eq!(fail(&format!("{}; {}; exit 75", say(3), say(90))).await, after(90));
    assert_eq!(fail(&format!("{}; exit 3", say(3))).await, Fail::retry("exit code 3"));
    assert_eq!(fail(&format!("{}; kill -9 $$", say(3))).await, Fail::retry("ended by signal 9"));
}

#[tokio::test]
async fn errors_are_told_apart_by_the_last_line_of_standard_error() {
    let fingerprint = async |file: &str, cause: &str| {
        let lines = format!("Traceback:\n  in {file}\n{cause}");
        let script = format!("printf '%s\n\n' '{lines}' >&2; exit 1");
        let message = format!("exit code 1: {cause}\n{lines}");
        let fail = run(&shell(&script), &Payload::default()).await.unwrap_err();
        assert_eq!(fail, Fail::retry(&message));
        Fingerprint::of(&JobError::new(ErrorKind::Failed, message))
    };
    let refused = fingerprint("a.py", "ConnectionRefusedError: db down").await;
    assert_eq!(fingerprint("b.py", "ConnectionRefusedError: db down").await, refused);
    assert_ne!(fingerprint("a.py", "KeyError: user").await, refused);
}

#[tokio::test]
async fn an_error_that_is_one_line_is_told_once_and_long_lines_stay_in_bounds() {
    let fail = async |script: &str| run(&shell(script), &Payload::default()).await.unwrap_err();
    let fail_once = fail("printf '\n  broken\n\n' >&2; exit 1").await;
    assert_eq!(fail_once, Fail::retry("exit code 1: broken"));
    let progress = fail("printf '1%%\rbroken' >&2; exit 1").await;
    assert_eq!(progress, Fail::retry("exit code 1: broken\n1%\rbroken"));
    for ends in ["", "\n"] {
        let script =
            format!("head -c 9000 /dev/zero | tr '\\0' x >&2; printf 'y{ends}' >&2; exit 1");
        let room = queue::ERROR_MAX_BYTES - "exit code 1: \n".len() - 512;
        let expected = format!("exit code 1: {}\n{}y", "x".repeat(512), "x".repeat(room - 1));
        assert_eq!(fail(&script).await, Fail::retry(expected));
    }
}

#[tokio::test]
async fn the_payload_is_standard_input_and_standard_output_the_result() {
    let cat = program("/bin/cat");
    let json = Payload::from_parts(Codec::Json, "{ \"n\": 1.50 }");
    assert_eq!(run(&cat, &json).await, Ok(Some(json.clone())));
    let raw = Payload::raw(vec![0, 255, 10]);
    assert_eq!(run(&cat, &raw).await, Ok(Some(raw.clone())));
    let msgpack = Payload::msgpack(&json!({"a": [1, "x"]})).unwrap();
    let expected = Payload::from_parts(Codec::Json, r#"{"a":[1,"x"]}"#);
    assert_eq!(run(&cat, &msgpack).await, Ok(Some(expected)));
    assert_eq!(run(&shell("echo; echo"), &json).await, Ok(None));
}

#[tokio::test]
async fn the_result_file_wins_over_standard_output() {
    let script = "echo noise; printf '{\"ok\": true}\\n' > \"$WORKERD_RESULT\"";
    let expected = Payload::from_parts(Codec::Json, "{\"ok\": true}");
    assert_eq!(run(&shell(script), &Payload::default()).await, Ok(Some(expected)));
    for script in ["mkfifo", "mkdir", "ln -s /etc/passwd"] {
        let script = format!("{script} \"$WORKERD_RESULT\"");
        let fail = run(&shell(&script), &Payload::default()).await.unwrap_err();
        assert_eq!(fail, Fail::dead("$WORKERD_RESULT is not a regular file"), "{script}");
    }
}

#[tokio::test]
async fn a_result_that_no_reader_of_json_could_read_is_raw_text() {
    for script in ["echo 1e999", r#"printf '"\\ud800"'"#] {
        let result = run(&shell(script), &Payload::default()).await.unwrap().unwrap();
        assert_eq!(result.codec(), Codec::Raw, "{script}");
    }
}

#[tokio::test]
async fn slots_become_single_arguments() {
    let command = with_arguments(
        shell("printf '%s|' \"$#\" \"$@\""),
        &["{payload.text}", "--n={payload.n}", "{job.attempt}"],
    );
    let payload = Payload::json(&json!({"text": "-x 'y' $(id) *", "n": 7})).unwrap();
    let result = run(&command, &payload).await.unwrap().unwrap();
    assert_eq!(result.bytes().as_ref(), b"3|-x 'y' $(id) *|--n=7|2|");

    let numbers = r#"{"text": "\u00e4", "n": 123456789012345678901234567890}"#;
    let result = run(&command, &Payload::from_parts(Codec::Json, numbers)).await.unwrap().unwrap();
    let expected = "3|ä|--n=123456789012345678901234567890|2|";
    assert_eq!(result.bytes().as_ref(), expected.as_bytes());

    let dead = |message: &str| Fail::dead(message).kind(ErrorKind::Undecodable);
    assert_eq!(
        run(&command, &Payload::raw("x")).await.unwrap_err(),
        dead("the payload is raw bytes, which have no fields")
    );
    assert_eq!(
        run(&command, &Payload::json(&json!({"text": "a\0b"})).unwrap()).await.unwrap_err(),
        dead("the argument {payload.text} would hold a NUL character")
    );
}

#[tokio::test]
async fn a_program_that_does_not_read_its_input_can_succeed() {
    let payload = Payload::raw(vec![b'x'; 4 * 1024 * 1024]);
    assert_eq!(run(&shell("exec 0<&-; echo 1"), &payload).await, {
        Ok(Some(Payload::from_parts(Codec::Json, "1")))
    });
}

#[tokio::test]
async fn chatter_is_drained_in_bounded_memory_and_never_blocks_the_program() {
    let chat = "i=0; while [ $i -lt 300 ]; do printf '%04000d\\n' $i; i=$((i+1)); done";
    let quiet = Command { stdout: Stdout::Discard, ..shell(&format!("({chat}); ({chat}) >&2")) };
    assert_eq!(run(&quiet, &Payload::default()).await, Ok(None));

    let loud = Command { stdout: Stdout::Result, ..quiet };
    let fail = run(&loud, &Payload::default()).await.unwrap_err();
    let text = format!("{fail:?}");
    assert!(text.contains("Dead") && text.contains("WORKERD_RESULT"), "{text}");

    let fail = run(&shell(&format!("({chat}) >&2; exit 1")), &Payload::default()).await;
    let last = format!("{:04000}", 299);
    let text = format!("{:?}", fail.unwrap_err());
    assert!(text.contains(&last) && text.len() < 9000, "{text}");
}

#[tokio::test]
async fn a_result_file_that_is_too_long_is_a_failure_for_good() {
    let script = "head -c 65537 /dev/zero > \"$WORKERD_RESULT\"";
    let fail = format!("{:?}", run(&shell(script), &Payload::default()).await.unwrap_err());
    assert!(fail.contains("Dead") && fail.contains("65536"), "{fail}");
}

#[tokio::test]
async fn the_environment_is_cleared_but_for_what_is_listed() {
    let is_plain = |name: &str| !ALWAYS_PASSED.contains(&name) && !name.starts_with("WORKERD_");
    let mut own = std::env::vars().filter(|(name, text)| is_plain(name) && !text.contains('\n'));
    let (listed, value) = own.next().expect("the test's own environment has a variable");
    let command = Command { environment: vec![listed.clone()], ..program("/usr/bin/env") };
    let environment = text(&command).await;
    let names: Vec<&str> = environment.lines().filter_map(|l| Some(l.split_once('=')?.0)).collect();
    assert!(names.iter().all(|name| !is_plain(name) || *name == listed), "{names:?}");
    for line in [
        format!("{listed}={value}").as_str(),
        "WORKERD_JOB_ID=07070707-0707-0707-0707-070707070707",
        "WORKERD_KIND=test.kind",
        "WORKERD_QUEUE=default",
        "WORKERD_ATTEMPT=2",
        "WORKERD_FENCE=41",
    ] {
        assert!(environment.lines().any(|l| l == line), "{line} is not in\n{environment}");
    }
    for name in ["WORKERD_DEADLINE", "WORKERD_RESULT", "WORKERD_EVENTS"] {
        assert!(names.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn what_a_program_says_while_it_runs_is_heard() {
    let heard = Heard::default();
    let script = "echo '{\"progress\": 40, \"text\": \"half\"}' 1<> \"$WORKERD_EVENTS\"
        echo working >&2; echo '{\"log\": \"a\"}' > \"$WORKERD_EVENTS\"
        exec 3<> \"$WORKERD_EVENTS\"; env -i sh -c 'echo not json >&3'
        printf '{\"progress\": 100}' >&3; printf 'last words' >&2; exit 3";
    let fail = hear(&shell(script), &Payload::default(), std::future::pending(), &heard).await;
    assert_eq!(fail.unwrap_err(), Fail::retry("exit code 3: last words\nworking\nlast words"));
    let progress = [Progress::new(40, "half"), Progress::new(100, "")];
    assert_eq!(*heard.progress.lock().unwrap(), progress);
    let mut lines = heard.lines.into_inner().unwrap();
    lines.sort_unstable();
    assert_eq!(lines, ["a", "last words", "not json", "working"]);
}

#[tokio::test]
async fn events_are_heard_at_once_and_hold_nobody_up() {
    let heard = Arc::new(Heard::default());
    let listener = Arc::clone(&heard);
    // More than a pipe holds, from a program that ends only when all of it was heard.
    let script = "yes '{\"progress\": 7}' | head -n 20000 1<> \"$WORKERD_EVENTS\"
        while :; do sleep 0.02; done";
    let told = async {
        while heard.progress.lock().unwrap().len() < 20_000 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        CancelReason::Requested
    };
    soon(hear(&shell(script), &Payload::default(), told, &listener)).await.unwrap_err();
}

#[tokio::test]
async fn a_program_that_holds_its_events_open_holds_nothing_up() {
    let started = Instant::now();
    let script = "exec 3<> \"$WORKERD_EVENTS\"; sleep 1000 >&- 2>&- & echo 1";
    let result = soon(run(&shell(script), &Payload::default())).await;
    assert_eq!(result, Ok(Some(Payload::from_parts(Codec::Json, "1"))));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn every_attempt_has_a_folder_of_its_own_that_is_removed() {
    let command = shell("echo rest > file; pwd");
    let (first, second) = (text(&command).await, text(&command).await);
    assert_ne!(first, second);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(first.trim()).exists() || Path::new(second.trim()).exists() {
        assert!(Instant::now() < deadline, "{first} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_costs_no_attempt_unless_its_arguments_are_too_long() {
    let missing = run(&program("/nonexistent/program"), &Payload::default()).await.unwrap_err();
    assert_eq!(missing, Fail::snooze(Duration::from_secs(1)));
    let gone = Command { working_dir: Some("/nonexistent".into()), ..shell("exit 0") };
    let gone = run(&gone, &Payload::default()).await.unwrap_err();
    assert_eq!(gone, Fail::snooze(Duration::from_secs(1)));
    let long = with_arguments(shell("exit 0"), &["{payload.x}"]);
    let payload = Payload::json(&json!({"x": "y".repeat(4 * 1024 * 1024)})).unwrap();
    let fail = format!("{:?}", run(&long, &payload).await.unwrap_err());
    assert!(fail.contains("Dead") && !fail.contains("yyyy"), "{fail}");
}

/// A named pipe that tells when a program started and when all that it started is gone.
struct Lifeline {
    folder: tempfile::TempDir,
}

impl Lifeline {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.unwrap().success());
        Self { folder }
    }

    /// A script that handles TERM as `on_term`, holds the pipe, says so, and goes on as `then`.
    fn script(&self, on_term: &str, then: &str) -> Command {
        let pipe = self.folder.path().join("pipe");
        let pipe = pipe.display();
        shell(&format!("trap '{on_term}' TERM; exec 9> '{pipe}'; echo started >&9; {then}"))
    }

    /// The first message is sent when the program has started, the second when no process holds
    /// the pipe any more.
    fn watch(&self) -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
        let ((started, on_started), (gone, on_gone)) = (oneshot::channel(), oneshot::channel());
        let pipe = self.folder.path().join("pipe");
        std::thread::spawn(move || {
            let mut reader = BufReader::new(std::fs::File::open(pipe).unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let _ = started.send(());
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
            let _ = gone.send(());
        });
        (on_started, on_gone)
    }
}

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), event).await.expect("it does not happen")
}

#[tokio::test]
async fn a_stopped_program_may_finish_within_its_grace_but_has_not_completed() {
    let lifeline = Lifeline::new();
    // Short sleeps: one that TERM meets between fork and exec may never hear of it.
    let command = lifeline.script("echo bye >&2; exit 0", "while :; do sleep 0.02; done");
    let (started, gone) = lifeline.watch();
    let cancelled = async {
        started.await.unwrap();
        CancelReason::Requested
    };
    let fail = soon(run_until(&command, &Payload::default(), cancelled)).await.unwrap_err();
    let fail = format!("{fail:?}");
    let what = "stopped because the job was cancelled: ";
    assert!(fail.contains("Retry") && fail.contains(what) && fail.contains("bye"), "{fail}");
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn the_whole_tree_is_killed_when_the_grace_is_over() {
    let lifeline = Lifeline::new();
    let script = lifeline.script("", "(sleep 1000 & sleep 1000) & sleep 1000; sleep 1000");
    let command = Command { kill_grace: Duration::from_millis(100), ..script };
    let (started, gone) = lifeline.watch();
    let cancelled = async {
        started.await.unwrap();
        CancelReason::Shutdown
    };
    let fail = soon(run_until(&command, &Payload::default(), cancelled)).await.unwrap_err();
    assert_eq!(fail, Fail::retry("stopped because the worker shuts down"));
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn a_time_limit_ends_the_program() {
    let command = Command { timeout: Some(Duration::from_millis(50)), ..shell("sleep 1000") };
    let fail = soon(run(&command, &Payload::default())).await.unwrap_err();
    assert_eq!(fail, Fail::retry("timed out after 50ms").kind(ErrorKind::TimedOut));
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it_and_holds_nothing_up() {
    let lifeline = Lifeline::new();
    let command = lifeline.script("", "sleep 1000 & echo 1");
    let (started, gone) = lifeline.watch();
    let result = soon(run(&command, &Payload::default())).await;
    assert_eq!(result, Ok(Some(Payload::from_parts(Codec::Json, "1"))));
    soon(started).await.unwrap();
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn a_dropped_attempt_kills_the_whole_tree() {
    let lifeline = Lifeline::new();
    let command = lifeline.script("", "sleep 1000 & sleep 1000; sleep 1000");
    let (started, gone) = lifeline.watch();
    let attempt = tokio::spawn(async move { run(&command, &Payload::default()).await });
    soon(started).await.unwrap();
    attempt.abort();
    soon(gone).await.unwrap();
}
