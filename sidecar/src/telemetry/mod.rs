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

use std::io::IsTerminal;

use opentelemetry_otlp::ExporterBuildError;
use tokio::runtime::Handle;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Layer, SubscriberExt};
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
}

/// The filter of log lines.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    // Asked for more, these log the parameters of statements, and messages: the users' events, and their tokens.
    EnvFilter::builder()
        .parse(format!("{directives},tokio_postgres=info,tungstenite=info,tokio_tungstenite=info,hyper=info,h2=info"))
}

/// Call once. Traces are sent on `runtime`.
pub fn init(settings: &TelemetrySettings, runtime: &Handle) -> Result<Option<Traces>, TelemetryError> {
    let filter = filter(&settings.directives)?;
    let endpoint = settings.otlp_endpoint.as_deref();
    let traces = endpoint.map(|endpoint| Traces::to(endpoint, settings.trust_traceparent, runtime)).transpose()?;
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_ansi(is_terminal).with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.fmt_fields(text::Fields).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.as_ref().map(Traces::layer)).init();
    Ok(traces)
}
