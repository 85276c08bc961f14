//! Reading stores, logs and subscriptions for an operator, and changing them by hand. What a caller may do is for the caller to check:
//! nothing here asks for a token.

mod actions;
mod clients;
mod events;
mod export;
mod list;
mod overview;
mod stores;
mod subscriptions;
mod types;

pub use actions::ActionError;
pub use clients::Client as LiveClient;
pub use events::{Filter, InspectedEvent, Order, PAGE as EVENTS_OF_A_PAGE};
pub use export::Exported;
pub use list::{Kind as ListKind, List};
pub use overview::{InspectedDatabase, Session};
pub use stores::{InspectedStore, StoreStep};
pub use subscriptions::{DeadLetter, InspectedSubscription};

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Log;
use crate::postgres::DatabaseError;

/// Queries of operators at the same time: connections are for clients.
const QUERIES: usize = 2;

/// A query ends after this time. It may have to look through a large log.
const LIMIT: &str = "set local statement_timeout = '5s'";

/// After this time the server counts as gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an operator sees and does. Made by [`Log::inspect`].
#[derive(Clone)]
pub struct Inspection(Log);

impl Log {
    /// For an operator, who may see everything that the sidecar's role may.
    pub fn inspect(&self) -> Inspection {
        Inspection(self.clone())
    }
}

impl Inspection {
    /// Reads, without keeping clients waiting: in turn, for a limited time.
    async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DatabaseError> {
        static TURNS: Semaphore = Semaphore::const_new(QUERIES);
        let _turn = TURNS.acquire().await;
        let mut client = self.0.database.background_client().await?;
        let transaction = client.build_transaction().read_only(true).start().await?;
        transaction.batch_execute(LIMIT).await?;
        let rows =
            timeout(PATIENCE, transaction.query(sql, parameters)).await.map_err(|_| DatabaseError::NoAnswer)??;
        transaction.commit().await?;
        Ok(rows)
    }
}
