//! The command line against a store, and its exit codes.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use queue::{Fail, JobId, JobState, NewJob, Worker};
use serde_json::{Value, json};

use crate::support::{
    Hostile, Said, Store, ask, ask_plainly, is_plain, said, text, until_finished, workerd,
};

/// The last document of several.
fn last(said: &Said) -> Value {
    serde_json::from_str(said.out.lines().last().unwrap()).unwrap()
}

#[test]
fn the_help_of_a_cancel_of_all_says_what_is_kept() {
    let help = said(workerd().args(["job", "cancel", "--help"])).out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("keeps the records of 10 000 cancelled jobs"), "{help}");
    assert!(help.contains("idempotency keys that are held as kept"), "{help}");
}

#[test]
fn a_job_is_enqueued_shown_counted_and_cancelled() {
    let store = Store::sqlite();
    let payload = "{ \"n\": 1.50 }";
    let options = ["--queue", "q", "--priority", "2", "--delay", "1h", "--max-attempts", "3"];
    let command = [&["enqueue", "a.b", "--payload", payload], &options[..]].concat();
    let enqueued = ask(&store, &command);
    assert_eq!((enqueued.code, &enqueued.json()["state"]), (0, &json!("scheduled")));
    let id = text(&enqueued.json()["id"]).to_owned();

    let shown = ask(&store, &["job", "show", &id]).json();
    for (field, value) in [
        ("kind", json!("a.b")),
        ("queue", json!("q")),
        ("state", json!("scheduled")),
        ("priority", json!(2)),
        ("max_attempts", json!(3)),
        ("payload", json!({ "codec": "json", "bytes": 13, "json": { "n": 1.5 } })),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let plainly = ask_plainly(&store, &["job", "show", &id]);
    assert!(plainly.out.contains("state      scheduled\n"), "{plainly:?}");

    let counted = ask(&store, &["queue", "ls"]).json();
    let row = json!({ "queue": "q", "kind": "a.b", "jobs": { "scheduled": 1 } });
    assert_eq!(counted, json!({ "queues": [row], "paused": [] }));

    let cancelled = ask(&store, &["job", "cancel", &id]);
    assert_eq!((cancelled.code, &cancelled.json()["result"]), (0, &json!("cancelled")));
    let again = ask(&store, &["job", "cancel", &id]);
    assert_eq!((again.code, &again.json()["result"]), (1, &json!("already_finished")));
    assert_eq!(ask(&store, &["job", "wait", &id]).code, 1);
    assert_eq!(ask(&store, &["audit"]).json(), json!({ "violations": [] }));
}

#[test]
fn an_idempotency_key_makes_a_duplicate_or_a_conflict() {
    let store = Store::sqlite();
    let enqueue =
        |payload| ask(&store, &["enqueue", "a", "--payload", payload, "--idempotency-key", "key"]);
    let first = enqueue("1").json();
    let second = enqueue("1").json();
    assert_eq!((&second["id"], &second["duplicate"]), (&first["id"], &json!(true)));
    let third = enqueue("2");
    assert_eq!(third.code, 5);
    let error = &third.error()["error"];
    assert_eq!((&error["code"], &error["existing"]), (&json!("conflict"), &first["id"]));
}

/// On SQLite each namespace has a file of its own.
#[test]
fn commands_that_look_find_a_namespace_and_make_none() {
    let store = Store::sqlite();
    let of =
        |namespace: &str, rest: &[&str]| ask(&store, &[&["--namespace", namespace], rest].concat());
    let beside = |suffix: &str| {
        let path = format!("{}{suffix}", store.url().strip_prefix("sqlite:").unwrap());
        std::path::Path::new(&path).exists()
    };
    let id = of("shop", &["enqueue", "a"]).json()["id"].clone();
    let set = of("shop", &["limit", "set", "tenant:a", "--concurrency", "1"]);
    assert_eq!((set.code, beside(".shop"), beside("")), (0, true, false));
    assert_eq!(of("shop", &["job", "show", text(&id)]).json()["state"], "ready");
    assert_eq!(of("shop", &["limit", "ls"]).json()["limits"][0]["limit"], "tenant:a");
    assert_eq!(of("shop", &["limit", "rm", "tenant:a"]).code, 0);
    let checked = of("shop", &["check"]).json()["findings"].clone();
    assert!(!checked.to_string().contains("is not there yet"), "{checked}");

    ask(&store, &["enqueue", "a"]);
    let typo = of("typo", &["queue", "ls"]);
    assert_eq!((typo.code, beside(""), beside(".typo")), (4, true, false));
    let message = typo.error()["error"]["message"].clone();
    assert!(text(&message).contains(".typo: there is no such database"), "{message}");
    let checked = of("typo", &["check"]).json()["findings"].clone();
    assert!(checked.to_string().contains(".typo is not there yet"), "{checked}");
    assert!(!beside(".typo"));
}

#[test]
fn every_failure_has_its_exit_code() {
    let store = Store::sqlite();
    let missing = ask(&store, &["queue", "ls"]);
    assert_eq!((missing.code, &missing.error()["error"]["code"]), (4, &json!("not_found")));
    assert!(!std::path::Path::new(store.url().strip_prefix("sqlite:").unwrap()).exists());
    ask(&store, &["enqueue", "a"]);
    let unknown = JobId::new().to_string();
    for command in ["show", "wait", "cancel", "watch", "retry", "delete", "recover"] {
        let said = ask(&store, &["job", command, &unknown]);
        assert_eq!((said.code, &said.error()["error"]["code"]), (4, &json!("not_found")));
    }
    let id = ask(&store, &["enqueue", "a"]).json()["id"].clone();
    let late = ask(&store, &["job", "wait", text(&id), "--timeout", "1ms"]);
    assert_eq!((late.code, &late.json()["state"]), (6, &json!("ready")));
    for wrong in [
        &["enqueue", "a", "--payload", "{"][..],
        &["enqueue", "a", "--payload", "1e999"],
        &["enqueue", "a", "--payload", "\"\\ud800\""],
        &["enqueue", "a", "--url", "memory://"],
        &["enqueue", "a", "--priority", "10"],
        &["enqueue", "No Kind"],
        &["enqueue"],
        &["enqueue", "a", "--batch", "-"],
        &["job", "show", "1"],
        &["job", "ls", "--cursor", "x"],
        &["job", "ls", "--state", "ready", "--cursor", "no-such-cursor"],
        &["job", "ls", "--state", "leased"],
        &["job", "ls", "--limit", "0"],
        &["job", "retry"],
        &["job", "cancel"],
        &["job", "cancel", "--yes"],
        &["job", "cancel", text(&id), "--all"],
        &["queue", "purge", "default", "--state", "running", "--yes"],
        &["queue", "purge", "default", "--state", "quarantined", "--yes"],
        &["dead", "redrive", "--rate", "0"],
        &["dead", "redrive", "--error", "12"],
        &["dead", "redrive", text(&id), "--dry-run"],
        &["enqueue", "a", "--hold", "live"],
        &["enqueue", "a", "--priority", "10"],
        &["enqueue", "a", "--priority", "-1"],
        &["enqueue", "a", "--durability", "disk"],
        &["enqueue", "a", "--durability", "replicas:1"],
        &["job", "wait", text(&id), "--timeout", "soon"],
        &["--namespace", "No Name", "queue", "ls"],
    ] {
        let said = ask(&store, wrong);
        assert_eq!((said.code, &said.error()["error"]["code"]), (2, &json!("usage")), "{wrong:?}");
    }
    assert_eq!(said(workerd().args(["queue", "ls"])).code, 2);
    let away = said(workerd().args(["--json", "queue", "ls", "--url", "redis://127.0.0.1:1"]));
    assert_eq!((away.code, &away.error()["error"]["code"]), (3, &json!("unavailable")));
}

#[test]
fn no_password_is_ever_shown() {
    let url = "redis://user:hunter2@127.0.0.1:1/0";
    for arguments in [&["queue", "ls"][..], &["config"], &["check"], &["--json", "config"]] {
        let said = said(workerd().args(arguments).env("WORKERD_URL", url));
        assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
    }
    let shown = said(workerd().arg("config").env("WORKERD_URL", url));
    assert!(shown.out.contains("redis://user:***@127.0.0.1:1/0"), "{shown:?}");
}

fn batch(store: &Store, lines: &str, more: &[&str]) -> Said {
    let mut command = workerd();
    command.args(["--json", "enqueue", "--batch", "-"]).args(more);
    command.env("WORKERD_URL", store.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let lines = lines.to_owned();
    // Beside it: the command may stop reading before the end.
    let feed = std::thread::spawn(move || drop(stdin.write_all(lines.as_bytes())));
    let output = process.wait_with_output().unwrap();
    feed.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

fn line(number: usize) -> String {
    format!("{{\"kind\":\"k\",\"payload\":{number},\"idempotency_key\":\"key-{number}\"}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_many_chunks_is_written_and_can_be_repeated() {
    let store = Store::sqlite();
    let lines: String = (0..1201).map(line).collect();
    let first = batch(&store, &lines, &[]);
    assert_eq!((first.code, &last(&first)["created"]), (0, &json!(1201)), "{first:?}");
    let told: Vec<Value> =
        first.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 1202);
    assert_eq!((&told[700]["line"], &told[700]["duplicate"]), (&json!(701), &json!(false)));
    assert_eq!(
        ask(&store, &["job", "show", text(&told[700]["id"])]).json()["payload"]["json"],
        700
    );
    let again = last(&batch(&store, &lines, &[]));
    assert_eq!((&again["created"], &again["duplicates"]), (&json!(0), &json!(1201)));
    let stats = store.connect().await.stats().await.unwrap();
    assert_eq!(stats[0].jobs[&JobState::Ready], 1201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_line_stops_a_batch_and_what_was_written_is_told() {
    let store = Store::sqlite();
    let mut lines: Vec<String> = (0..700).map(line).collect();
    lines[6] = line(1).replace(":1,", ":2,");
    lines[649] = "{\"kind\":\"k\",\"payload\":1,\"prio\":1}\n".to_owned();
    let said = batch(&store, &lines.concat(), &[]);
    assert_eq!(said.code, 2, "{said:?}");
    let error = &said.error()["error"];
    assert_eq!((&error["line"], &error["written_to_line"]), (&json!(650), &json!(500)));
    let message = text(&error["message"]);
    assert!(message.contains("unknown field `prio`"), "{message}");
    assert!(message.contains("lines up to 500 are done"), "{message}");
    assert_eq!((&error["created"], &error["conflicts"]), (&json!(499), &json!(1)));
    assert_eq!(error["conflicting"][0]["line"], 7);
    assert!(message.contains("line 7: conflicts with"), "{message}");
    let stats = store.connect().await.stats().await.unwrap();
    assert_eq!(stats[0].jobs[&JobState::Ready], 499);
}

#[test]
fn conflicts_in_a_batch_are_listed_and_the_rest_is_written() {
    let store = Store::sqlite();
    let other = line(1).replace(":1,", ":2,");
    let said = batch(&store, &(line(1) + &other + &line(3)), &[]);
    assert_eq!(said.code, 5, "{said:?}");
    let summary = last(&said);
    assert_eq!((&summary["created"], &summary["conflicts"]), (&json!(2), &json!(1)));
    assert_eq!(summary["conflicting"][0]["line"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jobs_say_cannot_command_the_terminal() {
    let store = Store::sqlite();
    let queue = store.connect().await;
    let handler = async |_: Hostile| Err::<(), _>(Fail::dead("\u{1b}[31mred\u{7}\nline 2"));
    let worker = Worker::new(&queue).handle::<Hostile, _>(handler).start().unwrap();
    let job =
        NewJob::of(&Hostile).unwrap().header("a\u{1b}]0;", "\u{202e}b").idempotency_key("\u{9b}");
    let id = queue.enqueue(job).await.unwrap().id;
    until_finished(&queue, id).await;
    worker.drain(Duration::from_secs(5)).await;

    let shown = ask_plainly(&store, &["job", "show", &id.to_string()]);
    assert!(shown.out.contains("\\u{1b}[31mred\\u{7}\n           line 2"), "{shown:?}");
    assert!(is_plain(&shown.out), "{shown:?}");
    let listed = ask_plainly(&store, &["dead", "ls"]);
    assert!(listed.out.contains("\\u{1b}[31mred\\u{7}") && is_plain(&listed.out), "{listed:?}");
    let json = ask(&store, &["job", "wait", &id.to_string()]);
    assert_eq!(json.code, 1);
    assert_eq!(text(&json.json()["error"]["message"]), "\u{1b}[31mred\u{7}\nline 2");
    assert_eq!(json.json()["idempotency_key"], "\u{9b}");
    assert!(is_plain(&json.out), "{json:?}");
}

#[test]
fn shells_get_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let said = said(workerd().args(["completions", shell]));
        assert_eq!(said.code, 0, "{shell}");
        for command in ["enqueue", "redrive", "recover", "watch", "purge", "--max-failures"] {
            let option = command.trim_start_matches('-');
            assert!(said.out.contains(option), "{shell}: {command}");
        }
    }
}

#[test]
fn the_store_is_checked() {
    let store = Store::sqlite();
    let said = ask(&store, &["check"]);
    assert_eq!((said.code, &said.json()["findings"][0]["name"]), (0, &json!("database")));
    ask(&store, &["enqueue", "a"]);
    let said = ask(&store, &["check"]);
    assert_eq!(said.code, 0, "{said:?}");
    let findings = said.json()["findings"].as_array().unwrap().clone();
    assert!(!findings.is_empty() && findings.iter().all(|f| f["verdict"] != "bad"), "{findings:?}");
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let Ok(full) = full() else { return };
    let mut command = workerd();
    command.args(["config"]).stdout(full).stderr(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

#[test]
fn a_file_without_an_end_is_no_payload() {
    let store = Store::sqlite();
    let said = ask(&store, &["enqueue", "a", "--payload-file", "/dev/zero"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("has more than"), "{said:?}");
}

#[test]
fn a_check_looks_at_the_environment_too() {
    let store = Store::sqlite();
    let said = said(workerd().args(["check", "--url", &store.url()]).env("WORKERD_LEASE", "bad"));
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("WORKERD_LEASE"), "{said:?}");
}
