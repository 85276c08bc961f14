//! Reading stores, logs and subscriptions for an operator, and changing them by hand. What a caller may do is for the caller to check:
//! nothing here asks for a token.

mod actions;
mod clients;
mod events;
mod export;
mod import;
mod list;
mod overview;
mod stores;
mod subscriptions;
mod types;

pub use actions::{ActionError, Shown};
pub use clients::Client as LiveClient;
pub use events::{EventPage, Filter, InspectedEvent, Order, shortened_name};
pub use export::Exported;
pub use import::{Imported, import};
pub use list::{Kind as ListKind, List};
pub use overview::{InspectedDatabase, Session};
pub use stores::{InspectedStore, StoreStep};
pub use subscriptions::{DeadLetter, InspectedSubscription};

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::Log;
use crate::postgres::{DatabaseError, UPDATE, lacks_function};

/// Queries of operators at the same time: connections are for clients.
const QUERIES: usize = 2;

/// A query ends after this time. Those that look through a log end earlier, with what they have found.
const LIMIT: &str = "set local statement_timeout = '5s'; set local lock_timeout = '2s'";

/// After this time the server counts as gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that an operator sees and does. Made by [`Log::inspect`].
#[derive(Clone)]
pub struct Inspection(Log);

impl Log {
    /// For an operator, who may see everything that the sidecar's role may.
    pub fn inspect(&self) -> Inspection {
        Inspection(self.clone())
    }
}

impl Inspection {
    /// Reads from the primary, as it is now.
    async fn rows(&self, sql: &str, parameters: Vec<Parameter>) -> Result<Vec<Row>, ReadError> {
        self.rows_of(Source::Primary, sql, parameters).await
    }

    /// Reads, without keeping clients waiting: in turn, for a limited time. A task of its own does it to its end: a statement whose caller is
    /// gone would otherwise go on on a connection that counts as free.
    async fn rows_of(&self, source: Source, sql: &str, parameters: Vec<Parameter>) -> Result<Vec<Row>, ReadError> {
        static TURNS: Semaphore = Semaphore::const_new(QUERIES);
        let turn = TURNS.acquire().await;
        let (sql, database) = (sql.to_owned(), self.0.first_database());
        let reading = tokio::spawn(async move {
            let _turn = turn;
            let standby = if source == Source::Standby { database.standby().await } else { None };
            let mut client = match standby {
                Some((client, _)) => client,
                None => database.client().await?,
            };
            let reading = client.reading();
            let rows = async {
                let transaction = client.build_transaction().read_only(true).start().await?;
                transaction.batch_execute(LIMIT).await?;
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect();
                let rows = transaction.query(&sql, &parameters).await?;
                transaction.commit().await?;
                Ok::<_, tokio_postgres::Error>(rows)
            };
            match timeout(PATIENCE, reading.run(rows)).await {
                Ok(rows) => Ok(rows?),
                Err(_) => Err(DatabaseError::NoAnswer.into()),
            }
        });
        reading.await.map_err(|_| ReadError::Database(DatabaseError::NoAnswer))?
    }
}

/// The server that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Primary,
    /// One that follows, if there is one: for what is the same on all of them.
    Standby,
}

/// A parameter of a statement.
type Parameter = Box<dyn ToSql + Sync + Send>;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Postgres did not find it within 5 seconds: try again when it has less to do")]
    TooMuch,
    #[error(
        "another transaction holds a table that has to be read for this: try again when it has ended (pg_locks and pg_stat_activity show it)"
    )]
    Locked,
    /// What Postgres says of what was asked.
    #[error("{0}")]
    Refused(String),
    #[error("the inspector needs version 0.4.0 of the extension: {UPDATE}")]
    Older,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refused) if lacks_function(refused) => Self::Older,
            Some(refused) if *refused.code() == SqlState::QUERY_CANCELED => Self::TooMuch,
            Some(refused) if *refused.code() == SqlState::LOCK_NOT_AVAILABLE => Self::Locked,
            // A value that Postgres cannot read (class 22), or an error of ours, such as that of a store on another shard.
            Some(refused) if ["22", "LS"].iter().any(|class| refused.code().code().starts_with(class)) => {
                Self::Refused(refused.message().into())
            }
            Some(refused) => Self::Database(DatabaseError::Unreadable(refused.message().into())),
            None => Self::Database(error.into()),
        }
    }
}
