//! Every example is run as its users run it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hello_greets_retries_and_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", folder.path().join("hello.db").display());
    for url in ["memory://", &file] {
        let output = Command::new(env!("CARGO_BIN_EXE_hello")).arg(url).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "completed: Hello, Ada! (attempt 1)",
                "completed: Hello, Grace! (attempt 2)",
                "dead: nobody to greet",
            ]
        );
    }
}

#[test]
fn providers_are_not_called_more_than_they_allow() {
    let output = Command::new(env!("CARGO_BIN_EXE_providers")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let number = |before: &str, after: &str| -> u32 {
        let rest = text.split_once(before).unwrap().1;
        rest.split_once(after).unwrap().0.parse().unwrap()
    };
    assert!(number("at most ", " at once") <= 4, "{text}");
    assert!(number("turned away ", " and failed") >= 1, "{text}");
    assert!(!text.contains("unroutable"), "{text}");
    assert!(text.contains("100 of 100 jobs completed"), "{text}");
    // Each failure of the breakdown is one failed attempt, and no throttling is.
    assert_eq!(number("and failed ", "\n"), number("jobs completed, ", " attempts"), "{text}");
}

/// Starts the service; answers with the process and the first line it prints.
fn service(url: &str, role: &str) -> (Running, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_service"))
        .env("QUEUE_URL", url)
        .env("ROLE", role)
        .env("LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (Running(child), line)
}

fn http(address: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn order_and_fetch(address: &str) {
    let (status, order) = http(address, "POST", "/reports", r#"{"customer": 7}"#);
    assert_eq!((status, &order["duplicate"]), (202, &Value::Bool(false)));
    let (_, again) = http(address, "POST", "/reports", r#"{"customer": 7}"#);
    assert_eq!((&again["id"], &again["duplicate"]), (&order["id"], &Value::Bool(true)));

    let path = format!("/reports/{}", order["id"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    let report = loop {
        let (status, report) = http(address, "GET", &path, "");
        assert_eq!(status, 200);
        if report["state"] == "completed" {
            break report;
        }
        assert!(Instant::now() < deadline, "never completed: {report}");
    };
    assert_eq!(report["percent"], 100);
    assert_eq!(report["report"], serde_json::json!({"customer": 7, "pages": 8}));
    assert_eq!(http(address, "POST", "/reports", "{}").0, 422);
}

fn address(line: &str) -> String {
    line.trim().strip_prefix("listening on http://").unwrap().to_owned()
}

#[test]
fn the_service_renders_reports_itself() {
    let (_service, line) = service("memory://", "all");
    order_and_fetch(&address(&line));
}

#[test]
fn the_service_leaves_reports_to_a_worker_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("reports.db").display());
    let (_api, line) = service(&url, "api");
    let (_worker, working) = service(&url, "worker");
    assert_eq!(working, "working\n");
    order_and_fetch(&address(&line));
}
