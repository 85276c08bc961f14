//! ElectricSQL, as LiveStore uses it: `@livestore/sync-electric` 0.4 asks an endpoint of its own form ([`api`]), which
//! servers built from LiveStore's example make of Electric's shape API ([`shape`]), which `@electric-sql/client` speaks too.
//!
//! A client is at an *offset* of a shape with a *handle*. Here the offset is the sequence number of the last event, and the
//! handle is the backend id: a log that was reset is another shape. Before the first event every handle is right, so that a
//! store may come into being while its clients wait for it.

mod api;
mod messages;
mod names;
mod offset;
mod read;
mod routes;
mod shape;
mod upstream;

use clap::Args;

pub use self::routes::router;

use self::upstream::{GRACE, Upstream};
use super::Protocol;
use crate::auth::AuthSettings;
use crate::gate::Dialect;
use crate::settings::{SettingsError, check_secret, check_text};

const ELECTRIC: Dialect = Dialect {
    name: "electric",
    clients: "@livestore/sync-electric",
    url: "http://<this host>/api/electric",
    usage: "makeSyncBackend({ endpoint: 'http://<this host>/api/electric' })",
};

const SHAPE: Dialect = Dialect {
    name: "electric-shape",
    clients: "Electric's shape API, for servers that make their URLs with makeElectricUrl",
    url: "http://<this host>/v1/shape",
    usage: "new ShapeStream({ url: 'http://<this host>/v1/shape', params: { table: '\"eventlog_6_<storeId>\"' } })",
};

pub const PROTOCOL: Protocol = Protocol {
    dialects: &[ELECTRIC, SHAPE],
    paths: &["/api/electric", "/v1/shape"],
    // Without the first three, clients of Electric give up.
    headers: &[
        "electric-handle",
        "electric-offset",
        "electric-schema",
        "electric-cursor",
        "electric-up-to-date",
        "electric-has-data",
        "etag",
    ],
};

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// The secret of Electric's shape API: clients send it (secret=…), and it is sent on to --electric-url. Without, none is
    /// asked for.
    #[arg(long, env = "LIVESTORE_ELECTRIC_SECRET", hide_env_values = true, value_name = "SECRET")]
    electric_secret: Option<String>,

    /// A real Electric server on the same database, from which clients of Electric's protocols then read, e.g.
    /// http://electric:3000. See docs/electric.md.
    #[arg(long, env = "LIVESTORE_ELECTRIC_URL", hide_env_values = true, value_name = "URL")]
    electric_url: Option<String>,
}

impl Settings {
    pub fn check(&self, _: &AuthSettings) -> Result<(), SettingsError> {
        check_secret("--electric-secret", self.electric_secret.as_deref())?;
        check_text("--electric-url", self.electric_url.as_deref())?;
        self.upstream().map(drop)
    }

    /// The Electric server behind this sidecar, if there is one that can be used.
    pub fn url(&self) -> Option<&str> {
        self.electric_url.as_deref().filter(|_| self.upstream().is_ok())
    }

    fn upstream(&self) -> Result<Option<Upstream>, SettingsError> {
        let upstream = self.electric_url.as_deref().map(|url| Upstream::new(url, self.electric_secret.clone()));
        upstream.transpose().map_err(SettingsError::of("--electric-url"))
    }
}
