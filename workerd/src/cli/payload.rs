//! What a job carries, as it is given on the command line.

use std::io::{self, Read};
use std::path::Path;

use queue::payload::PAYLOAD_HARD_MAX_BYTES;
use queue::{Codec, Payload};
use serde_json::Value;

use crate::exit::Failure;

/// A text that is JSON. It is kept as it was written: another program may care about its digits.
///
/// # Errors
/// Why it is not. Not only its grammar counts: a worker must be able to read it, which nobody can
/// do with `1e999` or half a surrogate pair.
pub(super) fn json(text: &str) -> Result<Payload, String> {
    let read: Result<Value, _> = serde_json::from_str(text);
    read.map_err(|e| format!("the payload is not JSON: {e}"))?;
    Ok(Payload::from_parts(Codec::Json, text.trim_ascii().to_owned()))
}

/// The text of a file, or of standard input for `-`; no more than a payload can have.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let limit = PAYLOAD_HARD_MAX_BYTES as u64 + 1;
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    match read {
        Ok(bytes) if bytes as u64 == limit => {
            let max = PAYLOAD_HARD_MAX_BYTES;
            let message = format!("{} has more than {max} bytes", file.display());
            Err(Failure::usage(message).advice("store it elsewhere and enqueue its place"))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", file.display()))),
    }
}
