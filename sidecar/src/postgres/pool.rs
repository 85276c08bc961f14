//! The pool of connections for reading.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tracing::warn;

use super::DatabaseError;
use super::servers::{Connected, Server, Servers};

/// Makes connections of the pool, and lets go of those to a server that was given up.
pub struct Connections(pub Arc<Servers>);

/// One of them.
pub struct Pooled {
    client: ClientWrapper,
    server: Option<Server>,
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
        // Boxed, as connecting is large and rare: it would make every request of the database as large.
        let Connected { client, connection, server } = Box::pin(self.0.connect()).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                warn!(error = &error as &dyn std::error::Error, "a connection to the database is lost");
            }
        });
        Ok(Pooled { client: ClientWrapper::new(client, driver), server })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<DatabaseError> {
        if pooled.client.is_closed() || !self.0.is_current(pooled.server) {
            return Err(RecycleError::message("lost, or to a server that was given up"));
        }
        Ok(())
    }
}
