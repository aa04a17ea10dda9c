//! What an enqueue asks for: durability, how a key is held, and what happens if it is taken.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::support::{
    Daemon, Gate, Said, Store, ask, on_every_store, text, until_finished, workerd,
};

on_every_store!(
    the_last_of_a_key_can_replace_the_first,
    a_job_that_does_not_wait_is_not_replaced,
    a_key_is_held_as_long_as_asked,
    lines_have_what_flags_have,
);

async fn the_last_of_a_key_can_replace_the_first(store: Store) {
    let enqueue = |payload: &str, on_conflict: &str| {
        let key = ["--idempotency-key", "key", "--delay", "1h", "--on-conflict", on_conflict];
        ask(&store, &[&["enqueue", "a", "--payload", payload][..], &key].concat())
    };
    let first = enqueue("1", "existing").json();
    assert_eq!((&first["duplicate"], &first["replaced"]), (&json!(false), &json!(null)));
    let same = enqueue("1", "reject");
    assert_eq!((same.code, &same.error()["error"]["existing"]), (5, &first["id"]));
    let second = enqueue("2", "replace").json();
    assert_eq!((&second["duplicate"], &second["replaced"]), (&json!(false), &first["id"]));
    let shown = ask(&store, &["job", "show", text(&first["id"])]).json();
    assert_eq!(shown["state"], "cancelled");
}

/// Another payload is no mistake then: there is nothing to replace any more.
async fn a_job_that_does_not_wait_is_not_replaced(store: Store) {
    let key = |payload: u32| {
        let payload = payload.to_string();
        let more = ["--payload", &payload, "--idempotency-key", "key", "--on-conflict", "replace"];
        ask(&store, &[&["enqueue", "gate"], &more[..]].concat())
    };
    let gate = Gate::new();
    gate.open();
    let _daemon = Daemon::start(&store.url(), &gate.executor());
    let id = key(1).json()["id"].clone();
    until_finished(&store.connect().await, text(&id).parse().unwrap()).await;
    let refused = key(2);
    let error = &refused.error()["error"];
    assert_eq!((refused.code, &error["existing"]), (5, &id), "{refused:?}");
    assert!(text(&error["message"]).contains("does not wait any more"), "{refused:?}");
    let line =
        "{\"kind\":\"gate\",\"payload\":3,\"idempotency_key\":\"key\",\"on_conflict\":\"replace\"}";
    let told = batch(&store, line).documents();
    assert!(text(&told[0]["conflict"]["reason"]).contains("does not wait any more"), "{told:?}");
}

async fn a_key_is_held_as_long_as_asked(store: Store) {
    for hold in ["live", "kept", "10m"] {
        let said = ask(&store, &["enqueue", "a", "--idempotency-key", hold, "--hold", hold]);
        let id = said.json()["id"].clone();
        assert_eq!(ask(&store, &["job", "show", text(&id)]).json()["hold"], hold);
    }
}

fn batch(store: &Store, lines: &str) -> Said {
    let mut command = workerd();
    command.args(["--json", "enqueue", "--batch", "-"]).env("WORKERD_URL", store.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

async fn lines_have_what_flags_have(store: Store) {
    let line = |payload: u32, more: &str| {
        format!("{{\"kind\":\"a\",\"payload\":{payload},\"idempotency_key\":\"key\"{more}}}\n")
    };
    let lines = line(1, ",\"hold\":\"5m\",\"delay_ms\":60000")
        + &line(2, ",\"on_conflict\":\"replace\",\"durability\":\"memory\"")
        + &line(2, ",\"on_conflict\":\"reject\"");
    let said = batch(&store, &lines);
    assert_eq!(said.code, 5, "{said:?}");
    let told = said.documents();
    assert_eq!(told[1]["replaced"], told[0]["id"]);
    assert_eq!(told[2]["conflict"]["existing"], told[1]["id"]);
    assert_eq!((&told[3]["created"], &told[3]["replacements"]), (&json!(2), &json!(1)));
    let shown = ask(&store, &["job", "show", text(&told[0]["id"])]).json();
    assert_eq!((&shown["hold"], &shown["state"]), (&json!("5m"), &json!("cancelled")));
}

#[test]
fn an_acknowledgement_says_what_it_survives() {
    let store = Store::sqlite();
    let durability = |more: &[&str]| {
        ask(&store, &[&["enqueue", "a"], more].concat()).json()["durability"].clone()
    };
    assert_eq!(durability(&[]), "fsync");
    assert_eq!(durability(&["--durability", "memory"]), "memory");
    assert_eq!(durability(&["--durability", "fsync"]), "fsync");
    let line = "{\"kind\":\"a\",\"payload\":1,\"durability\":\"replicas:1\"}\n";
    let said = batch(&store, line);
    assert_eq!((said.code, &said.error()["error"]["code"]), (2, &json!("usage")), "{said:?}");
    let said = batch(&store, &line.replace("replicas:1", "fsync"));
    assert_eq!((said.code, &said.documents()[0]["durability"]), (0, &json!("fsync")));
}
