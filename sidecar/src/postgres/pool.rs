//! The pools of connections: for reading, and for functions of the operator.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::time::timeout;
use tracing::warn;

use super::DatabaseError;
use super::servers::{Connected, Server, Servers};
use super::session;

/// The time after which Postgres cancels a statement.
const LIMIT_STATEMENTS: &str = "\
    select set_config('statement_timeout', '30s', false)
    where current_setting('statement_timeout')::interval not between interval '1 ms' and interval '30 s'";

/// If a statement is not answered for this long, its connection counts as dead: its server may hang, and another one may have
/// taken its place. This is longer than the time after which Postgres cancels a statement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// Makes connections of the pool, and lets go of those to a server that was given up.
pub struct Connections {
    pub servers: Arc<Servers>,
    /// They run functions of the operator: what one leaves in its session does not reach the next one.
    pub are_renewed: bool,
}

/// One of them.
pub struct Pooled {
    client: ClientWrapper,
    server: Option<Server>,
    /// Something was not answered in time.
    is_dead: AtomicBool,
}

impl Pooled {
    /// Takes this connection out of the pool: a statement on it may never end.
    pub fn give_up(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    /// Waits for the result of statements on this connection. If it does not come in time, the connection leaves the pool,
    /// because the next user would wait as well.
    pub fn in_time<'a, T: 'a>(
        &'a self,
        statements: impl Future<Output = T> + Send + 'a,
    ) -> impl Future<Output = Result<T, DatabaseError>> + Send + 'a {
        // Boxed: the futures that wait for it, through many layers, stay small.
        let statements = Box::pin(statements);
        async move {
            timeout(ANSWER_TIMEOUT, statements).await.map_err(|_| {
                self.is_dead.store(true, Ordering::Relaxed);
                DatabaseError::NoAnswer
            })
        }
    }
}

impl Deref for Pooled {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl Manager for Connections {
    type Type = Pooled;
    type Error = DatabaseError;

    async fn create(&self) -> Result<Pooled, DatabaseError> {
        // Boxed: connecting is rare, but its future is large, and the future of every query would have to reserve room for
        // it.
        let Connected { client, connection, server } = Box::pin(self.servers.connect()).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                warn!(error = &error as &dyn std::error::Error, "a connection to the database is lost");
            }
        });
        let client = ClientWrapper::new(client, driver);
        client.batch_execute(LIMIT_STATEMENTS).await?;
        Ok(Pooled { client, server, is_dead: AtomicBool::new(false) })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<DatabaseError> {
        let is_dead = pooled.is_dead.load(Ordering::Relaxed);
        if is_dead || pooled.client.is_closed() || !self.servers.is_current(pooled.server) {
            return Err(RecycleError::message("lost, or to a server that was given up"));
        }
        if self.are_renewed {
            let renew = session::renew(LIMIT_STATEMENTS);
            pooled.in_time(pooled.batch_execute(&renew)).await?.map_err(DatabaseError::from)?;
        }
        Ok(())
    }
}
