//! The pools of connections: for reading, and for functions of the operator.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::time::timeout;
use tracing::warn;

use super::DatabaseError;
use super::cancel::Canceller;
use super::servers::{Connected, Server, Servers};
use super::session::{self, ANSWER_TIMEOUT, LIMIT_STATEMENTS};

use crate::telemetry::chain;

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
    state: Arc<State>,
}

struct State {
    canceller: Option<Canceller>,
    /// It may be at a statement whose answer nobody waits for.
    is_given_up: AtomicBool,
}

impl Pooled {
    /// None if the server did not say which one it is.
    pub fn server(&self) -> Option<Server> {
        self.server
    }

    /// Waits for the result of statements on this connection. If it does not come in time, or the caller stops waiting for it, the connection
    /// leaves the pool, because the next user would wait as well.
    pub fn in_time<'a, T: 'a>(
        &'a self,
        statements: impl Future<Output = T> + Send + 'a,
    ) -> impl Future<Output = Result<T, DatabaseError>> + Send + 'a {
        in_time(self.writing().run(statements))
    }

    /// The same for statements that write nothing. They are cancelled, too.
    pub fn read_in_time<'a, T: 'a>(
        &'a self,
        statements: impl Future<Output = T> + Send + 'a,
    ) -> impl Future<Output = Result<T, DatabaseError>> + Send + 'a {
        in_time(self.reading().run(statements))
    }

    /// For statements with a time limit of their own.
    pub fn writing(&self) -> Statements {
        Statements { state: Arc::clone(&self.state), write: true }
    }

    /// For statements that write nothing, with a time limit of their own.
    pub fn reading(&self) -> Statements {
        Statements { state: Arc::clone(&self.state), write: false }
    }
}

fn in_time<'a, T: 'a>(
    statements: impl Future<Output = T> + Send + 'a,
) -> impl Future<Output = Result<T, DatabaseError>> + Send + 'a {
    // Boxed: the futures that wait for it, through many layers, stay small.
    let statements = Box::pin(statements);
    async move { timeout(ANSWER_TIMEOUT, statements).await.map_err(|_| DatabaseError::NoAnswer) }
}

/// Statements on a connection of a pool.
pub struct Statements {
    state: Arc<State>,
    write: bool,
}

impl Statements {
    /// If this future is dropped before its end, the connection leaves the pool, because the next user would wait for the statement that is
    /// not finished, and that is cancelled if it only reads. One that writes must not be: if it waits for a standby, it is committed already,
    /// and a cancelled one is seen, and confirmed to whoever repeats it, before the standby has it.
    pub async fn run<T>(self, statements: impl Future<Output = T>) -> T {
        let unfinished = Unfinished(&self);
        let result = statements.await;
        std::mem::forget(unfinished);
        result
    }
}

/// Statements that have begun; forgotten when they have ended.
struct Unfinished<'a>(&'a Statements);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Statements { state, write } = self.0;
        state.is_given_up.store(true, Ordering::Relaxed);
        if !write && let Some(canceller) = &state.canceller {
            canceller.cancel();
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
        let Connected { client, connection, server, canceller } = Box::pin(self.servers.connect()).await?;
        let shard = self.servers.shard().cloned();
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                warn!(shard = shard.as_deref(), error = %chain(&error), "a connection to the database is lost");
            }
        });
        let client = ClientWrapper::new(client, driver);
        client.batch_execute(LIMIT_STATEMENTS).await?;
        let state = Arc::new(State { canceller, is_given_up: AtomicBool::new(false) });
        Ok(Pooled { client, server, state })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<DatabaseError> {
        let is_given_up = pooled.state.is_given_up.load(Ordering::Relaxed);
        if is_given_up || pooled.client.is_closed() || !self.servers.is_current(pooled.server) {
            return Err(RecycleError::message("lost, or to a server that was given up"));
        }
        if self.are_renewed {
            let renew = session::renew(LIMIT_STATEMENTS);
            pooled.in_time(pooled.batch_execute(&renew)).await?.map_err(DatabaseError::from)?;
        }
        Ok(())
    }
}
