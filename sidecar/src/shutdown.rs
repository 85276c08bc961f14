//! Signals that end the process.

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Ends at the first SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be caught.
pub async fn requested() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = name, "shutting down");
    Ok(())
}
