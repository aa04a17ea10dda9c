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

/// Why a wait for the bell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Its time was over.
    Nothing,
    /// It was rung, or a signal came.
    Ring,
    /// The log was written.
    Write,
}

impl Bell {
    /// A bell that at first also hears, where the system can tell, when the log at `log` is written.
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

    /// Hears from now on when the log is written, or does not any more: whoever writes pays for each
    /// who hears it.
    pub(super) fn hear(&self, hear: bool) {
        #[cfg(target_os = "linux")]
        if let Some(ears) = &self.ears {
            ears.hear(hear);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = hear;
    }

    /// Whether it has been told to hear, or cannot.
    pub(super) fn hears(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(ears) = &self.ears {
            return ears.hears();
        }
        true
    }

    /// Waits until it rings, until the log is written if `listen` and that is heard, or until
    /// `timeout`.
    pub(super) fn wait(&self, timeout: Option<Duration>, listen: bool) -> Heard {
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
        if std::mem::take(&mut *rung) { Heard::Ring } else { Heard::Nothing }
    }
}

#[cfg(target_os = "linux")]
mod ears {
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::fs::inotify;
    use rustix::io::{Result, read, write};

    use super::Heard;

    #[derive(Debug)]
    pub(super) struct Ears {
        rung: OwnedFd,
        written: OwnedFd,
        log: PathBuf,
        watch: Mutex<Watch>,
    }

    /// The watch over the log.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Watch {
        /// There is none.
        None,
        /// It has this number.
        Kept(i32),
        /// There could be none: writes are found by asking.
        Refused,
    }

    impl Ears {
        pub(super) fn new(log: &Path) -> Result<Self> {
            let rung = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let written = inotify::init(flags)?;
            let watch = Watch::Kept(watch(&written, log)?);
            Ok(Self { rung, written, log: log.to_owned(), watch: Mutex::new(watch) })
        }

        pub(super) fn hear(&self, hear: bool) {
            let mut kept = self.watch();
            match (hear, *kept) {
                (true, Watch::None) => {
                    self.drain();
                    *kept = match watch(&self.written, &self.log) {
                        Ok(number) => Watch::Kept(number),
                        Err(error) => {
                            tracing::debug!(%error, "writes of other processes are found by asking");
                            Watch::Refused
                        }
                    };
                }
                (false, Watch::Kept(number)) => {
                    // It can only fail because the log is gone.
                    let _ = inotify::remove_watch(&self.written, number);
                    *kept = Watch::None;
                }
                (false, Watch::Refused) => *kept = Watch::None,
                _ => {}
            }
        }

        pub(super) fn hears(&self) -> bool {
            *self.watch() != Watch::None
        }

        fn watch(&self) -> MutexGuard<'_, Watch> {
            self.watch.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(super) fn ring(&self) {
            // It can only fail because it rings already.
            let _ = write(&self.rung, &1_u64.to_ne_bytes());
        }

        pub(super) fn wait(&self, timeout: Option<Duration>, listen: bool) -> Heard {
            let mut both = [&self.rung, &self.written].map(|fd| PollFd::new(fd, PollFlags::IN));
            let heard = if listen { &mut both[..] } else { &mut both[..1] };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // After a signal the caller looks whether there is something, and waits again.
            if poll(heard, timeout.as_ref()).is_err() {
                return Heard::Ring;
            }
            let [rung, written] = both.map(|fd| !fd.revents().is_empty());
            if rung {
                let _ = read(&self.rung, &mut [0; 8]);
            }
            if written {
                self.drain();
            }
            match (written, rung) {
                (true, _) => Heard::Write,
                (false, true) => Heard::Ring,
                (false, false) => Heard::Nothing,
            }
        }

        /// What was written does not matter, only that it was.
        fn drain(&self) {
            let mut events = [0; 4096];
            while read(&self.written, &mut events).is_ok_and(|bytes| bytes > 0) {}
        }
    }

    fn watch(written: &OwnedFd, log: &Path) -> Result<i32> {
        inotify::add_watch(written, log, inotify::WatchFlags::MODIFY)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const NOT_LONG: Option<Duration> = Some(Duration::ZERO);
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
            assert_eq!(bell.wait(None, true), Heard::Ring);
            assert_eq!(bell.wait(NOT_LONG, true), Heard::Nothing);
            std::thread::scope(|scope| {
                scope.spawn(|| bell.ring());
                assert_eq!(bell.wait(None, false), Heard::Ring);
            });
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_write_to_the_log_is_heard_by_those_who_listen() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let bell = Bell::new(log.path());
        log.write_all(b"x").unwrap();
        assert_eq!(bell.wait(NOT_LONG, false), Heard::Nothing);
        assert_eq!(bell.wait(LONG, true), Heard::Write);
        assert_eq!(bell.wait(NOT_LONG, true), Heard::Nothing);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_does_not_hear_is_not_told_of_what_is_written_meanwhile() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let bell = Bell::new(log.path());
        for _ in 0..2 {
            log.write_all(b"x").unwrap();
            bell.hear(false);
            bell.hear(false);
            assert!(!bell.hears());
            log.write_all(b"x").unwrap();
            bell.hear(true);
            assert_eq!(bell.wait(NOT_LONG, true), Heard::Nothing);
            bell.hear(true);
            assert!(bell.hears());
            log.write_all(b"x").unwrap();
            assert_eq!(bell.wait(LONG, true), Heard::Write);
        }
        // If the log cannot be watched, nobody tries again and again.
        bell.hear(false);
        log.close().unwrap();
        bell.hear(true);
        assert!(bell.hears());
        bell.hear(false);
        assert!(!bell.hears());
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
            assert_eq!(bell.wait(LONG, true), Heard::Write);
        }
        assert_eq!(bell.wait(NOT_LONG, true), Heard::Nothing);
    }
}
