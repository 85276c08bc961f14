//! Standbys to read histories from (`--read-database-url`).
//!
//! A standby lags behind. What it has is used as far as that cannot matter: it has to be a standby of the same cluster and timeline as the
//! primary, to be asked in the same database, and to have replayed all that the primary had written when this was last asked for. The caller
//! asks again whenever it hears that events were rewritten.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::Pool;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::PgLsn;
use tracing::{info, warn};

use super::DatabaseError;
use super::database::{PoolClient, client_of};
use super::pool::{Connections, Pooled};
use super::servers::{Server, Servers};
use crate::telemetry::chain;

/// The time that a standby may take until it is known how far it is. The primary could be read meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time for which a standby that failed is left out.
const LEFT_OUT: Duration = Duration::from_secs(5);

/// The standbys of a database.
pub struct Standbys {
    each: Vec<Standby>,
    turn: AtomicUsize,
    replayed: Mutex<Replayed>,
}

/// How far a standby must have replayed.
#[derive(Default)]
struct Replayed {
    /// How often it was asked for anew.
    asked: u64,
    needed: Option<Needed>,
}

/// The answer of the primary.
#[derive(Clone, Copy)]
struct Needed {
    up_to: PgLsn,
    /// The number of its database, which is the same on its standbys.
    database: u32,
}

struct Standby {
    pool: Pool<Connections>,
    /// Of the hosts of its URL.
    host: usize,
    left_out: Mutex<Option<LeftOut>>,
}

/// A standby is not used for a while.
struct LeftOut {
    until: Instant,
    /// In the words of the log, which names each reason once.
    why: String,
}

/// The state of a standby.
const STATE: &str = "\
    select pg_is_in_recovery(), pg_last_wal_replay_lsn(), s.system_identifier, c.timeline_id, d.oid
    from pg_control_system() s, pg_control_checkpoint() c, pg_database d where d.datname = current_database()";

const NEEDED: &str =
    "select pg_current_wal_insert_lsn(), d.oid from pg_database d where d.datname = current_database()";

/// Why a standby is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("it is no standby, or does not say what it has replayed")]
    NoStandby,
    #[error("it is a standby of another cluster, or has not followed a failover")]
    OtherTimeline,
    #[error("its URL names another database than --database-url")]
    OtherDatabase,
    #[error("it is behind")]
    Behind,
    #[error(transparent)]
    Fails(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for Unfit {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Fails(error.into())
    }
}

impl Standbys {
    pub fn new(pools: Vec<Pool<Connections>>) -> Self {
        let standby = |(index, pool)| Standby { pool, host: index + 1, left_out: Mutex::default() };
        let each = pools.into_iter().enumerate().map(standby).collect();
        Self { each, turn: AtomicUsize::new(0), replayed: Mutex::default() }
    }

    /// From now on, a standby must have replayed what the primary has written by now.
    pub fn ask_anew(&self) {
        let mut replayed = self.replayed.lock();
        *replayed = Replayed { asked: replayed.asked + 1, needed: None };
    }

    /// Tries each of them: a connection to it, or the reason why it is not read from.
    pub async fn try_all(
        &self,
        servers: &Servers,
        primary: impl AsyncFnOnce() -> Result<PoolClient, DatabaseError>,
    ) -> Vec<Result<PoolClient, Unfit>> {
        let needed = match self.needed(primary).await {
            Ok(needed) => needed,
            Err(error) => return vec![Err(error.into())],
        };
        join_all(self.each.iter().map(|standby| standby.client(servers, needed))).await
    }

