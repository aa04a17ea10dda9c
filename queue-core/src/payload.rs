//! What a job carries: opaque bytes and the name of the codec that made them.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes a payload may have unless the queue is opened with another limit.
pub const PAYLOAD_DEFAULT_MAX_BYTES: usize = 256 * 1024;
/// The most bytes a payload may ever have.
pub const PAYLOAD_HARD_MAX_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes a result may have.
pub const RESULT_MAX_BYTES: usize = 64 * 1024;

/// How the bytes of a [`Payload`] were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Codec {
    /// Bytes that only producer and handler understand.
    Raw,
    /// JSON text.
    Json,
    /// MessagePack with named fields, so that a field can be added while old workers still run.
    Msgpack,
}

impl Codec {
    /// The codec's number in stored records. Never reused for another codec.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Json => 1,
            Self::Msgpack => 2,
        }
    }

    /// The codec of a number in a stored record, if this version knows it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Json),
            2 => Some(Self::Msgpack),
            _ => None,
        }
    }

    /// The codec's name: `raw`, `json` or `msgpack`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Msgpack => "msgpack",
        }
    }
}

/// Bytes and their codec: a job's payload, or its result. Stores never look inside.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    codec: Codec,
    bytes: Bytes,
}

impl Payload {
    /// Bytes as they are.
    #[must_use]
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self { codec: Codec::Raw, bytes: bytes.into() }
    }

    /// `value` as JSON.
    ///
    /// # Errors
    /// [`CodecError`] if `value` has no JSON form, such as a map whose keys are not text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        let bytes = serde_json::to_vec(value).map_err(|e| CodecError::encode(Codec::Json, &e))?;
        Ok(Self { codec: Codec::Json, bytes: bytes.into() })
    }

    /// `value` as MessagePack with named fields.
    ///
    /// # Errors
    /// [`CodecError`] if `value` refuses to be serialised.
    pub fn msgpack<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        let bytes =
            rmp_serde::to_vec_named(value).map_err(|e| CodecError::encode(Codec::Msgpack, &e))?;
        Ok(Self { codec: Codec::Msgpack, bytes: bytes.into() })
    }

    /// Bytes that `codec` made elsewhere. They are not checked here; a handler that cannot decode
    /// them fails its job.
    #[must_use]
    pub fn from_parts(codec: Codec, bytes: impl Into<Bytes>) -> Self {
        Self { codec, bytes: bytes.into() }
    }

    /// The codec that made the bytes.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes the bytes with the codec that made them.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not what `T` expects, or are [`Codec::Raw`]: those have no
    /// structure, take them with [`Payload::bytes`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        match self.codec {
            Codec::Json => {
                serde_json::from_slice(&self.bytes).map_err(|e| CodecError::decode(Codec::Json, &e))
            }
            Codec::Msgpack => rmp_serde::from_slice(&self.bytes)
                .map_err(|e| CodecError::decode(Codec::Msgpack, &e)),
            Codec::Raw => Err(CodecError {
                doing: "decode",
                codec: Codec::Raw,
                reason: "raw bytes have no structure; read them as bytes".to_owned(),
            }),
        }
    }

    /// The payload as a JSON value, for people and for executors that speak JSON; `None` for raw
    /// bytes and for bytes that do not decode.
    #[must_use]
    pub fn to_json(&self) -> Option<serde_json::Value> {
        self.decode().ok()
    }
}

impl Default for Payload {
    /// No bytes at all, raw.
    fn default() -> Self {
        Self::raw(Bytes::new())
    }
}

impl fmt::Debug for Payload {
    /// Length and codec only: payloads stay out of logs (promise P12).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({}, {} bytes)", self.codec.as_str(), self.bytes.len())
    }
}

/// A value could not be turned into bytes, or bytes not into a value.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {doing} payload as {}: {reason}", codec.as_str())]
pub struct CodecError {
    doing: &'static str,
    codec: Codec,
    reason: String,
}

impl CodecError {
    fn encode(codec: Codec, error: &dyn fmt::Display) -> Self {
        Self { doing: "encode", codec, reason: without_values(&error.to_string()) }
    }

    fn decode(codec: Codec, error: &dyn fmt::Display) -> Self {
        Self { doing: "decode", codec, reason: without_values(&error.to_string()) }
    }
}

