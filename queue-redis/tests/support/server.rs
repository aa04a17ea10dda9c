//! A Redis server of a test's own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A real `redis-server` on a Unix socket in a directory of its own. Ends with this value, and
/// also if the test process dies without dropping it.
#[derive(Debug)]
pub struct TestRedis {
    shell: Child,
    dir: TempDir,
}

/// Ends the server as soon as the pipe from the test process closes.
const GUARD: &str = r#"redis-server "$@" & pid=$!; read -r _; kill -9 $pid; wait $pid"#;

impl TestRedis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more settings.
    pub fn start_with(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("redis.sock");
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "sh", "--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .args(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut lines = BufReader::new(shell.stdout.take().expect("its output")).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.to_lowercase().contains("ready to accept connections"));
        assert!(ready, "redis-server did not start: run ./scripts/test, or install redis-server");
        // The server must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { shell, dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A plain connection, to look at keys and to do harm.
    pub fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|c| c.get_connection()).expect("a connection")
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
