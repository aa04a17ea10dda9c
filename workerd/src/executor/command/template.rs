//! Arguments with typed slots: `--id={payload.report_id}`.
//!
//! An argument of the configuration becomes exactly one argument of the program, whatever the
//! job puts into its slots: nothing is split, expanded or given to a shell.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use super::attempt::Attempt;

/// One argument: literal text and slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Slot(Slot),
}

/// What a job puts into an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    JobId,
    JobAttempt,
    JobKind,
    JobQueue,
    /// The names of fields, from the outermost.
    Payload(Vec<String>),
}

impl Template {
    /// Reads an argument of the configuration. `{{` and `}}` are literal braces.
    ///
    /// # Errors
    /// What is wrong, for the person who wrote it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let Some(end) = rest.find('}').filter(|_| brace == "{") else {
                return Err(format!("{brace:?} has no partner; write {brace}{brace} for a brace"));
            };
            let slot = Slot::parse(&rest[..end])?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Slot(slot));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if text.contains('\0') {
            return Err("an argument cannot hold a NUL character".to_owned());
        }
        Ok(Self(parts))
    }

    /// Whether every job gets the same text.
    pub(crate) fn is_literal(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// Whether the argument needs the payload as JSON.
    pub(super) fn needs_payload(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Slot(Slot::Payload(_))))
    }

    /// The argument for one attempt.
    ///
    /// # Errors
    /// Which slot the job cannot fill, without the payload's values.
    pub(super) fn render(
        &self,
        attempt: &Attempt<'_>,
        payload: &RawValue,
    ) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Slot(slot) => text.push_str(&slot.fill(attempt, payload)?),
            }
        }
        if text.contains('\0') {
            return Err(format!("the argument {self} would hold a NUL character"));
        }
        Ok(text)
    }
}

impl Slot {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "job.id" => return Ok(Self::JobId),
            "job.attempt" => return Ok(Self::JobAttempt),
            "job.kind" => return Ok(Self::JobKind),
            "job.queue" => return Ok(Self::JobQueue),
            _ => {}
        }
        let fields: Vec<String> = match text.strip_prefix("payload.") {
            Some(path) => path.split('.').map(str::to_owned).collect(),
            None => Vec::new(),
        };
        if fields.is_empty() || fields.iter().any(String::is_empty) {
            return Err(format!(
                "{{{text}}} is not a slot; there are {{payload.FIELD}}, {{payload.FIELD.FIELD}}, \
                 {{job.id}}, {{job.attempt}}, {{job.kind}} and {{job.queue}}; write {{{{ and }}}} \
                 for braces"
            ));
        }
        Ok(Self::Payload(fields))
    }

    fn fill(&self, attempt: &Attempt<'_>, payload: &RawValue) -> Result<String, String> {
        let fields = match self {
            Self::JobId => return Ok(attempt.job.to_string()),
            Self::JobAttempt => return Ok(attempt.number.to_string()),
            Self::JobKind => return Ok(attempt.kind.to_string()),
            Self::JobQueue => return Ok(attempt.queue.to_string()),
            Self::Payload(fields) => fields,
        };
        let mut value = payload;
        for field in fields {
            value = inner(value, field)
                .ok_or_else(|| format!("the payload has no field for {self}"))?;
        }
        let text = value.get();
        let found = match text.as_bytes() {
            [b'"', ..] => match serde_json::from_str(text) {
                Ok(text) => return Ok(text),
                Err(_) => "text that is no Unicode",
            },
            // As they were written: whoever counts in cents or has long ids needs every digit.
            [b'-' | b'0'..=b'9' | b't' | b'f', ..] => return Ok(text.to_owned()),
            [b'[', ..] => "an array",
            [b'{', ..] => "an object",
            _ => "null",
        };
        Err(format!("{self} takes a string, a number or a boolean; the payload has {found} there"))
    }
}

