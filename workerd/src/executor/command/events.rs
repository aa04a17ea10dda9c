//! The named pipe through which a program tells how far it is.
//!
//! A pipe with a name, because a child can be given no descriptors but the three standard ones
//! without unsafe code, and because whatever the program starts can write to it as well. Both ends
//! are open here for as long as the attempt lasts: then opening it does not hold up the program, and
//! it has no end that would have to be waited for. If this process is killed the program goes on
//! without a reader: only if it opens the pipe for reading and writing is it not held up then.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::{read, retry_on_intr};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{self, Receiver};

use super::listener::{Lines, Listener, tell_event};
use super::pace::Pace;

/// How much is read at once.
const READ_BYTES: usize = 1024;

/// The most that is read once the program has ended: what fits into a pipe, as large as any user
/// may make it.
const REST_MAX_BYTES: usize = 1024 * 1024;

/// Our ends of the pipe.
#[derive(Debug)]
pub(super) struct Ends {
    receiver: Receiver,
    /// Also held by the receiver, where the system lets one end be both.
    #[cfg(not(target_os = "linux"))]
    _sender: pipe::Sender,
}

impl Ends {
    /// Opens the pipe at `path`, which [`make`] has made.
    ///
    /// # Errors
    /// The system's reason why it cannot be opened.
    #[cfg(target_os = "linux")]
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { receiver: pipe::OpenOptions::new().read_write(true).open_receiver(path)? })
    }

    /// Opens the pipe at `path`, which [`make`] has made.
    ///
    /// # Errors
    /// The system's reason why it cannot be opened.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // In this order: to write, it can be opened without waiting once somebody reads.
        let receiver = pipe::OpenOptions::new().open_receiver(path)?;
        let sender = pipe::OpenOptions::new().open_sender(path)?;
        Ok(Self { receiver, _sender: sender })
    }
}

/// What comes through the pipe.
#[derive(Debug)]
pub(super) struct Events<'a> {
    /// `None` once it cannot be read.
    ends: Option<Ends>,
    lines: Lines,
    listener: &'a dyn Listener,
    retry_after: Option<Duration>,
}

impl<'a> Events<'a> {
    pub(super) fn new(ends: Option<Ends>, listener: &'a dyn Listener) -> Self {
        Self { ends, lines: Lines::default(), listener, retry_after: None }
    }

    /// Tells what comes, for ever.
    ///
    /// # Cancel safety
    /// Safe to drop and call again: nothing that was read is forgotten.
    pub(super) async fn serve(&mut self) -> std::convert::Infallible {
        let Self { ends, lines, listener, retry_after } = self;
        if let Some(ends) = ends {
            let mut buffer = Vec::with_capacity(READ_BYTES);
            let mut pace = Pace::new();
            while let Ok(1..) = ends.receiver.read_buf(&mut buffer).await {
                pace.begin();
                lines.feed(&buffer, |line| {
                    *retry_after = tell_event(line, *listener).or(*retry_after);
                });
                pace.end(buffer.len()).await;
                buffer.clear();
            }
        }
        std::future::pending().await
    }

    /// Tells what is left when the program has ended, without waiting for more; then the pipe is
    /// empty, if it is not gone.
    pub(super) fn finish(&mut self) -> Option<Ends> {
        let Self { ends, lines, listener, retry_after } = self;
        let mut tell = |line: &[u8]| *retry_after = tell_event(line, *listener).or(*retry_after);
        let ends = ends.take()?;
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut rest_bytes = 0;
        // The runtime may not have heard of the last words yet; the system knows. It ends with an
        // error if nobody has closed the pipe: there is no more now.
        while rest_bytes < REST_MAX_BYTES
            && let Ok(count @ 1..) =
                retry_on_intr(|| read(&ends.receiver, spare_capacity(&mut buffer)))
        {
            rest_bytes += count;
            lines.feed(&buffer, &mut tell);
            buffer.clear();
        }
        lines.end(tell);
        (rest_bytes < REST_MAX_BYTES).then_some(ends)
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
