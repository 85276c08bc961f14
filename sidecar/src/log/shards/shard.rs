//! Everything that belongs to one database with stores: the only one, or a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::map::Listed;
use crate::log::NotReady;
use crate::log::access::authorize::Authorizer;
use crate::log::aliases::Aliases;
use crate::log::reactions::{self, SubscriptionGauges, Wake};
use crate::log::read::listener::Follower;
use crate::log::read::tails::Tails;
use crate::log::settings::{Live, LogSettings};
use crate::log::write::commit::Committer;
use crate::log::write::prune;
use crate::log::write::push::Push;
use crate::log::write::queue::{CommitQueue, Waiting};
use crate::postgres::{Database, DatabaseError};
use crate::shutdown::Ending;
use crate::telemetry::metrics::ShardGauges;
use crate::webhook::Webhooks;

/// For how long an answer of the database counts.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The last answer of the database to whether it is ready. Nobody has to prove who asks, so all who ask at once share one check.
type Checked = tokio::sync::Mutex<Option<(Instant, Result<(), Arc<DatabaseError>>)>>;

/// The parts that all shards share.
#[derive(Clone)]
pub struct Common {
    pub settings: LogSettings,
    pub webhooks: Webhooks,
    pub ending: Ending,
    /// The webhooks that are on their way.
    pub under_way: TaskTracker,
}

/// The way of pushes whose store is on another shard.
#[derive(Clone)]
pub struct Elsewhere {
    pub pushes: mpsc::UnboundedSender<Push>,
    /// This shard is none any more: all of its stores are elsewhere.
    pub ended: CancellationToken,
}

impl Elsewhere {
    pub fn send(&self, push: Push) {
        // If nobody takes it, the process ends, and its client gets an error.
        let _ = self.pushes.send(push);
    }
}

/// One database with stores, and what a sidecar does with it.
pub struct Shard {
    /// `None` for a database that is not one of several.
    pub(super) listed: Option<Listed>,
    pub database: Database,
    pub commits: CommitQueue,
    pub tails: Arc<Tails>,
    pub aliases: Aliases,
    pub authorizer: Option<Authorizer>,
    pub(super) ended: CancellationToken,
    is_listening: Arc<AtomicBool>,
    checked: Checked,
    subscriptions: SubscriptionGauges,
}

impl Shard {
    /// Does nothing yet: [`Self::start`] takes the pushes that wait.
    pub fn new(database: Database, listed: Option<Listed>, common: &Common) -> (Arc<Self>, Waiting) {
        let settings = &common.settings;
        let tails = Tails::new(database.clone(), settings.contention_window, settings.page_cache_bytes);
        let (commits, waiting) = CommitQueue::new(common.ending.last_moment.clone());
        let authorizer = Authorizer::new(settings, &database, common.webhooks.operators_sender.clone());
        let aliases = Aliases::new(database.clone());
        let (ended, is_listening, checked, subscriptions) = Default::default();
        let shard =
            Self { listed, database, commits, tails, aliases, authorizer, ended, is_listening, checked, subscriptions };
        (Arc::new(shard), waiting)
    }

    /// Starts the committer and what follows the commits of others on `tasks`: neither ends by itself, or needs the database to be there
    /// yet. `elsewhere`: for pushes whose store is on another shard, if there are several.
    pub fn start(
        &self,
        waiting: Waiting,
        common: Common,
        elsewhere: Option<mpsc::UnboundedSender<Push>>,
        tasks: &mut JoinSet<()>,
    ) {
        let database = &self.database;
        let elsewhere = elsewhere.map(|pushes| Elsewhere { pushes, ended: self.ended.clone() });
        let wake = Arc::new(Wake::default());
        let follower = Follower {
            // A standby cannot LISTEN.
            live: if database.is_read_only() { Live::Poll } else { common.settings.live },
            database: database.clone(),
            tails: Arc::clone(&self.tails),
            is_listening: Arc::clone(&self.is_listening),
            wake: Arc::clone(&wake),
        };
        tasks.spawn(follower.run());
        tasks.spawn(self.tails.pages().tidy());
        if !database.is_read_only() {
            let committer = Committer::new(database.clone(), Arc::clone(&self.tails), waiting, elsewhere);
            tasks.spawn(committer.run());
            tasks.spawn(prune::run(database.clone()));
            let Common { webhooks, ending, under_way, .. } = common;
            reactions::start(database, &wake, webhooks, ending, under_way, self.subscriptions.clone(), tasks);
        }
        tasks.spawn(database.clone().close_when_idle());
        tasks.spawn(database.clone().look_for_successors());
    }

    /// Its name, if it is one of several.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.database.shard()
    }

    /// Whether the database is there and set up. The error says what to do.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        self.database.check().await?;
        if let Some(listed) = &self.listed {
            self.database.check_shard(listed.number).await?;
        }
        match &self.authorizer {
            Some(authorizer) => authorizer.check().await,
            None => Ok(()),
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

    /// The values of gauges.
    pub fn gauges(&self) -> ShardGauges {
        let (pool_idle, pool_busy, pool_waiting) = self.database.pool();
        ShardGauges {
            shard: self.name().cloned(),
            is_listening: self.is_listening.load(Ordering::Relaxed) || self.database.demand().is_asleep(),
            queued_bytes: self.commits.waiting(),
            held_stores: self.commits.held_stores(),
            long_held_stores: self.commits.long_held_stores(),
            pool_idle,
            pool_busy,
            pool_waiting,
            subscriptions: self.subscriptions.read(),
            misfits: self.subscriptions.misfits(),
        }
    }
}
