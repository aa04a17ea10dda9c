//! A `workerd` process of a test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, workerd};

/// Killed with this value, if it has not ended by itself.
pub(crate) struct Daemon {
    process: Child,
    logs: Arc<Lines>,
    /// Where it serves metrics and health.
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

/// Lines that were read so far, and whether there will be more.
#[derive(Default)]
struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Daemon {
    /// Runs `workerd run` on the store at `url` with `config` as the rest of its file.
    pub(crate) fn start(url: &str, config: &str) -> Self {
        Self::start_with(url, config, None)
    }

    /// As [`Daemon::start`], with a variable in its environment.
    pub(crate) fn start_with(url: &str, config: &str, variable: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Where it makes the folders of its attempts.
        let attempts = folder.path().join("attempts");
        std::fs::create_dir(&attempts).unwrap();
        Self::start_in(url, config, &attempts, folder, variable)
    }

    /// As [`Daemon::start`], with the folders of its attempts in a place that others have, too.
    pub(crate) fn start_beside(url: &str, config: &str, attempts: &Path) -> Self {
        Self::start_in(url, config, attempts, tempfile::tempdir().unwrap(), None)
    }

    fn start_in(
        url: &str,
        config: &str,
        attempts: &Path,
        folder: tempfile::TempDir,
        variable: Option<(&str, &str)>,
    ) -> Self {
        let path = write_config(folder.path(), url, config);
        let mut command = workerd();
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.arg("-c").arg(path);
        command.env("TMPDIR", attempts).envs(variable);
        Self::spawn(&mut command, folder)
    }

    /// Writes its file anew, for when it reads it again.
    pub(crate) fn rewrite_config(&self, url: &str, config: &str) {
        write_config(self.folder.path(), url, config);
    }

    pub(crate) fn spawn(command: &mut Command, folder: tempfile::TempDir) -> Self {
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("workerd starts");
        let logs = Arc::new(Lines::default());
        let out = Arc::new(Lines::default());
        collect(process.stderr.take().unwrap(), Arc::clone(&logs));
        collect(process.stdout.take().unwrap(), Arc::clone(&out));
        let line = out.wait_for(|line| line.contains("http://")).unwrap_or_else(|| {
            panic!("workerd does not say where it listens: {:?}", logs.all());
        });
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.split('/').next().unwrap().trim().to_owned();
        Self { process, logs, address, folder }
    }

    /// Where it makes the folders of its attempts.
    pub(crate) fn attempts(&self) -> PathBuf {
        self.folder.path().join("attempts")
    }

    /// Whether no folder of an attempt is left.
    pub(crate) fn left_nothing(&self) -> bool {
        std::fs::read_dir(self.attempts()).unwrap().next().is_none()
    }

    /// Waits for an event in the log.
    pub(crate) fn wait_for_event(&self, event: &str) -> Value {
        self.wait_for_entry(event, |entry| entry["event"] == event)
    }

    /// Waits for an entry in the log; `what` it is, in case that it does not come.
    pub(crate) fn wait_for_entry(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let fitting = |line: &str| serde_json::from_str(line).ok().filter(|entry| fits(entry));
        let found = self.logs.wait_for(|line| fitting(line).is_some());
        let line = found.unwrap_or_else(|| panic!("no {what} in {:?}", self.logs.all()));
        fitting(&line).unwrap()
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and tells its exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.logs.all());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The status and body of a page.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn write_config(folder: &Path, url: &str, config: &str) -> PathBuf {
    super::write_config(folder, &format!("[store]\nurl = {url:?}\n{config}"))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, into: Arc<Lines>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            into.lines.lock().unwrap().0.push(line);
            into.news.notify_all();
        }
        into.lines.lock().unwrap().1 = true;
        into.news.notify_all();
    });
}

impl Lines {
    /// The first line that fits; none if the stream ends or patience does.
    fn wait_for(&self, fits: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| fits(line)) {
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.news.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().0.clone()
    }
}
