//! Stored data that nobody wrote with this program: quarantine, and an audit that repairs.

use queue::JobId;
use serde_json::json;

use crate::support::{Store, ask, ask_plainly, job, text};

/// Changes the file of a store behind its back.
fn change(store: &Store, sql: &str) {
    let url = store.url();
    let file = rusqlite::Connection::open(url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(sql).unwrap();
}

/// A job whose stored options cannot be read.
async fn broken(store: &Store) -> String {
    let queue = store.connect().await;
    let id: JobId = queue.enqueue(job("a", &json!({ "n": 1 }))).await.unwrap().id;
    change(store, "UPDATE job SET options = x'c1'");
    id.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_job_can_be_looked_at_and_deleted() {
    let store = Store::sqlite();
    let id = broken(&store).await;
    let shown = ask(&store, &["job", "show", &id]);
    let view = shown.json();
    assert_eq!((shown.code, &view["state"]), (0, &json!("quarantined")), "{shown:?}");
    assert!(!text(&view["reason"]).is_empty(), "{view}");
    let parts = view["parts"].as_array().unwrap();
    let payload = b"{\"n\":1}";
    let part = parts.iter().find(|part| text(&part["name"]).contains("payload")).unwrap();
    assert_eq!(part["bytes"], payload.len(), "{view}");
    let raw = ask(&store, &["job", "show", &id, "--raw", text(&part["name"])]);
    assert_eq!((raw.code, raw.out.as_bytes()), (0, &payload[..]), "{raw:?}");
    let no_part = ask(&store, &["job", "show", &id, "--raw", "nothing"]);
    assert_eq!(no_part.code, 2, "{no_part:?}");
    let plainly = ask_plainly(&store, &["job", "show", &id]);
    assert!(plainly.out.contains("state      quarantined\n"), "{plainly:?}");

    assert_eq!(ask(&store, &["job", "ls"]).json()["quarantined"], json!([id]));
    let listed = ask_plainly(&store, &["job", "ls", "--state", "quarantined"]);
    assert!(listed.out.contains(&id), "{listed:?}");
    assert_eq!(ask(&store, &["job", "retry", &id]).json()["result"], "quarantined");
    assert_eq!(ask(&store, &["job", "cancel", &id]).json()["result"], "quarantined");
    let recovered = ask(&store, &["job", "recover", &id]);
    assert_eq!((recovered.code, &recovered.json()["result"]), (1, &json!("unreadable")));
    let deleted = ask(&store, &["job", "delete", &id]);
    assert_eq!((deleted.code, &deleted.json()["result"]), (0, &json!("deleted")));
    assert_eq!(ask(&store, &["job", "show", &id]).code, 4);
    assert_eq!(ask(&store, &["audit"]).code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_can_be_read_again_is_recovered() {
    let store = Store::sqlite();
    let id = broken(&store).await;
    assert_eq!(ask(&store, &["job", "show", &id]).json()["state"], "quarantined");
    change(&store, "UPDATE job SET options = x'80'");
    let recovered = ask(&store, &["job", "recover", &id]);
    assert_eq!((recovered.code, &recovered.json()["result"]), (0, &json!("recovered")));
    assert_eq!(ask(&store, &["job", "show", &id]).json()["state"], "ready");
    let again = ask(&store, &["job", "recover", &id]);
    assert_eq!((again.code, &again.json()["result"]), (1, &json!("not_quarantined")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_tells_and_a_repair_puts_right() {
    let store = Store::sqlite();
    store.connect().await.enqueue(job("a", &json!({}))).await.unwrap();
    change(&store, "UPDATE lane SET ready = 7");
    let found = ask(&store, &["audit"]);
    assert_eq!((found.code, &found.json()["violations"][0]["repaired"]), (1, &json!(false)));
    let plainly = ask_plainly(&store, &["audit"]);
    assert!(plainly.code == 1 && plainly.out.contains("audit --repair"), "{plainly:?}");
    let repaired = ask(&store, &["audit", "--repair"]);
    assert_eq!((repaired.code, &repaired.json()["violations"][0]["repaired"]), (0, &json!(true)));
    assert_eq!(ask(&store, &["audit"]).json(), json!({ "violations": [] }));
    assert_eq!(ask(&store, &["queue", "ls"]).json()["queues"][0]["jobs"], json!({ "ready": 1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_job_that_can_be_read_are_written_as_they_are() {
    let store = Store::sqlite();
    let said = ask(&store, &["enqueue", "a", "--payload", "{ \"n\": 1.50 }"]);
    let id = text(&said.json()["id"]).to_owned();
    assert_eq!(ask(&store, &["job", "show", &id, "--raw", "payload"]).out, "{ \"n\": 1.50 }");
    let shown = ask(&store, &["job", "show", &id]).out;
    assert!(shown.contains("\"json\":{ \"n\": 1.50 }"), "{shown}");
    let shown = ask_plainly(&store, &["job", "show", &id]).out;
    assert!(shown.contains("payload    { \"n\": 1.50 }\n"), "{shown}");
    assert_eq!(ask(&store, &["job", "show", &id, "--raw", "result"]).code, 2);
}
