//! The databases with stores: one, or with `--shards` several.
//!
//! - [`shard`] is one of them, with everything that belongs to it.
//! - [`map`] says which store is where; [`follow`] reads it from the front database, and starts and ends shards.
//!
//! The shard of a store is chosen anew for each push and each page. A database that does not have a store refuses with LS005; then the map
//! is read at once, and the store looked for where it says. If the map is wrong, the request waits, as while a database is away.

mod follow;
mod map;
mod shard;

use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, warn};

pub use self::follow::shards_of;
pub use self::shard::{Common, Elsewhere, Shard};

use self::follow::{Front, Known};
use super::NotReady;
use super::read::tails::Followed;
use super::store_id::StoreId;
use crate::postgres::{Backoff, Database, DatabaseError, DatabaseSettings, Unreadable, retry_naming};
use crate::telemetry::chain;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::ShardGauges;

/// The database or the databases to serve from.
pub enum Databases {
    One(Database),
    /// The shards that a front database lists. The settings say how to connect to them.
    Shards(Database, Box<DatabaseSettings>),
}

/// All databases with stores.
pub enum Shards {
    One(Arc<Shard>),
    Several(Front),
}

/// The shard of a store. The only one is not counted for each push and page: all of them would share that counter.
pub enum ShardOf<'a> {
    Only(&'a Arc<Shard>),
    Known(Arc<Shard>),
}

impl Deref for ShardOf<'_> {
    type Target = Arc<Shard>;

    fn deref(&self) -> &Arc<Shard> {
        match self {
            Self::Only(shard) => shard,
            Self::Known(shard) => shard,
        }
    }
}

impl Shards {
    /// Starts them on `tasks`, none of which ends by itself. Needs no database to be there yet.
    pub fn start(databases: Databases, common: Common, tasks: &mut JoinSet<()>) -> Arc<Self> {
        match databases {
            Databases::One(database) => {
                let (shard, waiting) = Shard::new(database, None, &common);
                shard.start(waiting, common, None, tasks);
                Arc::new(Self::One(shard))
            }
            Databases::Shards(front, settings) => {
                // Until the map is known, everything waits for the front database.
                let (nowhere, waiting) = Shard::new(front.clone(), None, &common);
                let (elsewhere, pushes) = mpsc::unbounded_channel();
                let shards = Arc::new(Self::Several(Front::new(front, nowhere)));
                tasks.spawn(follow::run(Arc::clone(&shards), *settings, common, elsewhere.clone()));
                tasks.spawn(follow::send_on(Arc::clone(&shards), waiting.pushes, elsewhere));
                tasks.spawn(follow::send_anew(Arc::clone(&shards), pushes));
                shards
            }
        }
    }

