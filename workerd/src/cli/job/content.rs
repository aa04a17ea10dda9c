//! A payload or a result as it is shown.

use queue::{Codec, Payload};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::view::INDENT;
use crate::display::{escape_lines, shortened};

/// Bytes as JSON, if they are or can be.
#[derive(Debug, Serialize)]
pub(super) struct Content {
    codec: &'static str,
    bytes: usize,
    /// Null if it has no JSON form.
    json: Option<Box<RawValue>>,
    /// Raw bytes that are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// The most characters of a payload or result that are shown to people.
const SHOWN_MAX_CHARS: usize = 2000;

impl Content {
    pub(super) fn of(payload: &Payload) -> Self {
        let raw = (payload.codec() == Codec::Raw).then(|| payload.bytes().to_vec());
        Self {
            codec: payload.codec().as_str(),
            bytes: payload.bytes().len(),
            json: json(payload),
            text: raw.and_then(|bytes| String::from_utf8(bytes).ok()),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let whole = match (&self.text, &self.json) {
            (Some(text), _) => text.trim_end(),
            (None, Some(json)) => json.get(),
            (None, None) if self.codec == Codec::Raw.as_str() => {
                return format!("({} raw bytes)", self.bytes);
            }
            (None, None) => return format!("({} bytes that are not {})", self.bytes, self.codec),
        };
        let mut text = shortened(whole, SHOWN_MAX_CHARS).into_owned();
        if text.len() < whole.len() {
            text += " (--json shows all)";
        }
        escape_lines(&text, INDENT)
    }
}

/// The JSON form. What is JSON stays as it is but for its line breaks, since a document is one line:
/// to read its numbers and to write them again would change long ones.
fn json(payload: &Payload) -> Option<Box<RawValue>> {
    let value: Value = payload.to_json()?;
    if payload.codec() != Codec::Json {
        return to_raw_value(&value).ok();
    }
    // Strings cannot hold these characters.
    let text = std::str::from_utf8(payload.bytes()).ok()?;
    RawValue::from_string(text.trim().replace(['\n', '\r', '\t'], " ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shown_as_it_is_stored_on_one_line() {
        let stored = "{\"z\": 12345678901234567890123,\n\t\"a\":\r\n1.50, \"s\": \"\\n\"}\n";
        let shown = "{\"z\": 12345678901234567890123,  \"a\":  1.50, \"s\": \"\\n\"}";
        let content = Content::of(&Payload::from_parts(Codec::Json, stored));
        assert_eq!(content.to_text(), shown);
        let document = serde_json::to_string(&content).unwrap();
        assert!(document.contains(&format!("\"json\":{shown}}}")), "{document}");
    }

    #[test]
    fn what_has_no_json_form_is_null() {
        for (payload, text) in [
            (Payload::from_parts(Codec::Json, "1e999"), "(5 bytes that are not json)"),
            (Payload::from_parts(Codec::Msgpack, vec![0xc1]), "(1 bytes that are not msgpack)"),
            (Payload::raw(vec![0xff]), "(1 raw bytes)"),
            (Payload::raw("words\n"), "words"),
        ] {
            let content = Content::of(&payload);
            assert_eq!((content.to_text().as_str(), content.json.is_none()), (text, true));
        }
        let msgpack = Payload::msgpack(&[1, 2]).unwrap();
        assert_eq!(Content::of(&msgpack).to_text(), "[1,2]");
    }
}
