//! Log lines, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::LogFormat;

/// Call once.
///
/// # Errors
/// The directives cannot be read.
pub fn init(directives: &str, format: LogFormat) -> Result<(), ParseError> {
    // Asked for more, these log the parameters of statements, and messages: the users' events, and their tokens.
    let filter = EnvFilter::builder().parse(format!(
        "{directives},tokio_postgres=info,tungstenite=info,tokio_tungstenite=info,hyper=info,h2=info"
    ))?;
    let is_terminal = std::io::stderr().is_terminal();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_span_list(false).init(),
    }
    Ok(())
}
