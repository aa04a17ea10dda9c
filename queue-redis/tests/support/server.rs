//! A Redis server of a test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A real `redis-server` on a Unix socket in a directory of its own. Ends with this value, and
/// also if the test process dies without dropping it.
#[derive(Debug)]
pub struct TestRedis {
    shell: Child,
    settings: Vec<String>,
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
        let settings: Vec<String> = settings.iter().map(|&word| word.to_owned()).collect();
        Self { shell: launch(dir.path(), &settings), settings, dir }
    }

    /// Ends the server without a warning, and starts it again on the files that it has left.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.shell = launch(self.dir.path(), &self.settings);
    }

    /// Ends the server without a warning.
    pub fn crash(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }

    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A plain connection, to look at keys and to do harm.
    pub fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|c| c.get_connection()).expect("a connection")
    }

    /// A field of `INFO`.
    pub fn info(&self, name: &str) -> String {
        let info: String = redis::cmd("INFO").arg("everything").query(&mut self.client()).unwrap();
        let field = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
        info.lines().find_map(field).unwrap_or_default()
    }

    /// The answer to `INFO`, with some fields replaced.
    pub fn told_otherwise(&self, changes: &[(&str, &str)]) -> String {
        let mut info: String = redis::cmd("INFO").query(&mut self.client()).unwrap();
        for (field, value) in changes {
            let at = info.find(&format!("{field}:")).expect("a field of INFO");
            let end = at + info[at..].find("\r\n").expect("its end");
            info.replace_range(at..end, &format!("{field}:{value}"));
        }
        format!("${}\r\n{info}\r\n", info.len())
    }

    /// Makes the server listen on a free port of the loopback, too.
    pub fn listen(&self) -> u16 {
        let mut client = self.client();
        let free = |_: &u16| fastrand::u16(20_000..60_000);
        std::iter::successors(Some(fastrand::u16(20_000..60_000)), |port| Some(free(port)))
            .take(100)
            .find(|port| {
                let mut set = redis::cmd("CONFIG");
                set.arg("SET").arg("port").arg(*port);
                set.query::<()>(&mut client).is_ok()
            })
            .expect("a free port")
    }

    /// A replica of this server that has caught up.
    pub fn replica(&self, port: u16) -> Self {
        let before = self.info("connected_slaves");
        let replica = Self::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]);
        let online = |lines: &str| lines.matches("state=online").count().to_string();
        until(|| {
            let info: String =
                redis::cmd("INFO").arg("replication").query(&mut self.client()).unwrap();
            online(&info) > before
        });
        replica
    }

    /// Stops the process where it stands; it answers nothing, and its connections stay.
    pub fn freeze(&self) -> Frozen {
        let pid = self.info("process_id");
        signal("-STOP", &pid);
        Frozen { pid }
    }
}

/// Goes on as if nothing had happened when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    pid: String,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.pid);
    }
}

fn signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status().expect("kill");
    assert!(status.success() || std::thread::panicking(), "kill {signal} {pid}");
}

/// Returns when it is so; panics if it does not come.
pub fn until(mut is_so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !is_so() {
        assert!(started.elapsed().as_secs() < 20, "waited for what does not come");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("redis.sock")
}

fn launch(dir: &Path, settings: &[String]) -> Child {
    let mut shell = Command::new("sh")
        .args(["-c", GUARD, "sh", "--port", "0", "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"])
        .arg("--unixsocket")
        .arg(socket(dir))
        .arg("--dir")
        .arg(dir)
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
    shell
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.crash();
    }
}
