//! Changes that an operator makes by hand. Postgres checks them: the functions raise what is wrong, and the role of the sidecar decides.

use tokio_postgres::types::ToSql;

use super::Inspection;
use crate::log::store_id::StoreId;
use crate::postgres::DatabaseError;

/// Why nothing was changed, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// What Postgres says of it, for the operator.
    #[error("{0}")]
    Refused(String),
    #[error("the database is away, or did not answer in time: {0}")]
    Database(#[source] DatabaseError),
}

/// `clientId` of the events that are committed here.
const CLIENT: &str = "inspector";

impl Inspection {
    /// Appends an event at the head. Returns its number.
    pub async fn commit(
        &self,
        store: &StoreId,
        name: &str,
        args: Option<&str>,
        session: &str,
    ) -> Result<i64, ActionError> {
        let sql = "select livestore.commit($1, $2, $3::text::json, $4, $5)";
        self.act(sql, &[&store.as_str(), &name, &args, &CLIENT, &session]).await
    }

    /// Empties the log: clients drop their copies.
    pub async fn reset(&self, store: &StoreId) -> Result<(), ActionError> {
        self.act::<String>("select livestore.reset_store($1)", &[&store.as_str()]).await.map(drop)
    }

    pub async fn drop_store(&self, store: &StoreId) -> Result<(), ActionError> {
        self.act::<i32>("select 1 from livestore.drop_store($1)", &[&store.as_str()]).await.map(drop)
    }

    pub async fn rewrite(
        &self,
        store: &StoreId,
        seq_num: i64,
        name: &str,
        args: Option<&str>,
        reason: &str,
    ) -> Result<(), ActionError> {
        let sql = "select 1 from livestore.rewrite_event($1, $2, $3, $4::text::json, $5)";
        self.act::<i32>(sql, &[&store.as_str(), &seq_num, &name, &args, &reason]).await.map(drop)
    }

    /// Replaces the args of an event.
    pub async fn erase(
        &self,
        store: &StoreId,
        seq_num: i64,
        replacement: &str,
        reason: &str,
    ) -> Result<(), ActionError> {
        let sql = "select livestore.erase($1, array[$2::bigint], $3::text::json, $4)";
        self.act::<i64>(sql, &[&store.as_str(), &seq_num, &replacement, &reason]).await.map(drop)
    }

    /// Gives a dead letter out again.
    pub async fn resend(&self, dead_letter: i64) -> Result<(), ActionError> {
        self.act::<i32>("select 1 from livestore.resend($1)", &[&dead_letter]).await.map(drop)
    }

    async fn act<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<T, ActionError> {
        let mut client = self.0.database.background_client().await.map_err(ActionError::Database)?;
        let done = async {
            let transaction = client.transaction().await?;
            // A large store takes long, so the operator's own setting applies.
            transaction.batch_execute("set local statement_timeout to default").await?;
            let row = transaction.query_one(sql, parameters).await?;
            transaction.commit().await?;
            row.try_get(0)
        };
        match done.await {
            Ok(value) => Ok(value),
            Err(error) => match error.as_db_error() {
                Some(refused) => {
                    let hint = refused.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    Err(ActionError::Refused(format!("{}{hint}", refused.message())))
                }
                None => Err(ActionError::Database(error.into())),
            },
        }
    }
}
