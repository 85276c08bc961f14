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
use super::cancel::Canceller;
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
    state: Arc<State>,
}

struct State {
    canceller: Canceller,
    /// It may be at a statement whose answer nobody waits for.
    is_given_up: AtomicBool,
}

impl Pooled {
    /// Waits for the result of statements on this connection. If it does not come in time, or its caller stops waiting, the connection
    /// is given up.
    pub fn in_time<'a, T: 'a>(
        &'a self,
        statements: impl Future<Output = T> + Send + 'a,
    ) -> impl Future<Output = Result<T, DatabaseError>> + Send + 'a {
        // Boxed: the futures that wait for it, through many layers, stay small.
        let statements = Box::pin(statements);
        let guard = self.guard();
        async move { timeout(ANSWER_TIMEOUT, guard.run(statements)).await.map_err(|_| DatabaseError::NoAnswer) }
    }

    /// Gives the connection up if statements on it are not waited for.
    pub fn guard(&self) -> Guard {
        Guard(Arc::clone(&self.state))
    }
}

/// Runs statements that somebody waits for.
pub struct Guard(Arc<State>);

impl Guard {
    /// If this future is dropped before its end, the connection leaves the pool, because the next user would wait for the statement that is
    /// not finished, and that is cancelled.
    pub async fn run<T>(self, statements: impl Future<Output = T>) -> T {
        let unfinished = Unfinished(&self.0);
        let result = statements.await;
        std::mem::forget(unfinished);
        result
    }
}

/// Statements that have begun; forgotten when they have ended.
struct Unfinished<'a>(&'a State);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.is_given_up.store(true, Ordering::Relaxed);
        self.0.canceller.cancel(());
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
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                warn!(error = &error as &dyn std::error::Error, "a connection to the database is lost");
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
