//! The replicas of a scene. They end with their handle, by their id.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context as _;

/// A temporary folder that is removed at the end.
pub(crate) fn temporary_folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::tempdir().context("cannot make a temporary folder")
}

/// A replica of the daemon.
pub(crate) struct Replica(Child);

impl Replica {
    pub(crate) fn start(program: &Path, config: &Path) -> anyhow::Result<Self> {
        let child = Command::new(program).arg("run").arg("-c").arg(config).spawn()?;
        Ok(Self(child))
    }

    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let name = signal.trim_start_matches("SIG");
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "cannot send {signal}");
        Ok(())
    }

    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The configuration of every replica.
pub(crate) fn write_config(folder: &Path, url: &str, lease: Duration) -> anyhow::Result<PathBuf> {
    let log = folder.join("runs.log");
    std::fs::write(&log, "")?;
    let text = format!(
        r#"
[store]
url = "{url}"

[worker]
concurrency = 16
lease = "{}ms"
shutdown_grace = "10s"

[executors."fault.touch"]
type = "command"
# Appends the job's number, in one write, to the list of runs.
argv = ["sh", "-c", "echo $0 >> '{}'", "{{payload.n}}"]

[executors."fault.slow"]
type = "command"
argv = ["sh", "-c", "sleep 0.3; echo $0 >> '{}'", "{{payload.n}}"]

[executors."fault.sleep"]
type = "command"
argv = ["sleep", "{{payload.seconds}}"]

[http]
listen = "127.0.0.1:0"

[log]
level = "error"
"#,
        lease.as_millis(),
        log.display(),
        log.display(),
    );
    let path = folder.join("workerd.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}
