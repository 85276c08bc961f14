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
mod store_id;
#[cfg(test)]
pub mod testing;
mod text;
mod write;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
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
pub use store_id::StoreId;
pub use text::PgText;
pub use write::outcome::Pushed;

use access::authorize::Authorizer;
use aliases::Aliases;
use limits::Limits;
use reactions::{SubscriptionGauges, Wake};
use read::listener::Follower;
use read::tails::Tails;
use write::commit::Committer;
use write::queue::CommitQueue;

use crate::auth::Authentication;
use crate::limits::memory::Memory;
pub use crate::postgres::Unreadable;
use crate::postgres::{Database, DatabaseError};
use crate::shutdown::Ending;
use crate::telemetry::metrics::GaugeValues;
use crate::webhook::Webhooks;

/// The logs of all stores. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Parts>);

/// The state behind all clones of a [`Log`].
pub struct Parts {
    database: Database,
    commits: CommitQueue,
    tails: Arc<Tails>,
    aliases: Aliases,
    limits: Arc<Limits>,
    authentication: Arc<Authentication>,
    memory: Arc<Memory>,
    authorizer: Option<Authorizer>,
    is_listening: Arc<AtomicBool>,
    checked: Checked,
    subscriptions: SubscriptionGauges,
    /// The webhooks that are on their way.
    under_way: TaskTracker,
}

/// The last answer of the database to whether it is ready. Nobody has to prove who asks, so all who ask at once share one check.
type Checked = tokio::sync::Mutex<Option<(Instant, Result<(), Arc<DatabaseError>>)>>;

/// For how long an answer of the database counts.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why the sidecar is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    Database(#[from] Arc<DatabaseError>),
    #[error("the connection that follows the commits of others is not established")]
    NotListening,
}

impl NotReady {
    /// The text for anybody who asks.
    pub fn to_strangers(&self) -> String {
        match self {
            Self::Database(error) => error.to_strangers(),
            Self::NotListening => self.to_string(),
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
    /// Starts the committer and what follows the commits of others on `tasks`: neither ends by itself, or needs the database to be there yet. `memory` is
    /// for pages and frames; at the last moment of `ending`, requests that wait must be answered.
    pub fn start(
        database: Database,
        settings: LogSettings,
        webhooks: Webhooks,
        memory: Arc<Memory>,
        authentication: Arc<Authentication>,
        ending: Ending,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let limits = Limits::start(settings.push, tasks);
        let tails = Tails::new(database.clone(), settings.contention_window, settings.page_cache_bytes);
        let is_listening = Arc::new(AtomicBool::new(false));
        let (commits, waiting) = CommitQueue::new(settings.push_timeout, ending.last_moment.clone());
        let committer = Committer::new(database.clone(), Arc::clone(&tails), waiting);
        let wake = Arc::new(Wake::default());
        let (subscriptions, under_way) = (SubscriptionGauges::default(), TaskTracker::new());
        let authorizer = Authorizer::new(&settings, &database, webhooks.operators_sender.clone());
        let follower = Follower {
            // A standby cannot LISTEN.
            live: if database.is_read_only() { Live::Poll } else { settings.live },
            database: database.clone(),
            tails: Arc::clone(&tails),
            is_listening: Arc::clone(&is_listening),
            wake: Arc::clone(&wake),
        };
        tasks.spawn(follower.run());
        tasks.spawn(tails.pages().tidy());
        if !database.is_read_only() {
            tasks.spawn(committer.run());
            tasks.spawn(write::prune::run(database.clone()));
            reactions::start(&database, &wake, webhooks, ending, under_way.clone(), subscriptions.clone(), tasks);
        }
        tasks.spawn(database.clone().close_when_idle());
        tasks.spawn(database.clone().look_for_successors());
        let aliases = Aliases::new(database.clone());
        Self(Arc::new(Parts {
            database,
            commits,
            tails,
            aliases,
            limits,
            authentication,
            memory,
            authorizer,
            is_listening,
            checked: Checked::default(),
            subscriptions,
            under_way,
        }))
    }

    /// Stores by the names that other systems have for them.
    pub fn aliases(&self) -> &Aliases {
        &self.aliases
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
        self.database.is_read_only()
    }

    /// Whether everybody who can reach this sidecar may read every log.
    pub fn is_public(&self) -> bool {
        self.authorizer.is_none() && self.authentication.is_none()
    }

    /// Whether the database is there and set up. The error says what to do.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        self.database.check().await?;
        match &self.authorizer {
            Some(authorizer) => authorizer.check().await,
            None => Ok(()),
        }
    }

    /// Whether a function or a URL of the operator decides who reads and writes what.
    pub fn has_authorizer(&self) -> bool {
        self.authorizer.is_some()
    }

    /// Waits until nothing is on its way to the receivers of subscriptions. Call it when the process ends.
    pub async fn delivered(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }

    /// The values of gauges.
    pub fn gauges(&self) -> GaugeValues {
        let (pool_idle, pool_busy, pool_waiting) = self.database.pool();
        GaugeValues {
            is_listening: self.is_listening.load(Ordering::Relaxed) || self.database.demand().is_asleep(),
            queued_bytes: self.commits.waiting(),
            buffer_bytes: self.memory.taken(),
            held_stores: self.commits.held_stores(),
            long_held_stores: self.commits.long_held_stores(),
            pool_idle,
            pool_busy,
            pool_waiting,
            relay_devices: 0,
            subscriptions: self.subscriptions.read(),
            misfits: self.subscriptions.misfits(),
        }
    }

    /// Whether pushes and pulls would be served right now.
    pub async fn ready(&self) -> Result<(), NotReady> {
        // A database that nobody needs is not woken: it wakes for the first client.
        if self.database.demand().is_asleep() {
            return Ok(());
        }
        self.checked().await?;
        if self.is_listening.load(Ordering::Relaxed) { Ok(()) } else { Err(NotReady::NotListening) }
    }

    /// The last answer, or a new one if that is too old. A caller that comes during a check waits for its end.
    async fn checked(&self) -> Result<(), Arc<DatabaseError>> {
        let mut checked = self.checked.lock().await;
        if let Some((at, answer)) = &*checked
            && at.elapsed() < CHECK_EVERY
        {
            return answer.clone();
        }
        let answer = self.check().await.map_err(Arc::new);
        *checked = Some((Instant::now(), answer.clone()));
        answer
    }
}
