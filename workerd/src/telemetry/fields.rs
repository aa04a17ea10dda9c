//! The fields of a line of the log, for people and for what takes lines apart.

use std::fmt::{self, Debug};

use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::display::escape;

/// `name=value`, and in quotes what would not be told from the fields beside it.
pub(super) fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let field = |writer: &mut Writer<'_>, field: &tracing::field::Field, value: &dyn Debug| {
        let text = format!("{value:?}");
        if field.name() == "message" {
            return writer.write_str(&escape(&text));
        }
        let (on, off) = if writer.has_ansi_escapes() { ("\x1b[3m", "\x1b[0m") } else { ("", "") };
        write!(writer, "{on}{}{off}=", field.name())?;
        write_value(writer, &text)
    };
    debug_fn(field).delimited(" ")
}

fn write_value(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    let is_hard = |c: char| c.is_whitespace() || c.is_control() || c == '"';
    if is_quoted(text) || !text.contains(is_hard) && !text.is_empty() {
        return writer.write_str(text);
    }
    write!(writer, "{text:?}")
}

/// Whether it is one text in quotes already, as texts are that come as such.
fn is_quoted(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.is_some_and(|inner| {
        let mut is_escaped = false;
        let is_plain = inner.chars().all(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            !ends && !c.is_control()
        });
        is_plain && !is_escaped
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn values_with_blanks_are_quoted_however_they_come() {
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = "\"x\" is not \"y\"";
            tracing::warn!(event = "e", %error, advice = "do it", n = 1, kind = %"a.b", "the end");
            tracing::warn!(error = %"a\n\u{1b}[31m", path = %"", said = ?Some("a b"));
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let expected = " WARN the end event=\"e\" error=\"\\\"x\\\" is not \\\"y\\\"\" \
                        advice=\"do it\" n=1 kind=a.b\n \
                        WARN error=\"a\\n\\u{1b}[31m\" path=\"\" said=\"Some(\\\"a b\\\")\"\n";
        assert_eq!(text, expected);
    }
}
