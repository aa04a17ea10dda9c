//! Adapters as processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::contestants::Contestant;

/// No scenario takes longer, and no worker takes longer to start or to stop.
const PATIENCE: Duration = Duration::from_secs(300);

fn command(contestant: &Contestant, scenario: &str, url: &str) -> anyhow::Result<Command> {
    let (program, arguments) = contestant.command.split_first().context("no command")?;
    let mut command = Command::new(program);
    // A peer that fails shall do so in one line.
    command.env_remove("RUST_BACKTRACE").args(arguments).arg(scenario).args([
        "--url",
        url,
        "--variant",
        contestant.variant,
    ]);
    Ok(command)
}

/// Runs a scenario to its end and reads the line that it prints.
pub(crate) fn run<T: DeserializeOwned>(
    contestant: &Contestant,
    scenario: &str,
    url: &str,
    options: &[&str],
) -> anyhow::Result<T> {
    let mut command = command(contestant, scenario, url)?;
    let process = Process::spawn(command.args(options))?;
    let line = process.line(PATIENCE)?;
    serde_json::from_str(&line).with_context(|| format!("{scenario}: not what was asked: {line}"))
}

/// A process that ends with this handle.
struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The next line that is JSON; some peers greet their users on the standard output.
    fn line(&self, patience: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => anyhow::anyhow!("silent for {left:?}"),
                RecvTimeoutError::Disconnected => anyhow::anyhow!("it ended before its answer"),
            })?;
            if line.starts_with('{') {
                return Ok(line);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker process.
pub(crate) struct WorkerProcess {
    process: Process,
    done: u64,
    cpu_ready_us: f64,
}

/// What a worker process has done.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Ended {
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
}

#[derive(Deserialize)]
struct Progress {
    done: u64,
}

impl WorkerProcess {
    /// Returns when it is about to take jobs.
    pub(crate) fn start(
        contestant: &Contestant,
        url: &str,
        jobs: u32,
        concurrency: usize,
        tally: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = command(contestant, "work", url)?;
        command.args(["--jobs", &jobs.to_string(), "--concurrency", &concurrency.to_string()]);
        let process = Process::spawn(command.arg("--tally").arg(tally))?;
        Ok(Self { process, done: 0, cpu_ready_us: 0.0 })
    }

    /// Waits until it says that it works.
    pub(crate) fn ready(&mut self) -> anyhow::Result<()> {
        self.process.line(PATIENCE)?;
        self.cpu_ready_us = self.cpu_total_us()?;
        Ok(())
    }

    /// How many jobs it has run, as far as it has said.
    pub(crate) fn done(&mut self) -> anyhow::Result<u64> {
        while let Ok(line) = self.process.lines.try_recv() {
            if line.starts_with('{') {
                self.done = serde_json::from_str::<Progress>(&line)?.done;
            }
        }
        Ok(self.done)
    }

    /// CPU time that it has used since it was ready.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<f64> {
        Ok(self.cpu_total_us()? - self.cpu_ready_us)
    }

    fn cpu_total_us(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("not what /proc looks like")?;
        // User and system time: the 14th and 15th field, in hundredths of a second.
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? * 10_000.0)
    }

    /// Ends its input and waits until it has stopped.
    pub(crate) fn stop(mut self) -> anyhow::Result<Ended> {
        drop(self.process.child.stdin.take());
        loop {
            let line = self.process.line(PATIENCE)?;
            if line.contains("\"ended\"") {
                return Ok(serde_json::from_str(&line)?);
            }
        }
    }
}
