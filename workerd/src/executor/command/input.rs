//! What a program gets from its job: arguments and standard input.

use std::fmt::Display;

use bytes::Bytes;
use queue::{Codec, ErrorKind, Fail, Payload};
use serde_json::Value;

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
        let value = if command.arguments.iter().any(|argument| argument.needs_payload()) {
            json(attempt.payload)?
        } else {
            Value::Null
        };
        let arguments = command
            .arguments
            .iter()
            .map(|argument| argument.render(attempt, &value))
            .collect::<Result<_, _>>()
            .map_err(undecodable)?;
        Ok(Self { arguments, stdin: stdin(attempt.payload)? })
    }
}

fn undecodable(message: impl Display) -> Fail {
    Fail::dead(message).kind(ErrorKind::Undecodable)
}

/// JSON and raw payloads byte for byte, MessagePack as JSON.
fn stdin(payload: &Payload) -> Result<Bytes, Fail> {
    if payload.codec() != Codec::Msgpack {
        return Ok(payload.bytes().clone());
    }
    serde_json::to_vec(&json(payload)?).map(Bytes::from).map_err(undecodable)
}

fn json(payload: &Payload) -> Result<Value, Fail> {
    payload.to_json().ok_or_else(|| {
        undecodable(match payload.codec() {
            Codec::Raw => "the payload is raw bytes, which have no fields".to_owned(),
            codec => format!("the payload is not {} with a JSON form", codec.as_str()),
        })
    })
}
