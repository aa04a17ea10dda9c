//! The folder of one attempt: where the program works and leaves its result.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::events;

/// A folder that only this user can enter; removed with everything in it when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    /// `None` once its removal is under way.
    dir: Option<TempDir>,
    /// Where the program starts, unless the configuration says otherwise.
    pub(super) work: PathBuf,
    /// Where the program may leave its result. Outside of `work`, so that a file that happens to
    /// have this name is not taken for one.
    pub(super) result: PathBuf,
    /// The named pipe through which it may tell how far it is.
    pub(super) events: PathBuf,
}

impl Folder {
    /// # Errors
    /// The system's reason why it cannot be made.
    pub(super) async fn create() -> io::Result<Self> {
        blocking(|| {
            let dir = tempfile::Builder::new().prefix("workerd-").tempdir()?;
            let work = dir.path().join("work");
            std::fs::create_dir(&work)?;
            let (result, events) = (dir.path().join("result"), dir.path().join("events"));
            events::make(&events)?;
            Ok(Self { dir: Some(dir), work, result, events })
        })
        .await
    }
}

impl Drop for Folder {
    /// Removing may take long: it is done aside where there is an aside.
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(dir))),
            Err(_) => remove(dir),
        }
    }
}

/// Processes that were killed a moment ago may still be writing their last file, which makes the
/// removal of its folder fail: it is tried a few times.
fn remove(dir: TempDir) {
    let path = dir.keep();
    for wait_ms in [10, 50, 250, 1000] {
        if std::fs::remove_dir_all(&path).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(wait_ms));
    }
    if let Err(error) = std::fs::remove_dir_all(&path) {
        tracing::warn!(event = "folder_left_behind", path = %path.display(), %error);
    }
}

/// Runs something that waits for a disk without holding up the runtime.
///
/// # Errors
/// What `work` answers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
