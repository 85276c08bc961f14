//! Cursors of clients that a log does not have.
//!
//! A client was sent all that it claims to have seen. If a primary does not have it, it was lost or belongs to a log that was reset. A
//! standby (`--read-only`) may not have followed so far: to tell a client that its log was reset makes it drop its events, so it waits
//! until the standby has followed everything that the primary had written before the claim was made.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;
use tracing::warn;

use super::page::{Page, read_status, status};
use super::scan::check_cursor;
use crate::log::error::PullError;
use crate::log::store_id::StoreId;
use crate::postgres::{Backoff, Database, DatabaseError};
use crate::telemetry::log_throttle::LogThrottle;

/// The interval at which a standby is asked whether it has followed, at first and later.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The number of claims that are remembered, and the time after which one that was not made again is forgotten. Clients that poll make
/// theirs in one request after the other.
const CLAIMS: u64 = 10_000;
const FORGOTTEN: Duration = Duration::from_secs(600);

/// By how much the clocks of a primary and a standby may differ, in seconds.
const SKEW: f64 = 10.0;

/// Whether a standby has replayed what the primary had written so many seconds ago, or is none: it has replayed a transaction of later.
/// That it has nothing left to replay proves nothing: the standby that it follows may itself be cut off from the primary.
const HAS_FOLLOWED: &str = "\
    select not pg_is_in_recovery()
        or coalesce(pg_last_xact_replay_timestamp() > clock_timestamp() - make_interval(secs => $1::float8 - $2::float8), false)";

/// The claims of clients.
pub struct Claims {
    database: Database,
    /// When they were made first, by their hashes: what a client claims may be long.
    made: Cache<u64, Instant>,
    hasher: RandomState,
}

impl Claims {
    pub fn new(database: Database) -> Self {
        let made = Cache::builder()
            .max_capacity(CLAIMS)
            .time_to_idle(FORGOTTEN)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { database, made, hasher: RandomState::new() }
    }

    /// Returns when the log has the cursor of a client, or an error if it does not have it, and will not. Waits while a standby may still
    /// follow.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn catch_up(
        &self,
        store: &StoreId,
        after: i64,
        backend_id: Option<&str>,
    ) -> Result<Result<(), PullError>, DatabaseError> {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        let claim = self.hasher.hash_one((store, after, backend_id));
        let made = if self.database.is_read_only() { self.made.get_with(claim, Instant::now) } else { Instant::now() };
        loop {
            let (has_followed, log) = if self.database.is_read_only() {
                self.look(store, made.elapsed()).await?
            } else {
                (true, status(&self.database, store).await?)
            };
            match check_cursor(&log, after, backend_id) {
                Ok(()) => return Ok(Ok(())),
                Err(error) if has_followed => {
                    if error == PullError::Rewound {
                        mention_rewound(store, log.head, after);
                    }
                    return Ok(Err(error));
                }
                Err(_) => mention_behind(store, log.head, after),
            }
            backoff.sleep().await;
        }
    }

    /// Whether a standby has followed, and where the log stands there afterwards.
    async fn look(&self, store: &StoreId, since: Duration) -> Result<(bool, Page), DatabaseError> {
        let client = self.database.client().await?;
        let looked = async {
            let has_followed = client.prepare_cached(HAS_FOLLOWED).await?;
            let row = client.query_one(&has_followed, &[&since.as_secs_f64(), &SKEW]).await?;
            Ok((row.try_get(0)?, read_status(&client, store).await?))
        };
        client.read_in_time(looked).await?
    }
}

fn mention_rewound(store: &StoreId, head: i64, claimed: i64) {
    static SAID: LazyLock<LogThrottle<StoreId>> = LazyLock::new(|| LogThrottle::new(Duration::from_secs(60), 1000));
    if let Some(suppressed) = SAID.suppressed(store.clone()) {
        warn!(
            ?store,
            head,
            claimed,
            suppressed,
            "a client claims to have seen events that the log does not have. If you restored this database to an older state, see \
             livestore.renew_backend_ids() in docs/operations.md; if not, the client is wrong"
        );
    }
}

fn mention_behind(store: &StoreId, head: i64, claimed: i64) {
    static SAID: LazyLock<LogThrottle<StoreId>> = LazyLock::new(|| LogThrottle::new(Duration::from_secs(60), 1000));
    if let Some(suppressed) = SAID.suppressed(store.clone()) {
        warn!(
            ?store,
            head,
            claimed,
            suppressed,
            "a client has seen what this standby does not have yet: it waits until the standby follows"
        );
    }
}
