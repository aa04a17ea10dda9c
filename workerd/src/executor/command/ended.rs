//! Hearing of a program's end without reaping it.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells when one child of this process has ended. It must not be reaped as long as this is used.
#[derive(Debug)]
pub(super) struct Ended {
    program: Pid,
    news: News,
    is_ended: bool,
}

/// What wakes us.
#[derive(Debug)]
enum News {
    /// The program itself.
    #[cfg(target_os = "linux")]
    Program(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>),
    /// Any child of this process: each program hears of the end of all.
    Children(Signal),
}

impl Ended {
    /// # Errors
    /// The system's reason why nothing can be heard.
    pub(super) fn of(program: Pid) -> io::Result<Self> {
        Ok(Self { program, news: news(program)?, is_ended: false })
    }

    /// Waits until it has ended.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(super) async fn wait(&mut self) {
        // An end that came before is news of the program itself; that of all children may be over.
        let looks_first = matches!(self.news, News::Children(_));
        if self.is_ended || looks_first && self.is_ended() {
            return;
        }
        loop {
            let is_alive = match &mut self.news {
                #[cfg(target_os = "linux")]
                News::Program(program) => {
                    program.readable().await.map(|mut ready| ready.clear_ready()).is_ok()
                }
                News::Children(signal) => signal.recv().await.is_some(),
            };
            if !is_alive || self.is_ended() {
                return;
            }
        }
    }

    pub(super) fn is_ended(&mut self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        // An error means that there is no such child to wait for: it has ended.
        self.is_ended =
            self.is_ended || !matches!(waitid(WaitId::Pid(self.program), look), Ok(None));
        self.is_ended
    }
}

/// Makes the system keep the status of what ends, which it does not for a process that was
/// started by one that ignores the signal of it. To be called before a program is started.
///
/// # Errors
/// The system's reason why it cannot be done.
pub(super) fn keep_statuses() -> io::Result<()> {
    static KEPT: OnceLock<()> = OnceLock::new();
    if KEPT.get().is_none() {
        if is_child_signal_ignored() {
            // For good, although nobody listens.
            let _ = signal(SignalKind::child())?;
        }
        let _ = KEPT.set(());
    }
    Ok(())
}

/// Whether it may be: who cannot tell says so.
fn is_child_signal_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let signals = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let signals = signals.and_then(|signals| u64::from_str_radix(signals.trim(), 16).ok());
    let child = rustix::process::Signal::CHILD.as_raw() - 1;
    signals.is_none_or(|signals| signals & (1 << child) != 0)
}

#[cfg(target_os = "linux")]
#[expect(deprecated, reason = "its successor is unsafe, for types that are not an OwnedFd")]
fn news(program: Pid) -> io::Result<News> {
    use rustix::process::{PidfdFlags, pidfd_open};
    use tokio::io::{Interest, unix::AsyncFd};

    match pidfd_open(program, PidfdFlags::NONBLOCK) {
        Ok(program) => Ok(News::Program(AsyncFd::with_interest(program, Interest::READABLE)?)),
        // An old kernel, or a filter of system calls.
        Err(_) => Ok(News::Children(signal(SignalKind::child())?)),
    }
}

#[cfg(not(target_os = "linux"))]
fn news(_: Pid) -> io::Result<News> {
    Ok(News::Children(signal(SignalKind::child())?))
}
