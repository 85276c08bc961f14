//! The actions that only an administrator of a store may take.

use std::sync::Arc;

use livestore_rules::codes;
use tokio_postgres::error::SqlState;

use super::store::StoreLog;
use crate::auth::Access;
use crate::log::error::Denied;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, Unreadable};

/// A client that may administer a store. Only [`StoreLog::administrator`] makes one. Protocols ask for a secret before.
pub struct Administrator<'a>(&'a StoreLog);

impl StoreLog {
    /// Whether the token lets the client administer the store.
    pub async fn administrator(&self) -> Result<Administrator<'_>, Denied> {
        self.check_token(Access::Admin, "the token does not allow to administer this store").await?;
        Ok(Administrator(self))
    }
}

impl Administrator<'_> {
    /// The id of this life of the log. Waits while the database is away.
    pub async fn backend_id(&self) -> Result<Arc<str>, Unreadable> {
        Ok(self.0.status().await?.backend_id)
    }

    /// Empties the log. One that does not exist is empty already.
    pub async fn reset(&self) -> Result<(), ResetError> {
        if self.0.is_read_only() {
            return Err(ResetError::Database(DatabaseError::ReadOnly));
        }
        match reset(&self.0.shard().database, self.0.id()).await {
            Err(ResetError::Database(DatabaseError::Elsewhere)) => {
                self.0.log.shards.look_anew().await;
                reset(&self.0.shard().database, self.0.id()).await
            }
            reset => reset,
        }
    }
}

async fn reset(database: &Database, store: &StoreId) -> Result<(), ResetError> {
    let mut client = database.client().await.map_err(ResetError::Database)?;
    let writing = client.writing();
    let reset = async {
        let transaction = client.transaction().await?;
        // A large store takes long, so the operator's own setting applies.
        transaction.batch_execute("set local statement_timeout to default").await?;
        transaction.execute("select livestore.reset_store($1)", &[&store.as_str()]).await?;
        transaction.commit().await
    };
    match writing.run(reset).await {
        Ok(()) => Ok(()),
        Err(error) => match error.code() {
            Some(code) if code.code() == codes::NO_STORE => Ok(()),
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Err(ResetError::NotAllowed),
            _ => Err(ResetError::Database(error.into())),
        },
    }
}

/// Why a store was not reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the database role of this server may not reset stores: grant livestore_admin to it")]
    NotAllowed,
    #[error("the store was not reset: try again, and see the log of the server")]
    Database(#[source] DatabaseError),
}
