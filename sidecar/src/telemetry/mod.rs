//! Log lines, on standard error, and traces, to a collector.

/// An enum whose values are labels of metrics: a line for each, with its name there.
macro_rules! labels {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident { $($(#[$of:meta])* $value:ident = $label:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $name { $($(#[$of])* $value,)* }

        impl $name {
            $visibility const ALL: &[Self] = &[$(Self::$value),*];

            $visibility fn name(self) -> &'static str {
                match self { $(Self::$value => $label,)* }
            }
        }
    };
}

pub mod log_throttle;
pub mod metrics;
pub mod refusals;
pub mod samples;
mod settings;
mod text;
pub mod traces;

use std::error::Error;
use std::fmt::{self, Display};
use std::io::IsTerminal;

use opentelemetry_otlp::ExporterBuildError;
use tokio::runtime::Handle;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub use self::settings::TelemetrySettings;

use self::settings::LogFormat;
use self::traces::Traces;

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("--log: {0}")]
    Directives(#[from] ParseError),
    #[error("--otlp-endpoint: {0}")]
    Endpoint(#[from] ExporterBuildError),
    /// Even for a URL without TLS, the certificates of this system are read.
    #[error("--otlp-endpoint: this system cannot send requests: {}", chain(.0))]
    System(#[from] reqwest::Error),
}

/// An error with its sources, as log lines have it in every format: `the database cannot be reached: connection refused`.
pub fn chain(error: &dyn Error) -> impl Display {
    struct Chain<'a>(&'a dyn Error);
    impl Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)?;
            self.0.source().map_or(Ok(()), |source| write!(f, ": {}", Chain(source)))
        }
    }
    Chain(error)
}

/// A text for a terminal. It may quote what clients or a database have written, so no character moves the cursor or turns the direction of
/// the text around it.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || character.is_control() && character != '\n' {
            printable.extend(character.escape_unicode());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// The filter of log lines.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(directives)
}

/// Asked for more than `info`, these log the parameters of statements, and messages: the users' events, and their tokens.
const TALKATIVE: [&str; 5] = ["tokio_postgres", "tungstenite", "tokio_tungstenite", "hyper", "h2"];

/// Whether a line may be written, whatever the directives say: a directive for a module counts more than one for its crate.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    let of = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO || !TALKATIVE.contains(&of)
}

/// The filter, and what no directive can switch on.
fn discreet<S: Subscriber>(directives: &str) -> Result<impl Filter<S> + Send + Sync + 'static, ParseError> {
    let discreet = filter_fn(is_discreet as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::TRACE);
    Ok(FilterExt::<S>::and(filter(directives)?, discreet))
}

/// Call once. Traces are sent on `runtime`.
pub fn init(settings: &TelemetrySettings, runtime: &Handle) -> Result<Option<Traces>, TelemetryError> {
    let filter = discreet(&settings.directives)?;
    let traces =
        settings.endpoint().map(|endpoint| Traces::to(endpoint, settings.trust_traceparent, runtime)).transpose()?;
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_ansi(is_terminal).with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.fmt_fields(text::Fields).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.as_ref().map(Traces::layer)).init();
    Ok(traces)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_directive_brings_the_parameters_of_statements_into_the_log() {
        let lines = Lines::default();
        let (written, filter) = (lines.clone(), discreet("debug,tokio_postgres::query=trace").unwrap());
        let layer = tracing_subscriber::fmt::layer().with_writer(move || lines.clone()).with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::trace!(target: "tokio_postgres::query", "the args");
            tracing::info!(target: "tokio_postgres::query", "a notice");
            tracing::debug!(target: "livestore_sidecar", "a detail");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        assert!(text.contains("a notice") && text.contains("a detail") && !text.contains("the args"), "{text}");
    }
}
