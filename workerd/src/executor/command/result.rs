//! What a program's end means for its job.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use queue::{Codec, ERROR_MAX_BYTES, Fail, Payload, SUMMARY_ERROR_MAX_BYTES};

use super::output::{Head, Pipes, Tail};
use super::{Command, Stdout, Throttled, folder};

/// The exit code for "not now": the job is retried (`EX_TEMPFAIL` of sysexits).
const EXIT_RETRY: i32 = 75;
/// The exit code for "never": the job is dead at once.
pub(crate) const EXIT_DEAD: i32 = 100;

/// The failure that an exit status other than 0 stands for; what the program has said of its
/// provider counts only if it says that it was turned away.
pub(super) fn failure(command: &Command, status: ExitStatus, pipes: &Pipes<'_>) -> Option<Fail> {
    let throttled = command.throttled.filter(|told| status.code() == Some(told.exit_code));
    if let Some(Throttled { delay, .. }) = throttled {
        return Some(Fail::throttled(pipes.retry_after().unwrap_or(delay)));
    }
    let what = match (status.code(), status.signal()) {
        (Some(0), _) => return None,
        (Some(EXIT_RETRY), _) => "exit code 75 (retry later)".to_owned(),
        (Some(EXIT_DEAD), _) => "exit code 100 (do not retry)".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended without an exit code".to_owned(),
    };
    let message = with_errors(&what, &pipes.errors.tail);
    Some(match status.code() {
        Some(EXIT_DEAD) => Fail::dead(message),
        _ => Fail::retry(message),
    })
}

/// `what` happened, and the program's [`last_words`].
pub(super) fn with_errors(what: &str, errors: &Tail) -> String {
    let words = last_words(errors, ERROR_MAX_BYTES - what.len() - ": ".len());
    if words.is_empty() { what.to_owned() } else { format!("{what}: {words}") }
}

/// The last lines of what a program wrote to standard error, at most `max_bytes`. Before them
/// stands the very last: it usually says why, and the first line of a message is what tells errors
/// apart (see [`queue::Fingerprint`]).
pub(super) fn last_words(errors: &Tail, max_bytes: usize) -> String {
    let last = errors.last_line(SUMMARY_ERROR_MAX_BYTES);
    let lines = errors.last_lines(max_bytes.saturating_sub(last.len() + "\n".len()));
    if lines.trim() == last { last } else { format!("{last}\n{lines}") }
}

/// The result of a program that succeeded: the content of the result file if there may be one and
/// there is, else standard output. JSON if it is JSON, else raw bytes; nothing if it is blank.
///
/// # Errors
/// A failure for good if the result is too long or no file: the work is done, and doing it again
/// would not make its result another.
pub(super) async fn result(
    command: &Command,
    file: Option<&Path>,
    pipes: Pipes<'_>,
) -> Result<Option<Payload>, Fail> {
    let max_bytes = command.output_max_bytes;
    let is_there = |file: &&Path| {
        let metadata = std::fs::symlink_metadata(file);
        !metadata.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let bytes = match file.filter(is_there).map(Path::to_owned) {
        Some(path) => {
            let limit = max_bytes as u64 + 1;
            folder::blocking(move || read(&path, limit)).await.flatten()
        }
        // As usual: nothing to read, and nothing to wait for.
        None => Ok(Vec::new()),
    };
    let bytes = bytes.map_err(|e| match e.kind() {
        // The program would leave the same there again.
        io::ErrorKind::InvalidInput => Fail::dead("$WORKERD_RESULT is not a regular file"),
        _ => Fail::retry(format!("cannot read the result file: {e}")),
    })?;
    if bytes.len() > max_bytes {
        return Err(Fail::dead(format!(
            "the result file has more than {max_bytes} bytes; store large results elsewhere and \
             answer with their place"
        )));
    }
    if !bytes.is_empty() {
        return Ok(payload(bytes));
    }
    match (command.stdout, pipes.output) {
        (Stdout::Discard, _) => Ok(None),
        (Stdout::Result, Head { overflowed: true, .. }) => Err(Fail::dead(format!(
            "standard output has more than {max_bytes} bytes, too many for a result; write the \
             result to the file $WORKERD_RESULT, or set stdout = \"discard\" if it is none"
        ))),
        (Stdout::Result, Head { bytes, .. }) => Ok(payload(bytes)),
    }
}

/// At most `limit` bytes of a regular file; nothing if there is none.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match std::fs::symlink_metadata(path) {
        // Opening anything else, such as a named pipe, could take for ever.
        Ok(metadata) if metadata.is_file() => {
            std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        Ok(_) => Err(io::ErrorKind::InvalidInput.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(error),
    }
}

fn payload(bytes: Vec<u8>) -> Option<Payload> {
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return None;
    }
    // Not just its grammar: what is said to be JSON must be readable as JSON, which 1e999 is not.
    let is_json = serde_json::from_slice::<serde_json::Value>(text).is_ok();
    Some(if is_json {
        Payload::from_parts(Codec::Json, text.to_vec())
    } else {
        Payload::raw(bytes)
    })
}
