//! What only those may do who administer a store.

use tokio_postgres::error::SqlState;

use super::store::StoreLog;
use crate::auth::Access;
use crate::log::error::Denied;
use crate::postgres::DatabaseError;

/// What `livestore.reset_store` raises for a store that there is not.
const NO_SUCH_STORE: &str = "LS004";

impl StoreLog {
    /// Whether the token lets the client administer the store. Whoever offers that asks for a secret first.
    ///
    /// # Errors
    /// It does not.
    pub async fn may_administer(&self) -> Result<(), Denied> {
        self.check_token(Access::Admin, "the token does not allow to administer this store").await
    }

    /// Empties the log. One that does not exist is empty already. Whoever offers this asks for a secret first.
    ///
    /// # Errors
    /// It was not emptied, or is not known to be; or the token does not allow it.
    pub async fn reset(&self) -> Result<(), ResetError> {
        self.may_administer().await.map_err(ResetError::Denied)?;
        let mut client = self.database().client().await.map_err(ResetError::Database)?;
        let reset = async {
            let transaction = client.transaction().await?;
            // Of a large store it may take long: what the operator has set counts.
            transaction.batch_execute("set local statement_timeout to default").await?;
            transaction.execute("select livestore.reset_store($1)", &[&self.id().as_str()]).await?;
            transaction.commit().await
        };
        match reset.await {
            Ok(()) => Ok(()),
            Err(error) => match error.code() {
                Some(code) if code.code() == NO_SUCH_STORE => Ok(()),
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Err(ResetError::NotAllowed),
                _ => Err(ResetError::Database(error.into())),
            },
        }
    }
}

/// Why a store was not reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error(transparent)]
    Denied(Denied),
    #[error("the database role of this server may not reset stores: grant livestore_admin to it")]
    NotAllowed,
    #[error("the store was not reset: try again, and see the log of the server")]
    Database(#[source] DatabaseError),
}
