//! The peer relay: devices of one user exchange events over WebSocket, in JSON. What a message is, and what it is answered.
//!
//! A device says who it is with its first message. What it pushes goes to the others as it came; what it asks them, too, and
//! their answers come back to it alone.

mod history;
mod messages;
mod routes;
mod session;

use clap::Args;

pub use self::routes::router;

use super::Protocol;
use crate::auth::{Auth, AuthSettings};
use crate::gate::Dialect;
use crate::log::StoreId;
use crate::settings::SettingsError;

/// As LiveStore's other endpoints are found below `/api`.
const PATH: &str = "/api/v1/livestore/sync";

pub const RELAY: Dialect = Dialect {
    name: "relay",
    clients: "The peer relay, for devices of one user",
    url: "ws://<this host>/api/v1/livestore/sync",
    usage: "new WebSocket('ws://<this host>/api/v1/livestore/sync')",
};

pub const PROTOCOL: Protocol = Protocol { dialects: &[RELAY], paths: &[PATH], headers: &[] };

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// The store to which the peer relay appends what it relays, so that pulls are answered from history: a name with {user}
    /// for the user, e.g. relay-{user}. Without, nothing is kept.
    #[arg(long, env = "LIVESTORE_RELAY_STORE", value_name = "STORE")]
    relay_store: Option<String>,
}

impl Settings {
    pub fn check(&self, auth: &AuthSettings) -> Result<(), SettingsError> {
        let Some(store) = &self.relay_store else {
            return Ok(());
        };
        // As for a user with a short name.
        StoreId::parse(&store.replace("{user}", "u")).map_err(SettingsError::of("--relay-store"))?;
        if auth.auth == Auth::Jwt && !store.contains("{user}") {
            return Err(
                "--relay-store without {user} would let users read each other's events: say relay-{user}".into()
            );
        }
        Ok(())
    }
}
