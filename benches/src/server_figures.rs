//! What a Redis server says about its own work.

use anyhow::Context as _;

/// A connection that asks for figures.
pub struct ServerFigures(redis::Connection);

impl std::fmt::Debug for ServerFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerFigures")
    }
}

impl ServerFigures {
    /// Connects.
    ///
    /// # Errors
    /// If the server is not there.
    pub fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(redis::Client::open(url)?.get_connection()?))
    }

    fn info(&mut self, section: &str) -> anyhow::Result<String> {
        Ok(redis::cmd("INFO").arg(section).query(&mut self.0)?)
    }

    fn figure(&mut self, section: &str, name: &str) -> anyhow::Result<f64> {
        let text = self.info(section)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("INFO does not tell {name}"))?.trim().parse()?)
    }

    /// CPU time of the main thread so far, in microseconds.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn cpu_us(&mut self) -> anyhow::Result<f64> {
        let user = self.figure("cpu", "used_cpu_user_main_thread")?;
        let system = self.figure("cpu", "used_cpu_sys_main_thread")?;
        Ok((user + system) * 1e6)
    }

    /// Bytes that the data and its upkeep take.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn memory_bytes(&mut self) -> anyhow::Result<f64> {
        self.figure("memory", "used_memory")
    }

    /// Commands that it has run so far, those of scripts included, and how many of them were calls
    /// of scripts.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn commands(&mut self) -> anyhow::Result<Commands> {
        let text = self.info("commandstats")?;
        let mut commands = Commands::default();
        for line in text.lines() {
            let Some((name, rest)) = line.strip_prefix("cmdstat_").and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let calls = rest.split(',').find_map(|part| part.strip_prefix("calls="));
            let calls: u64 = calls.context("a command without a count")?.parse()?;
            match name {
                // Those are this connection's.
                "info" => {}
                "evalsha" => {
                    commands.scripts += calls;
                    commands.all += calls;
                }
                _ => commands.all += calls,
            }
        }
        Ok(commands)
    }

    /// The version, as `7.0.15`.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn version(&mut self) -> anyhow::Result<String> {
        let text = self.info("server")?;
        let line = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(line.context("INFO does not tell its version")?.trim().to_owned())
    }

    /// CPU time of the main thread for a pipelined `SET` of 100 bytes, in microseconds: what to
    /// compare with, on this machine and at this moment. Leaves the server empty.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn plain_set_us(&mut self, sets: usize) -> anyhow::Result<f64> {
        let before = self.cpu_us()?;
        for first in (0..sets).step_by(100) {
            let mut pipeline = redis::pipe();
            for n in first..first + 100 {
                pipeline.set(format!("key:{n}"), [7_u8; 100].as_slice());
            }
            pipeline.exec(&mut self.0)?;
        }
        let each = (self.cpu_us()? - before) / sets as f64;
        self.flush()?;
        Ok(each)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        Ok(redis::cmd("FLUSHALL").arg("SYNC").exec(&mut self.0)?)
    }
}

/// How many commands a server has run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commands {
    /// All, also those that scripts made.
    pub all: u64,
    /// Calls of scripts.
    pub scripts: u64,
}

impl Commands {
    /// What came since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { all: self.all - earlier.all, scripts: self.scripts - earlier.scripts }
    }
}