/// A field of an object; the last one of several with this name, as for most readers of JSON.
fn inner<'a>(object: &'a RawValue, field: &str) -> Option<&'a RawValue> {
    let fields: HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(object.get()).ok()?;
    fields.get(field).copied()
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobId => f.write_str("{job.id}"),
            Self::JobAttempt => f.write_str("{job.attempt}"),
            Self::JobKind => f.write_str("{job.kind}"),
            Self::JobQueue => f.write_str("{job.queue}"),
            Self::Payload(fields) => write!(f, "{{payload.{}}}", fields.join(".")),
        }
    }
}

impl fmt::Display for Template {
    /// The text that parses to this template.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Literal(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                Part::Slot(slot) => slot.fmt(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::listener::tests::Heard;
    use queue::{JobId, Kind, Payload, QueueName};
    use serde_json::{Value, json};

    use super::*;

    fn render(template: &str, payload: &Value) -> Result<String, String> {
        render_text(template, &payload.to_string())
    }

    fn render_text(template: &str, payload: &str) -> Result<String, String> {
        let (kind, queue) = (Kind::new("k").unwrap(), QueueName::default());
        let attempt = Attempt {
            job: JobId::from_bytes([0; 16]),
            kind: &kind,
            queue: &queue,
            payload: &Payload::default(),
            number: 3,
            fence: 1,
            remaining: std::time::Duration::from_secs(1),
            listener: &Heard::default(),
        };
        let payload: &RawValue = serde_json::from_str(payload).unwrap();
        Template::parse(template).unwrap().render(&attempt, payload)
    }

    #[test]
    fn slots_take_strings_numbers_and_booleans_at_any_depth() {
        let payload = json!({"a": "x y", "n": 12_345_678_901_234_567_890_u64, "b": {"c": false}});
        assert_eq!(render("{payload.a}", &payload).unwrap(), "x y");
        assert_eq!(render("--n={payload.n}/{payload.b.c}!", &payload).unwrap(), {
            "--n=12345678901234567890/false!"
        });
        let job = render("{job.id}:{job.attempt}:{job.kind}:{job.queue}", &payload).unwrap();
        assert_eq!(job, "00000000-0000-0000-0000-000000000000:3:k:default");
    }

    #[test]
    fn numbers_are_what_was_written() {
        for number in ["123456789012345678901234567890", "9007199254740993.0", "1.50", "-0", "1e5"]
        {
            let payload = format!("{{\"a\": {{ \"n\" : {number} }}, \"b\": \"\\ud800\"}}");
            assert_eq!(render_text("{payload.a.n}", &payload).unwrap(), number);
            assert!(render_text("{payload.b}", &payload).unwrap_err().contains("no Unicode"));
        }
    }

    #[test]
    fn a_value_is_never_more_than_its_argument() {
        let payload = json!({"a": "-rf; $(id) {job.id} \"'"});
        assert_eq!(render("{payload.a}", &payload).unwrap(), "-rf; $(id) {job.id} \"'");
    }

    #[test]
    fn a_slot_that_cannot_be_filled_is_named_without_the_payloads_values() {
        let payload = json!({"list": ["secret"], "none": null, "text": "secret\0"});
        for (template, expected) in [
            ("{payload.list}", "an array"),
            ("{payload.none}", "null"),
            ("{payload.missing}", "no field for {payload.missing}"),
            ("{payload.text.deeper}", "no field for {payload.text.deeper}"),
            ("{payload.text}", "NUL"),
        ] {
            let error = render(template, &payload).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn doubled_braces_are_literal_and_a_template_survives_its_text() {
        let text = "{{\"id\": {payload.id}}}";
        assert_eq!(render(text, &json!({"id": 7})).unwrap(), "{\"id\": 7}");
        assert_eq!(Template::parse(text).unwrap().to_string(), text);
        assert_eq!(render("", &Value::Null).unwrap(), "");
    }

    #[test]
    fn what_is_not_a_slot_is_refused_with_the_slots_there_are() {
        for bad in ["{id}", "{payload}", "{payload.}", "{payload.a..b}", "{job.secret}", "{}"] {
            let error = Template::parse(bad).unwrap_err();
            assert!(error.contains("{payload.FIELD}"), "{bad}: {error}");
        }
        for bad in ["{", "}", "a { b", "{payload.a", "x}y"] {
            assert!(Template::parse(bad).unwrap_err().contains("no partner"), "{bad}");
        }
    }
}
