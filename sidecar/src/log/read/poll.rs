//! `--live poll`: commits of others from the commit log, for connections on which notifications do not arrive.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Statement};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::listener::{Follower, HEARTBEAT};
use crate::log::store_id::StoreId;
use crate::postgres::{Backoff, Connected, DatabaseError, Server};

/// The pause after commits were found. It doubles while none are.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The interval at which subscriptions are looked for. Nothing in the commit log tells that there are others.
const SUBSCRIPTIONS: Duration = Duration::from_secs(10);

/// A row for each store that has changed, and one at least. A row without a store says that others may have changed, too.
const POLL: &str = "select position, store_id, head, livestore.database_life() from livestore.heads_since($1)";

/// How far the commit log was read.
#[derive(PartialEq, Eq)]
struct Position {
    position: i64,
    /// A restore brings other positions, and new backend ids to all stores.
    life: String,
}

impl Follower {
    /// Connects and polls, until the connection is lost or nobody needs the database.
    pub(super) async fn poll(&self, backoff: &mut Backoff) -> Result<(), DatabaseError> {
        let Connected { client, connection, server, .. } = self.database.connect().await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let statement = in_time(client.prepare(POLL)).await?;
        let begin =
            in_time(client.query_one("select livestore.last_position(), livestore.database_life()", &[])).await?;
        let mut position = Position { position: begin.try_get(0)?, life: begin.try_get(1)? };
        // Later commits will be found. The tails now catch up with earlier ones.
        self.resync(server).await?;
        self.follows(backoff);
        info!(shard = self.shard(), "polling for commits");
        let (mut pause, mut since_subscriptions) = (SHORTEST, Duration::ZERO);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.database.demand().asleep() => return Ok(()),
            }
            if !self.database.is_current(server) {
                return Err(DatabaseError::Lost);
            }
            since_subscriptions += pause;
            if since_subscriptions >= SUBSCRIPTIONS {
                since_subscriptions = Duration::ZERO;
                self.wake.changed();
            }
            let is_new = self.look(&client, &statement, &mut position, server).await?;
            self.is_listening.store(true, Ordering::Relaxed);
            pause = if is_new { SHORTEST } else { (pause * 2).min(LONGEST) };
        }
    }

    /// Returns whether something was committed.
    async fn look(
        &self,
        client: &Client,
        statement: &Statement,
        known: &mut Position,
        server: Option<Server>,
    ) -> Result<bool, DatabaseError> {
        let rows = in_time(client.query(statement, &[&known.position])).await?;
        let Some(first) = rows.first() else { return Ok(false) };
        let now = Position { position: first.try_get(0)?, life: first.try_get(3)? };
        if now == *known {
            return Ok(false);
        }
        let mut is_uncertain = now.life != known.life;
        *known = now;
        for row in &rows {
            match (row.try_get::<_, Option<&str>>(1)?.map(StoreId::parse), row.try_get(2)?) {
                (Some(Ok(store)), Some(head)) => self.tails.hint(&store, head),
                (Some(Ok(store)), None) => self.tails.forget(&store),
                // No client can follow a store whose id is none.
                (Some(Err(_)), _) => {}
                (None, _) => is_uncertain = true,
            }
        }
        if is_uncertain {
            self.resync(server).await?;
        }
        self.wake.committed();
        Ok(true)
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
    Ok(timeout(HEARTBEAT, answer).await.map_err(|_| DatabaseError::NoAnswer)??)
}
