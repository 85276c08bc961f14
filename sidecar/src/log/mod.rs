//! Event logs in Postgres, as protocols use them. The log knows no protocol.

mod access;
mod aliases;
mod context;
mod error;
mod event;
mod inspection;
mod json;
mod limits;
mod reactions;
mod read;
mod settings;
mod shards;
mod store_id;
#[cfg(test)]
pub mod testing;
mod text;
mod write;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use access::administrator::ResetError;
pub use access::authorize::{Action, check_authorize_function, check_authorize_url};
pub use access::find::FindError;
pub use access::reader::Reader;
pub use access::store::StoreLog;
pub use access::writer::{Admitted, Receipt};
pub use aliases::{Age, Alias, Location, Naming};
pub use context::Context;
pub use error::{Denied, Malformed, PullError, PushError};
pub use event::{AbsentArgs, Batch, Event, Origin, StoredEvent};
pub use inspection::*;
pub use json::quote_into;
pub use limits::OverLimit;
pub use read::events::{Events, Part};
pub use read::page::Page;
pub use read::scan::Scan;
pub use read::subscription::{Delivery, Subscription};
pub use read::tail::StreamEnd;
pub use settings::{Live, LogSettings};
pub use shards::{Databases, shards_of};
pub use store_id::StoreId;
pub use text::PgText;
pub use write::outcome::Pushed;

use limits::Limits;
use shards::{Common, Shards};

use crate::auth::Authentication;
use crate::limits::memory::Memory;
pub use crate::postgres::Unreadable;
use crate::postgres::{Database, DatabaseError};
use crate::shutdown::Ending;
use crate::telemetry::chain;
use crate::telemetry::metrics::GaugeValues;
use crate::webhook::Webhooks;

/// The logs of all stores. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Parts>);

/// The state behind all clones of a [`Log`].
pub struct Parts {
    shards: Arc<Shards>,
    limits: Arc<Limits>,
    authentication: Arc<Authentication>,
    memory: Arc<Memory>,
    /// The longest time that a push waits for the database.
    push_timeout: Duration,
    /// When pushes that wait must be answered, since the process ends.
    last_moment: CancellationToken,
    has_authorizer: bool,
    is_read_only: bool,
    /// The webhooks that are on their way.
    under_way: TaskTracker,
}

/// Why the sidecar is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    Database(#[from] Arc<DatabaseError>),
    #[error("the connection that follows the commits of others is not established")]
    NotListening,
    #[error("shard {shard}: {}", chain(why))]
    Shard { shard: Arc<str>, why: Box<NotReady> },
    #[error("{}", lines(.0, ToString::to_string))]
    Shards(Vec<NotReady>),
}

fn lines(all: &[NotReady], line: impl Fn(&NotReady) -> String) -> String {
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl NotReady {
    /// The text for anybody who asks.
    pub fn to_strangers(&self) -> String {
        match self {
            Self::Database(error) => error.to_strangers(),
            Self::NotListening => self.to_string(),
            Self::Shard { shard, why } => format!("shard {shard}: {}", why.to_strangers()),
            Self::Shards(all) => lines(all, Self::to_strangers),
        }
    }
}

impl Deref for Log {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Log {
    /// Starts the committers and what follows the commits of others on `tasks`: none of them ends by itself, or needs a database to be
    /// there yet. `memory` is for pages and frames; at the last moment of `ending`, requests that wait must be answered.
    pub fn start(
        databases: Databases,
        settings: LogSettings,
        webhooks: Webhooks,
        memory: Arc<Memory>,
        authentication: Arc<Authentication>,
        ending: Ending,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let limits = Limits::start(settings.push, tasks);
        let (push_timeout, last_moment) = (settings.push_timeout, ending.last_moment.clone());
        let has_authorizer = settings.authorize_function.is_some() || settings.authorize_url.is_some();
        let is_read_only = matches!(&databases, Databases::One(database) if database.is_read_only());
        let under_way = TaskTracker::new();
        let common = Common { settings, webhooks, ending, under_way: under_way.clone() };
        let shards = Shards::start(databases, common, tasks);
        Self(Arc::new(Parts {
            shards,
            limits,
            authentication,
            memory,
            push_timeout,
            last_moment,
            has_authorizer,
            is_read_only,
            under_way,
        }))
    }

    /// The database of what belongs to no store: with several shards, the first one.
    pub fn first_database(&self) -> Database {
        self.shards.first().database.clone()
    }

    /// The way in which clients prove their identity.
    pub fn authentication(&self) -> Arc<Authentication> {
        Arc::clone(&self.authentication)
    }

    /// Memory for what is on its way.
    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Whether nothing can be written through this sidecar.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether everybody who can reach this sidecar may read every log.
    pub fn is_public(&self) -> bool {
        !self.has_authorizer && self.authentication.is_none()
    }

    /// Whether the database is there and set up; of several, at least one. The error says what to do.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        self.shards.check().await
    }

    /// Whether a function or a URL of the operator decides who reads and writes what.
    pub fn has_authorizer(&self) -> bool {
        self.has_authorizer
    }

    /// Waits until nothing is on its way to the receivers of subscriptions. Call it when the process ends.
    pub async fn delivered(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    /// The values of gauges.
    pub fn gauges(&self) -> GaugeValues {
        GaugeValues { buffer_bytes: self.memory.taken(), relay_devices: 0, shards: self.shards.gauges() }
    }

    /// Whether pushes and pulls would be served right now; of several shards, those of at least one, and why those of others would not.
    pub async fn ready(&self) -> Result<Vec<NotReady>, NotReady> {
        self.shards.ready().await
    }
}