/// Keeps of serde's message what the schema says and drops what the payload says, because this
/// text ends in logs and error records (promise P12): ``invalid type: integer `4111…`, expected a
/// string at line 1 column 9`` becomes `invalid type, expected a string at line 1 column 9`.
fn without_values(message: &str) -> String {
    const NAMES_A_FIELD: [&str; 2] = ["missing field `", "duplicate field `"];
    const NAMES_A_VALUE: [&str; 5] =
        ["invalid type", "invalid value", "invalid length", "unknown variant", "unknown field"];
    if NAMES_A_FIELD.iter().any(|start| message.starts_with(start)) {
        return message.to_owned();
    }
    let place = message.rfind(" at line ").map_or("", |at| &message[at..]);
    let what = NAMES_A_VALUE.iter().find(|start| message.starts_with(**start));
    // The last one: a value may hold the same words.
    let expected = what.and_then(|_| message.rfind(", expected ")).map(|at| &message[at..]);
    match (what, expected) {
        (Some(what), Some(expected)) => format!("{what}{expected}"),
        (Some(what), None) => format!("{what}{place}"),
        (None, _) => format!("the data does not fit{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_payloads_can_be_shown_as_json_and_bytes_cannot() {
        let old = Old { to: "you".to_owned() };
        let shown = Some(serde_json::json!({ "to": "you" }));
        assert_eq!(Payload::json(&old).unwrap().to_json(), shown);
        assert_eq!(Payload::msgpack(&old).unwrap().to_json(), shown);
        assert_eq!(Payload::raw("{}").to_json(), None);
        let parts = |bytes| Payload::from_parts(Codec::Json, Bytes::from_static(bytes));
        assert_eq!(parts(b"[1]").to_json(), Some(serde_json::json!([1])));
        assert_eq!(parts(b"[").to_json(), None);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        to: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        #[serde(default)]
        cc: Option<String>,
        to: String,
    }

    #[test]
    fn a_field_can_be_added_in_both_directions() {
        let old = Payload::msgpack(&Old { to: "a".into() }).unwrap();
        assert_eq!(old.decode::<New>().unwrap(), New { cc: None, to: "a".into() });
        let new = Payload::msgpack(&New { cc: Some("b".into()), to: "a".into() }).unwrap();
        assert_eq!(new.decode::<Old>().unwrap(), Old { to: "a".into() });
    }

    #[test]
    fn json_and_raw_keep_their_bytes() {
        let json = Payload::json(&serde_json::json!({"n": 9_007_199_254_740_993_u64})).unwrap();
        assert_eq!(json.bytes().as_ref(), br#"{"n":9007199254740993}"#);
        let raw = Payload::raw(vec![0, 255, 0]);
        assert_eq!(raw.bytes().as_ref(), [0, 255, 0]);
        assert!(raw.decode::<Old>().is_err());
    }

    #[test]
    fn every_codec_has_a_number_of_its_own() {
        for codec in [Codec::Raw, Codec::Json, Codec::Msgpack] {
            assert_eq!(Codec::from_number(codec.number()), Some(codec));
        }
        assert_eq!(Codec::from_number(3), None);
    }

    #[test]
    fn an_error_names_the_field_but_never_the_value() {
        let missing = Payload::json(&serde_json::json!({})).unwrap();
        assert!(missing.decode::<Old>().unwrap_err().to_string().contains("`to`"));
        let text = |value: serde_json::Value| {
            let wrong = Payload::json(&value).unwrap();
            let as_number = wrong.decode::<u8>().unwrap_err().to_string();
            let as_codec = wrong.decode::<Codec>().unwrap_err().to_string();
            let packed = Payload::msgpack(&value).unwrap();
            let as_packed = packed.decode::<Old>().unwrap_err().to_string();
            format!("{as_number}\n{as_codec}\n{as_packed}")
        };
        for value in [
            serde_json::json!("hunter2"),
            serde_json::json!("a, expected hunter2 at line 1"),
            serde_json::json!(4_111_111_111_111_111_u64),
            serde_json::json!({"hunter2": 1}),
            serde_json::json!(["hunter2", 4_111_111]),
        ] {
            let text = text(value);
            assert!(!text.contains("hunter2") && !text.contains("4111"), "{text}");
        }
        let number = Payload::json("x").unwrap().decode::<u8>().unwrap_err().to_string();
        assert!(number.contains("invalid type, expected u8 at line 1"), "{number}");
    }

    #[test]
    fn debug_does_not_show_the_bytes() {
        assert_eq!(format!("{:?}", Payload::raw("secret")), "Payload(raw, 6 bytes)");
    }
}
