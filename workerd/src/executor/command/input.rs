//! What a program gets from its job: arguments and standard input.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::Stdio;

use bytes::Bytes;
use queue::{Codec, ErrorKind, Fail, Payload};
use serde_json::value::RawValue;

use super::Command;
use super::attempt::Attempt;

/// What one attempt is started with.
pub(super) struct Input {
    pub(super) arguments: Vec<String>,
    pub(super) stdin: Bytes,
}

impl Input {
    /// # Errors
    /// A failure for good, if the payload does not have what the configuration asks of it: it
    /// will not have it the next time either.
    pub(super) fn of(command: &Command, attempt: &Attempt<'_>) -> Result<Self, Fail> {
        let text = if command.arguments.iter().any(|argument| argument.needs_payload()) {
            json(attempt.payload)?
        } else {
            Bytes::from_static(b"null")
        };
        let payload: &RawValue = serde_json::from_slice(&text)
            .map_err(|_| undecodable("the payload says that it is JSON, which it is not"))?;
        let arguments = command
            .arguments
            .iter()
            .map(|argument| argument.render(attempt, payload))
            .collect::<Result<_, _>>()
            .map_err(undecodable)?;
        Ok(Self { arguments, stdin: stdin(attempt.payload)? })
    }
}

/// What any empty pipe takes at once, on Linux (see `man 7 pipe`) and elsewhere.
const PIPE_MIN_BYTES: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

/// A standard input with `bytes`, and those of them that are still to be written to it.
///
/// # Errors
/// The system's reason why it cannot be made.
pub(super) fn standard_input(bytes: Bytes) -> io::Result<(Stdio, Bytes)> {
    if bytes.len() > PIPE_MIN_BYTES {
        return Ok((Stdio::piped(), bytes));
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&bytes)?;
    Ok((reader.into(), Bytes::new()))
}

fn undecodable(message: impl Display) -> Fail {
    Fail::dead(message).kind(ErrorKind::Undecodable)
}

/// JSON and raw payloads byte for byte, MessagePack as JSON.
fn stdin(payload: &Payload) -> Result<Bytes, Fail> {
    if payload.codec() == Codec::Msgpack { json(payload) } else { Ok(payload.bytes().clone()) }
}

/// The text of the payload as JSON: as it was written, if it was JSON.
fn json(payload: &Payload) -> Result<Bytes, Fail> {
    match payload.codec() {
        Codec::Json => Ok(payload.bytes().clone()),
        Codec::Raw => Err(undecodable("the payload is raw bytes, which have no fields")),
        codec => {
            let none = || format!("the payload is not {} with a JSON form", codec.as_str());
            let value = payload.to_json().ok_or_else(|| undecodable(none()))?;
            serde_json::to_vec(&value).map(Bytes::from).map_err(undecodable)
        }
    }
}