    /// How far a standby must have replayed, and of which database.
    async fn needed(
        &self,
        primary: impl AsyncFnOnce() -> Result<PoolClient, DatabaseError>,
    ) -> Result<Needed, DatabaseError> {
        let (asked, known) = {
            let replayed = self.replayed.lock();
            (replayed.asked, replayed.needed)
        };
        if let Some(needed) = known {
            return Ok(needed);
        }
        let client = primary().await?;
        let row = client.read_in_time(client.query_one(NEEDED, &[])).await??;
        let needed = Needed { up_to: row.try_get(0)?, database: row.try_get(1)? };
        let mut replayed = self.replayed.lock();
        if replayed.asked == asked {
            replayed.needed = Some(needed);
        }
        Ok(needed)
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        for standby in &self.each {
            standby.pool.retain(|_, _| false);
        }
    }

    /// A connection to a standby that is far enough. `primary` gives one to the primary, which is asked how far that is; `servers` are
    /// the primary's. `None`: the primary has to be read.
    pub async fn client(
        &self,
        servers: &Servers,
        primary: impl AsyncFnOnce() -> Result<PoolClient, DatabaseError>,
    ) -> Option<(PoolClient, StandbyInUse<'_>)> {
        let needed = self.needed(primary).await.ok()?;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for index in 0..self.each.len() {
            let standby = &self.each[first.wrapping_add(index) % self.each.len()];
            if standby.is_left_out() {
                continue;
            }
            match standby.client(servers, needed).await {
                Ok(client) => return Some((client, StandbyInUse(standby))),
                Err(Unfit::Behind) => {}
                Err(unfit) => standby.leave_out(&unfit),
            }
        }
        None
    }
}

impl Standby {
    async fn client(&self, servers: &Servers, needed: Needed) -> Result<PoolClient, Unfit> {
        let connecting = timeout(PATIENCE, client_of(&self.pool)).await;
        let client = connecting.unwrap_or(Err(DatabaseError::ConnectTimeout))?;
        let checked = timeout(PATIENCE, self.check(&client, servers, needed)).await;
        checked.unwrap_or(Err(DatabaseError::NoAnswer.into()))?;
        if self.left_out.lock().take().is_some() {
            info!(host = self.host, "a standby is read from again");
        }
        Ok(client)
    }

    async fn check(&self, client: &Pooled, servers: &Servers, needed: Needed) -> Result<(), Unfit> {
        let state = client.read_in_time(async {
            let state = client.prepare_cached(STATE).await?;
            client.query_one(&state, &[]).await
        });
        let row = state.await??;
        let (is_standby, replayed): (bool, Option<PgLsn>) = (row.try_get(0)?, row.try_get(1)?);
        let (cluster, timeline, database): (i64, i32, u32) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let server = Server::new(cluster, timeline);
        match replayed {
            Some(_) if is_standby && !servers.is_of_now(server) => Err(Unfit::OtherTimeline),
            Some(_) if is_standby && database != needed.database => Err(Unfit::OtherDatabase),
            Some(replayed) if is_standby && replayed >= needed.up_to => Ok(()),
            Some(_) if is_standby => Err(Unfit::Behind),
            _ => Err(Unfit::NoStandby),
        }
    }

    /// Whether it is not to be tried now. Once it may be, one reader tries it, and others go on without it meanwhile.
    fn is_left_out(&self) -> bool {
        let mut left_out = self.left_out.lock();
        let Some(left_out) = left_out.as_mut() else { return false };
        let now = Instant::now();
        let is_left_out = now < left_out.until;
        if !is_left_out {
            left_out.until = now + LEFT_OUT;
        }
        is_left_out
    }

    fn leave_out(&self, why: &Unfit) {
        let left_out = LeftOut { until: Instant::now() + LEFT_OUT, why: why.to_string() };
        let before = self.left_out.lock().replace(left_out);
        if before.is_none_or(|before| before.why != why.to_string()) {
            warn!(host = self.host, error = %chain(why), "a standby is not read from");
        }
    }
}

/// A standby that is being read from.
pub struct StandbyInUse<'a>(&'a Standby);

impl StandbyInUse<'_> {
    /// It failed: others are asked for a while.
    pub fn failed(&self, error: DatabaseError) {
        self.0.leave_out(&error.into());
    }
}
