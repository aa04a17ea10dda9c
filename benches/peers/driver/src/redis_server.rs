//! A redis-server of the run's own, and what it says about itself.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// A redis-server that ends with this handle.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    port: u16,
}

/// What the server had used and done at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Of the main thread, user and system.
    pub(crate) cpu_us: f64,
    /// Commands from clients and from within scripts.
    pub(crate) commands: f64,
    /// Times that the server read from a client's socket: what clients sent in one go is one.
    pub(crate) reads: f64,
    pub(crate) memory_bytes: f64,
}

impl Redis {
    /// Starts one on a free port of the loopback that keeps its data in `folder`.
    pub(crate) fn start(folder: &Path, appendonly: bool) -> anyhow::Result<Self> {
        // The port is free now; whoever takes it in between makes the server fail, and us with it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let appendonly = if appendonly { "yes" } else { "no" };
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", appendonly, "--maxmemory-policy", "noeviction", "--dir"])
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server")?;
        let redis = Self { child, port };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("redis-server does not listen")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> anyhow::Result<redis::Connection> {
        Ok(redis::Client::open(self.url())?.get_connection()?)
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let info = self.info()?;
        let number = |field: &str| -> anyhow::Result<f64> {
            let text = info.get(field).with_context(|| format!("INFO has no {field}"))?;
            Ok(text.parse()?)
        };
        let user = number("used_cpu_user_main_thread")?;
        let system = number("used_cpu_sys_main_thread")?;
        Ok(Usage {
            cpu_us: (user + system) * 1e6,
            commands: number("total_commands_processed")?,
            reads: number("total_reads_processed")?,
            memory_bytes: number("used_memory")?,
        })
    }

    pub(crate) fn version(&self) -> anyhow::Result<String> {
        Ok(self.info()?.remove("redis_version").unwrap_or_default())
    }

    fn info(&self) -> anyhow::Result<HashMap<String, String>> {
        let text: String = redis::cmd("INFO").arg("everything").query(&mut self.connect()?)?;
        let pair = |line: &str| line.split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
