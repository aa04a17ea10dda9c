//! A redis-server of a program's own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// A redis-server that ends with this handle.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Starts one on a free port of the loopback that keeps its data in `folder`.
    ///
    /// # Errors
    /// If it does not start or listen.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, &["--appendonly", "yes"])
    }

    /// As [`Redis::start`], but it keeps nothing: what its own work costs, without a disk.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_volatile(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, &["--appendonly", "no"])
    }

    fn start_with(folder: &Path, persistence: &[&str]) -> anyhow::Result<Self> {
        // The port is free now; whoever takes it in between makes the server fail, and us with it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(persistence)
            .args(["--save", "", "--maxmemory-policy", "noeviction", "--dir"])
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server; ./scripts/test installs it")?;
        let redis = Self { child, port };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("redis-server does not listen")
    }

    /// Where it listens on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
