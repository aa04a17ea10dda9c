//! What wakes the watching thread: this process by ringing, others by writing to the log.

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Rings until somebody waits.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    called: Condvar,
    /// Takes the place of the two above where the system can also tell of writes.
    #[cfg(target_os = "linux")]
    ears: Option<ears::Ears>,
}

impl Bell {
    /// A bell that also hears, where the system can tell, when the log at `log` is written.
    pub(super) fn new(log: &Path) -> Self {
        #[cfg(target_os = "linux")]
        {
            let ears = ears::Ears::new(log);
            let ears = ears.inspect_err(|error| {
                tracing::debug!(%error, "writes of other processes are found by asking");
            });
            Self { ears: ears.ok(), ..Self::default() }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = log;
            Self::default()
        }
    }

    pub(super) fn ring(&self) {
        #[cfg(target_os = "linux")]
        if let Some(ears) = &self.ears {
            return ears.ring();
        }
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.called.notify_one();
    }

    /// Waits until it rings, until the log is written if `listen`, or until `timeout`; says whether
    /// the log was written.
    pub(super) fn wait(&self, timeout: Option<Duration>, listen: bool) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(ears) = &self.ears {
            return ears.wait(timeout, listen);
        }
        let _ = listen;
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        match timeout {
            Some(timeout) if !*rung => {
                let waited = self.called.wait_timeout(rung, timeout);
                rung = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            _ => {
                while !*rung {
                    rung = self.called.wait(rung).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        *rung = false;
        false
    }
}

#[cfg(target_os = "linux")]
mod ears {
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::fs::inotify;
    use rustix::io::{Result, read, write};

    #[derive(Debug)]
    pub(super) struct Ears {
        rung: OwnedFd,
        written: OwnedFd,
    }

    impl Ears {
        pub(super) fn new(log: &Path) -> Result<Self> {
            let rung = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let written = inotify::init(flags)?;
            inotify::add_watch(&written, log, inotify::WatchFlags::MODIFY)?;
            Ok(Self { rung, written })
        }

        pub(super) fn ring(&self) {
            // It can only fail because it rings already.
            let _ = write(&self.rung, &1_u64.to_ne_bytes());
        }

        pub(super) fn wait(&self, timeout: Option<Duration>, listen: bool) -> bool {
            let mut both = [&self.rung, &self.written].map(|fd| PollFd::new(fd, PollFlags::IN));
            let heard = if listen { &mut both[..] } else { &mut both[..1] };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // After a signal the caller looks whether there is something, and waits again.
            if poll(heard, timeout.as_ref()).is_err() {
                return false;
            }
            let [rung, written] = both.map(|fd| !fd.revents().is_empty());
            if rung {
                let _ = read(&self.rung, &mut [0; 8]);
            }
            if written {
                // What was written does not matter, only that it was.
                let mut events = [0; 4096];
                while read(&self.written, &mut events).is_ok_and(|bytes| bytes > 0) {}
            }
            written
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    fn bells(log: &Path) -> [Bell; 2] {
        [Bell::new(log), Bell::default()]
    }

    #[test]
    fn a_ring_is_kept_until_somebody_waits() {
        let log = tempfile::NamedTempFile::new().unwrap();
        for bell in bells(log.path()) {
            bell.ring();
            bell.ring();
            assert!(!bell.wait(None, true));
            assert!(!bell.wait(Some(Duration::ZERO), true));
            std::thread::scope(|scope| {
                scope.spawn(|| bell.ring());
                assert!(!bell.wait(None, false));
            });
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_write_to_the_log_is_heard_by_those_who_listen() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let bell = Bell::new(log.path());
        log.write_all(b"x").unwrap();
        assert!(!bell.wait(Some(Duration::ZERO), false));
        assert!(bell.wait(LONG, true));
        assert!(!bell.wait(Some(Duration::ZERO), true));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_commit_of_anybody_is_heard() {
        use crate::open::{Opened, beside, prepare};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let Opened { path, conn, .. } = prepare(&path, &crate::SqliteOptions::default()).unwrap();
        let bell = Bell::new(&beside(&path, "-wal"));
        for _ in 0..3 {
            conn.execute("UPDATE store SET turn = turn + 1", []).unwrap();
            assert!(bell.wait(LONG, true));
        }
        assert!(!bell.wait(Some(Duration::ZERO), true));
    }
}
