//! A program that runs until the test lets it through.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::PATIENCE;

/// Its folder; when that is gone, whatever waits at the gate ends.
pub(crate) struct Gate {
    folder: tempfile::TempDir,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        Self { folder }
    }

    /// A script that waits at the gate.
    pub(crate) fn script(&self) -> String {
        let path = self.folder.path().display();
        format!("while [ -d {path} ] && [ ! -e {path}/open ]; do sleep 0.02; done")
    }

    /// An executor for the kind `gate` that waits at the gate.
    pub(crate) fn executor(&self) -> String {
        executor("gate", &self.script())
    }

    /// An executor for the kind `held` that never ends by itself; see [`Gate::watch`].
    pub(crate) fn holding_executor(&self) -> String {
        let pipe = self.pipe();
        let script =
            format!("exec 9> '{}'; echo started >&9; while :; do sleep 0.02; done", pipe.display());
        executor("held", &script)
    }

    /// As [`Gate::holding_executor`], but it waits at the gate.
    pub(crate) fn watched_executor(&self) -> String {
        let pipe = self.pipe();
        let script = format!("exec 9> '{}'; echo started >&9; {}", pipe.display(), self.script());
        executor("held", &script)
    }

    fn pipe(&self) -> PathBuf {
        self.folder.path().join("pipe")
    }

    /// Lets everything through.
    pub(crate) fn open(&self) {
        std::fs::write(self.folder.path().join("open"), "").unwrap();
    }

    /// The first message is sent when a holding program has started, the second when nothing of
    /// it is left.
    pub(crate) fn watch(&self) -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
        let ((started, on_started), (gone, on_gone)) = (oneshot::channel(), oneshot::channel());
        let pipe = self.pipe();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(File::open(pipe).unwrap());
            reader.read_line(&mut String::new()).unwrap();
            let _ = started.send(());
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
            let _ = gone.send(());
        });
        (on_started, on_gone)
    }
}

/// Waits for a message of [`Gate::watch`].
pub(crate) async fn soon(message: oneshot::Receiver<()>) {
    tokio::time::timeout(PATIENCE, message).await.expect("it does not happen").unwrap();
}

/// The configuration of an executor that runs a shell script.
pub(crate) fn executor(kind: &str, script: &str) -> String {
    let script = script.replace('{', "{{").replace('}', "}}");
    let argv = serde_json::json!(["sh", "-c", script]);
    format!("[executors.{kind:?}]\ntype = \"command\"\nargv = {argv}\n")
}
