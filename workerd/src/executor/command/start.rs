//! The start of a program.

use std::io;
use std::process::Command as Process;

use bytes::Bytes;
use queue::Fail;

use super::Command;
use super::folder::{Folder, Folders};
use super::group::{Group, Streams};
use super::input::standard_input;
use super::starts::Starts;

/// A program that runs, and what was made for it.
#[derive(Debug)]
pub(super) struct Started {
    // Before its folder: dropping it ends those who use that.
    pub(super) group: Group,
    pub(super) streams: Streams,
    /// What is still to be written to its standard input.
    pub(super) input: Bytes,
    pub(super) folder: Folder,
}

/// Why a program does not run.
#[derive(Debug)]
pub(super) enum NotStarted {
    NoFolder(io::Error),
    NoProgram(io::Error),
}

impl Started {
    /// Starts `process`, in the folder of its attempt if `is_in_folder`.
    ///
    /// # Errors
    /// The system's reason why it cannot be started.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub(super) async fn start(
        process: Process,
        is_in_folder: bool,
        input: Bytes,
        folders: &Folders,
    ) -> Result<Self, NotStarted> {
        let folder = folders.get().await.map_err(NotStarted::NoFolder)?;
        Self::start_in(folder, process, is_in_folder, input).map_err(NotStarted::NoProgram)
    }

    fn start_in(
        folder: Folder,
        mut process: Process,
        is_in_folder: bool,
        input: Bytes,
    ) -> io::Result<Self> {
        if is_in_folder {
            process.current_dir(&folder.work);
        }
        process.env("WORKERD_RESULT", &folder.result).env("WORKERD_EVENTS", &folder.events);
        let (stdin, input) = standard_input(input)?;
        let (group, streams) = Group::start(process.stdin(stdin), folder.result.clone())?;
        Ok(Self { group, streams, input, folder })
    }
}

impl NotStarted {
    /// A machine that cannot start the program now may be able to later, or another machine may:
    /// only arguments that are too long stay so.
    pub(super) fn into_fail(self, command: &Command, starts: &Starts) -> Fail {
        let error = match self {
            Self::NoFolder(error) => {
                return starts.failed("cannot make a folder and a pipe for the attempt", &error);
            }
            Self::NoProgram(error) => error,
        };
        let what = format!("cannot start {}", command.program.display());
        match error.kind() {
            io::ErrorKind::ArgumentListTooLong => Fail::dead(format!("{what}: {error}")),
            _ => starts.failed(&what, &error),
        }
    }
}