    /// The shard of a store, as far as is known now.
    pub fn of(&self, store: &StoreId) -> ShardOf<'_> {
        match self {
            Self::One(shard) => ShardOf::Only(shard),
            Self::Several(front) => ShardOf::Known(Arc::clone(front.known().of(store))),
        }
    }

    /// The first one: what is not of a store is there.
    pub fn first(&self) -> Arc<Shard> {
        match self {
            Self::One(shard) => Arc::clone(shard),
            Self::Several(front) => Arc::clone(front.known().first()),
        }
    }

    /// All of them, by their numbers.
    pub fn all(&self) -> Vec<Arc<Shard>> {
        match self {
            Self::One(shard) => vec![Arc::clone(shard)],
            Self::Several(front) => front.known().shards.clone(),
        }
    }

    /// The values of their gauges.
    pub fn gauges(&self) -> Vec<ShardGauges> {
        match self {
            Self::One(shard) => vec![shard.gauges()],
            // The one without a name stands for them until they are known. Then nothing waits there any more, and its gauges must say so.
            Self::Several(front) => {
                let known = front.known();
                let nowhere = known.has_map().then(|| ShardGauges { is_listening: true, ..ShardGauges::default() });
                known.shards.iter().map(|shard| shard.gauges()).chain(nowhere).collect()
            }
        }
    }

    /// Completes when there are others than those of a call of [`Self::all`] before.
    pub async fn changed(&self, all: &[Arc<Shard>]) {
        let Self::Several(front) = self else { return std::future::pending().await };
        let is_other = |known: &Arc<Known>| {
            known.shards.len() != all.len() || known.shards.iter().zip(all).any(|(one, other)| !Arc::ptr_eq(one, other))
        };
        // The sender is ours, so this waits.
        let _ = front.subscribe().wait_for(is_other).await;
    }

    /// Waits for the first map: before it, nobody knows whom to ask.
    async fn are_known(&self) {
        if let Self::Several(front) = self {
            front.has_map().await;
        }
    }

    /// Reads from the shard of a store until its database answers: see [`retry_naming`].
    pub async fn read<T, F: Future<Output = Result<T, DatabaseError>>>(
        &self,
        store: &StoreId,
        mut attempt: impl FnMut(Arc<Shard>) -> F,
    ) -> Result<T, Unreadable> {
        self.are_known().await;
        let shard = || self.of(store).name().cloned();
        retry_naming(shard, || {
            let answer = attempt(Arc::clone(&self.of(store)));
            async {
                let answer = answer.await;
                if matches!(answer, Err(DatabaseError::Elsewhere)) {
                    self.look_anew().await;
                }
                answer
            }
        })
        .await
    }

    /// Follows a store where it is.
    pub async fn follow(&self, store: &StoreId) -> Result<Followed, Unreadable> {
        self.are_known().await;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let shard = self.of(store);
            let followed = shard.tails.follow(store).await?;
            // Afterwards: a tail that is there when the map changes is ended then.
            if !Arc::ptr_eq(&shard, &self.of(store)) {
                continue;
            }
            if let Some(followed) = followed {
                return Ok(followed);
            }
            self.look_anew().await;
            backoff.sleep().await;
        }
    }

    /// A database has refused a store that is elsewhere: reads the map, if there is one.
    pub async fn look_anew(&self) {
        match self {
            Self::One(_) => {
                static SAID: LazyLock<LogThrottle<()>> = LazyLock::new(|| LogThrottle::new(Duration::from_secs(10), 1));
                if let Some(suppressed) = SAID.suppressed(()) {
                    error!(suppressed, error = %DatabaseError::Elsewhere, "a client waits for a store");
                }
            }
            Self::Several(front) => front.look_anew().await,
        }
    }

    /// Whether a database is there and set up. The error says what to do.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::One(shard) => shard.check().await,
            Self::Several(front) => {
                front.find().await?;
                let shards = self.all();
                let checked = join_all(shards.iter().map(|shard| shard.check())).await;
                let failed = shards.iter().zip(checked).filter_map(|(shard, checked)| Some((shard, checked.err()?)));
                let mut failed: Vec<_> = failed.collect();
                if failed.is_empty() || failed.len() < shards.len() {
                    for (shard, error) in &failed {
                        warn!(shard = shard.database.label(), error = %chain(error), "a shard is not ready");
                    }
                    return Ok(());
                }
                // Of all of them, one that is worth waiting for.
                let worst = failed.iter().position(|(_, error)| error.retry().may_pass()).unwrap_or_default();
                Err(failed.swap_remove(worst).1)
            }
        }
    }

    /// Whether stores would be served right now, and which shards' would not.
    pub async fn ready(&self) -> Result<Vec<NotReady>, NotReady> {
        match self {
            Self::One(shard) => shard.ready().await.map(|()| Vec::new()),
            Self::Several(front) => {
                front.find().await.map_err(Arc::new)?;
                let shards = self.all();
                let ready = join_all(shards.iter().map(|shard| shard.ready())).await;
                let named = shards.iter().zip(ready).filter_map(|(shard, ready)| {
                    let shard = shard.name().cloned().unwrap_or_default();
                    ready.err().map(|why| NotReady::Shard { shard, why: Box::new(why) })
                });
                let away: Vec<_> = named.collect();
                if away.len() < shards.len() { Ok(away) } else { Err(NotReady::Shards(away)) }
            }
        }
    }
}
