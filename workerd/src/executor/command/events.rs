//! The named pipe through which a program tells how far it is.
//!
//! A pipe with a name, because a child can be given no descriptors but the three standard ones
//! without unsafe code, and because whatever the program starts can write to it as well. Both ends
//! are open here for as long as the attempt lasts: then opening it does not hold up the program, and
//! it has no end that would have to be waited for. If this process is killed the program goes on
//! without a reader: only if it opens the pipe for reading and writing is it not held up then.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{self, Receiver, Sender};

use super::listener::{Lines, Listener, tell_event};

/// How much is read at once.
const READ_BYTES: usize = 4 * 1024;

/// The most that is read once the program has ended: what fits into a pipe, as large as any user
/// may make it.
const REST_MAX_BYTES: usize = 1024 * 1024;

/// Our ends of the pipe.
#[derive(Debug)]
pub(super) struct Events<'a> {
    /// `None` once it cannot be read.
    receiver: Option<Receiver>,
    _sender: Sender,
    lines: Lines,
    listener: &'a dyn Listener,
    retry_after: Option<Duration>,
}

impl<'a> Events<'a> {
    /// Opens the pipe at `path`, which [`make`] has made.
    ///
    /// # Errors
    /// The system's reason why it cannot be opened.
    pub(super) fn open(path: &Path, listener: &'a dyn Listener) -> io::Result<Self> {
        // In this order: to write, it can be opened without waiting once somebody reads.
        let receiver = pipe::OpenOptions::new().open_receiver(path)?;
        let sender = pipe::OpenOptions::new().open_sender(path)?;
        Ok(Self {
            receiver: Some(receiver),
            _sender: sender,
            lines: Lines::default(),
            listener,
            retry_after: None,
        })
    }

    /// Tells what comes, for ever.
    ///
    /// # Cancel safety
    /// Safe to drop and call again: nothing that was read is forgotten.
    pub(super) async fn serve(&mut self) -> std::convert::Infallible {
        let Self { receiver, lines, listener, retry_after, .. } = self;
        if let Some(receiver) = receiver {
            let mut buffer = [0; READ_BYTES];
            while let Ok(count @ 1..) = receiver.read(&mut buffer).await {
                lines.feed(&buffer[..count], |line| {
                    *retry_after = tell_event(line, *listener).or(*retry_after);
                });
            }
        }
        std::future::pending().await
    }

    /// Tells what is left when the program has ended, without waiting for more.
    pub(super) fn finish(&mut self) {
        let Self { receiver, lines, listener, retry_after, .. } = self;
        let mut tell = |line: &[u8]| *retry_after = tell_event(line, *listener).or(*retry_after);
        let Some(receiver) = receiver.take() else { return };
        // The runtime may not have heard of the last words yet; the system knows.
        if let Ok(descriptor) = receiver.into_nonblocking_fd() {
            let mut rest = Vec::new();
            // It ends with an error if nobody has closed it: there is no more now.
            let _ = File::from(descriptor).take(REST_MAX_BYTES as u64).read_to_end(&mut rest);
            lines.feed(&rest, &mut tell);
        }
        lines.end(tell);
    }

    /// When its provider wants to be asked again, as the program has said last.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Makes the pipe. Only this user can open it.
///
/// # Errors
/// The system's reason why it cannot be made.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn make(path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, Mode, mkfifoat};
    Ok(mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?)
}

/// Makes the pipe by the program for it: the system's call for it is out of reach here.
///
/// # Errors
/// The system's reason why it cannot be made.
#[cfg(target_vendor = "apple")]
pub(crate) fn make(path: &Path) -> io::Result<()> {
    let status =
        std::process::Command::new("/usr/bin/mkfifo").args(["-m", "600"]).arg(path).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("mkfifo failed")) }
}
