//! S2, as LiveStore uses it: `@livestore/sync-s2` 0.4 asks an endpoint of its own form ([`api`]), which servers built from
//! `s2-proxy-helpers` make requests of S2's REST API of ([`rest`]).
//!
//! A store is a stream, an event a record. S2 numbers records from 0 on and without gaps; here the `seq_num` of a record is
//! the event's `seqNum` less one, and the tail, where S2 will write next, is the head of the log.

mod api;
mod limits;
mod names;
mod records;
mod rest;
mod routes;
mod stream;

use clap::Args;

pub use self::api::refuse_pull;
pub use self::routes::router;

use super::Protocol;
use crate::auth::AuthSettings;
use crate::gate::Dialect;
use crate::settings::SettingsError;

const SYNC_S2: Dialect = Dialect {
    name: "s2",
    clients: "@livestore/sync-s2",
    url: "http://<this host>/api/s2",
    usage: "makeSyncBackend({ endpoint: 'http://<this host>/api/s2' })",
};

const REST: Dialect = Dialect {
    name: "s2-rest",
    clients: "S2's REST API, for servers that make their requests with s2-proxy-helpers",
    url: "http://<this host>/v1/streams",
    usage: "{ lite: true, basinBase: 'http://<this host>/v1', accountBase: 'http://<this host>/v1' }",
};

pub const PROTOCOL: Protocol =
    Protocol { dialects: &[SYNC_S2, REST], paths: &["/api/s2", "/v1/streams", "/v1/basins"], headers: &[] };

/// There are none.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {}

impl Settings {
    pub fn check(&self, _: &AuthSettings) -> Result<(), SettingsError> {
        Ok(())
    }
}
