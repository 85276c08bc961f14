//! The connection on which a sidecar follows the commits of others: by LISTEN, or by polling the commit log. After an interruption, it
//! looks for what it has missed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use tokio_postgres::{Client, Notification};
use tracing::{debug, info, warn};

use super::registry::StoreDigest;
use super::tails::Tails;
use crate::log::reactions::Wake;
use crate::log::settings::Live;
use crate::postgres::{Backoff, Database, DatabaseError, Server};
use crate::telemetry::chain;
use crate::telemetry::metrics;
use crate::time::passed;

/// A connection that is silent for this long is checked, and has as long to answer.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The notifications that are handled together.
const BATCH: usize = 128;

/// The shortest time between two looks at all tails because notifications were lost: whoever floods the channel makes each of them.
const RESYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The payload of a notification on the channel `livestore_heads` (`livestore.notify_heads`). Any role can send one: without the key of the
/// digests, it only makes [`Wake`] look whether subscriptions have work, and the sidecar drop the pages that it keeps.
#[derive(Deserialize)]
struct Heads {
    source: Option<String>,
    /// A head of null: the log was reset or dropped.
    heads: HashMap<StoreDigest, Option<i64>>,
    /// Subscriptions that sidecars serve were made or removed.
    #[serde(default)]
    subscriptions: bool,
}

/// Follows the commits of others.
pub struct Follower {
    pub live: Live,
    pub database: Database,
    pub tails: Arc<Tails>,
    /// Whether it learns of commits at the moment.
    pub is_listening: Arc<AtomicBool>,
    pub wake: Arc<Wake>,
}

impl Follower {
    /// Follows for ever, reconnecting when the connection is lost.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            self.database.demand().awake().await;
            let followed = match self.live {
                Live::Listen => self.listen(&mut backoff).await,
                Live::Poll => self.poll(&mut backoff).await,
            };
            self.tails.pages().listen_to(None);
            let error = followed.err();
            if self.database.demand().is_asleep() {
                self.is_listening.store(false, Ordering::Relaxed);
                continue;
            }
            let was_listening = self.is_listening.swap(false, Ordering::Relaxed);
            if was_listening {
                metrics::listener_lost();
            }
            if was_listening || backoff.attempts() == 0 {
                let error = error.as_ref().map(|error| chain(error).to_string());
                warn!(shard = self.shard(), error, "the connection that follows commits is lost, reconnecting");
            }
            backoff.sleep().await;
        }
    }

    /// Connects and listens, until the connection is lost or nobody needs the database.
    async fn listen(&self, backoff: &mut Backoff) -> Result<(), DatabaseError> {
        let (client, mut notifications) = self.database.connect_to_listen().await?;
        let listen = tokio::time::timeout(HEARTBEAT, client.batch_execute("listen livestore_heads")).await;
        listen.map_err(|_| DatabaseError::NoAnswer)??;
        let (_, process) = self.learn_key(&client).await?;
        // LISTEN is in effect: later commits will be heard of. The tails now catch up with earlier ones.
        self.resync(notifications.server()).await?;
        self.follows(backoff);
        info!(shard = self.shard(), "listening for commits");
        let (mut last_resync, mut next_resync) = (Instant::now(), None);
        loop {
            if !notifications.are_current() {
                return Err(DatabaseError::Lost);
            }
            let notified = tokio::select! {
                notified = tokio::time::timeout(HEARTBEAT, notifications.next(BATCH)) => notified,
                () = self.database.demand().asleep() => return Ok(()),
                () = passed(next_resync) => {
                    self.resync(notifications.server()).await?;
                    self.wake.changed();
                    (next_resync, last_resync) = (None, Instant::now());
                    continue;
                }
            };
            if notifications.were_lost() {
                // Until then, no page is served: one of them may have been rewritten.
                self.tails.pages().listen_to(None);
                next_resync = Some(last_resync + RESYNC_INTERVAL);
            }
            match notified {
                Ok(news) if news.is_empty() => return Ok(()),
                Ok(news) => self.hear(&news),
                Err(_) => {
                    let (is_changed, by) = self.learn_key(&client).await?;
                    if by != process {
                        return Err(notifications.distrust());
                    }
                    if is_changed {
                        self.resync(notifications.server()).await?;
                    }
                }
            }
        }
    }

    /// Catches up. No page is kept meanwhile, since nobody hears of changes; from then on, this server tells of them.
    pub(super) async fn resync(&self, server: Option<Server>) -> Result<(), DatabaseError> {
        self.tails.pages().listen_to(None);
        self.tails.resync().await?;
        self.tails.pages().listen_to(Some(server));
        Ok(())
    }

    /// Nothing is missed from now on.
    pub(super) fn follows(&self, backoff: &mut Backoff) {
        self.wake.changed();
        self.is_listening.store(true, Ordering::Relaxed);
        *backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    }

    /// Reads the key of the digests; the answer also shows that the connection is alive. Returns whether the key has changed
    /// (a restore may bring its own), and the process id of the session. It stays the same unless a pooler in transaction
    /// mode is in between.
    async fn learn_key(&self, client: &Client) -> Result<(bool, i32), DatabaseError> {
        let key = "select livestore.heads_key(), pg_backend_pid()";
        let asked = tokio::time::timeout(HEARTBEAT, client.query_one(key, &[])).await;
        let row = asked.map_err(|_| DatabaseError::NoAnswer)??;
        Ok((self.tails.set_key(row.try_get(0)?), row.try_get(1)?))
    }

    /// The name of the database, if it is one of several.
    pub(super) fn shard(&self) -> Option<&str> {
        self.database.label()
    }

    fn hear(&self, news: &[Notification]) {
        // Logs that were reset, or rewritten: several notifications may name the same one.
        let mut others = HashSet::new();
        for notification in news {
            let Ok(Heads { source, heads, subscriptions }) = serde_json::from_str(notification.payload()) else {
                debug!(payload = notification.payload(), "a notification that is not livestore's");
                continue;
            };
            if subscriptions {
                self.wake.changed();
            } else {
                self.wake.committed();
            }
            if source.is_some_and(|source| self.tails.is_own(&source)) {
                continue;
            }
            for (store, head) in heads {
                match head {
                    Some(head) => self.tails.hear(&store, head),
                    None => drop(others.insert(store)),
                }
            }
        }
        if !others.is_empty() {
            self.tails.hear_of_others(&others);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fuzz_heads() {
        fuzzing::text_target!("heads", |text| {
            let Ok(Heads { source, heads, subscriptions }) = serde_json::from_str(text) else { return };
            let written = json!({"source": source, "heads": heads, "subscriptions": subscriptions}).to_string();
            let again: Heads = serde_json::from_str(&written).unwrap();
            let is_same = again.source == source && again.heads == heads && again.subscriptions == subscriptions;
            assert!(is_same, "{written}");
        });
    }
}
