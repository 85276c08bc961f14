//! Fields of log lines as text. What a client sends may be in them: it must not begin a line of its own, nor control a terminal.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes fields as `name=value`, and the message without its name.
pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() {
            return;
        }
        let separator = if std::mem::take(&mut self.is_first) { "" } else { " " };
        let mut escaping = Escaping(&mut self.writer);
        self.result = match field.name() {
            "message" => write!(escaping, "{separator}{value}"),
            // A name that Rust keeps to itself.
            name => write!(escaping, "{separator}{}={value}", name.trim_start_matches("r#")),
        };
    }
}

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.write(field, format_args!("{value}"));
        } else {
            self.write(field, format_args!("{value:?}"));
        }
    }
}

/// Passes text on without control characters: those, and the marks that turn the direction of text, are written as Rust writes them.
struct Escaping<'a, 'writer>(&'a mut Writer<'writer>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| is_control(*character)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", character.escape_default())?;
            plain = at + character.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::telemetry::chain;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The log lines of a closure, without the time.
    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    const FORGED: &str = "a\nERROR forged\r\x1b[31m\u{9b}31m\u{202e}\u{2028}\0é\"\\";

    #[test]
    fn nothing_begins_a_line_or_controls_a_terminal() {
        let error = io::Error::other(FORGED);
        let log = logged(|| {
            let span = tracing::info_span!("request", display = %FORGED, text = FORGED);
            let _entered = span.enter();
            tracing::info!(display = %FORGED, debug = ?FORGED, text = FORGED, error = %chain(&error), "{FORGED}");
        });
        assert_eq!(log.matches('\n').count(), 1, "{log:?}");
        assert!(!log.trim_end().contains(is_control), "{log:?}");
        assert!(log.contains(r"a\nERROR forged\r\u{1b}[31m\u{9b}31m\u{202e}\u{2028}\u{0}é"), "{log}");
    }

    #[test]
    fn what_is_harmless_is_written_as_it_is() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        let log = logged(
            || tracing::warn!(store = ?"s 1", n = 3, none = None::<&str>, error = %chain(&error), "it is {}", "said"),
        );
        assert_eq!(log, " WARN it is said store=\"s 1\" n=3 error=outer: inner\n");
    }
}
