//! A Redis server of a test's own, on a Unix socket in a temporary folder.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Ends with this value.
pub(crate) struct Redis {
    server: Option<Child>,
    folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self::not_started();
        redis.start_now();
        redis
    }

    /// A place for a server that is not there yet.
    pub(crate) fn not_started() -> Self {
        Self { server: None, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn start_now(&mut self) {
        let server = Command::new("redis-server")
            .args(["--port", "0", "--appendonly", "yes", "--save", "", "--dir"])
            .arg(self.folder.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let server = server.unwrap_or_else(|error| {
            panic!("redis-server cannot be started ({error}); ./scripts/test installs it")
        });
        self.server = Some(server);
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Kills it; what it has acknowledged it has again when it is started again.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Kills it and starts it again without anything that it had.
    pub(crate) fn restart_empty(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.folder.path().join("appendonlydir")).unwrap();
        self.start_now();
    }

    /// The keys that it has and that do not go by themselves.
    pub(crate) fn lasting_keys(&self) -> Vec<String> {
        let answer = self.call("KEYS *");
        // All of them begin with a hash tag, and what is between them in the answer does not.
        let keys = answer.lines().filter(|line| line.starts_with('{'));
        let lasts = |key: &&str| self.call(&format!("TTL {key}")).starts_with(":-1");
        keys.filter(lasts).map(str::to_owned).collect()
    }

    /// What it answers to a command.
    pub(crate) fn call(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
        let mut answer = [0; 7];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && &answer == b"+PONG\r\n"
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
