//! Ends statements whose answer nobody waits for any more: Postgres would go on with them, and with what they lock, without noticing.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::telemetry::chain;

/// The time that a request to cancel may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Cancels the statement that a connection is at, over a connection of its own.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl Canceller {
    pub fn of(client: &Client, tls: &MakeRustlsConnect) -> Self {
        Self { token: client.cancel_token(), tls: tls.clone() }
    }

    /// Asks Postgres to cancel the statement, without waiting for that. Only for a connection on which nothing else will be
    /// sent: Postgres cancels the statement that runs when the request arrives.
    pub fn cancel(&self) {
        // There is none while the process ends. The statement ends without a request then, as before.
        let Ok(runtime) = Handle::try_current() else { return };
        let Self { token, tls } = self.clone();
        runtime.spawn(async move {
            match timeout(CANCEL_TIMEOUT, token.cancel_query(tls)).await {
                Ok(Ok(())) => debug!("asked Postgres to cancel a statement that nobody waits for"),
                Ok(Err(error)) => {
                    debug!(error = %chain(&error), "a statement cannot be cancelled");
                }
                Err(_) => debug!("a statement cannot be cancelled: Postgres does not answer"),
            }
        });
    }
}
