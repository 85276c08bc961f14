//! Changes that an operator makes by hand. Postgres checks them: the functions raise what is wrong, and the role of the sidecar decides.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::{Inspection, Parameter, ReadError};
use crate::log::store_id::StoreId;
use crate::postgres::{Connected, Database, DatabaseError, lacks_function};

/// Changes at the same time, and imports beside them: those may take long.
static CHANGES: Semaphore = Semaphore::const_new(2);
pub static IMPORTS: Semaphore = Semaphore::const_new(2);

/// The time that a change waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most changes end after this time.
const LIMIT: &str = "set statement_timeout = '30s'";

/// A large store takes long, so the operator's own setting applies.
const NO_LIMIT: &str = "set statement_timeout to default";

/// The log that an operator has seen and wants to change.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub store: &'a StoreId,
    /// Its backend id.
    pub life: &'a str,
}

/// Why nothing was changed, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The words of Postgres, for the operator.
    #[error("{0}")]
    Refused(String),
    #[error("the database is away, or did not answer in time: {0}")]
    Database(#[source] DatabaseError),
    #[error("others change something at the moment: try again later")]
    TooMany,
    /// The lines of an import ended early.
    #[error("the file did not arrive: {0}")]
    Incomplete(String),
}

impl Inspection {
    /// Appends an event at the head, as an operator does in SQL. Returns its number.
    pub async fn commit(&self, store: &StoreId, name: &str, args: Option<&str>) -> Result<i64, ActionError> {
        let sql = "select livestore.commit($1, $2, $3::text::json, 'inspector', 'inspector')";
        self.act(LIMIT, sql, vec![text(store.as_str()), text(name), Box::new(args.map(str::to_owned))]).await
    }

    /// Empties the log: clients drop their copies.
    pub async fn reset(&self, log: Shown<'_>) -> Result<(), ActionError> {
        let sql = "select 1::bigint from livestore.reset_store($1)";
        self.act_on(log, NO_LIMIT, sql, vec![text(log.store.as_str())]).await
    }

    pub async fn drop_store(&self, log: Shown<'_>) -> Result<(), ActionError> {
        let sql = "select 1::bigint from livestore.drop_store($1)";
        self.act_on(log, NO_LIMIT, sql, vec![text(log.store.as_str())]).await
    }

    /// Replaces name and args of an event. Without a name, it keeps its own.
    pub async fn rewrite(
        &self,
        log: Shown<'_>,
        seq_num: i64,
        name: Option<&str>,
        args: Option<&str>,
        reason: &str,
    ) -> Result<(), ActionError> {
        let sql = "select 1::bigint from livestore.rewrite_event($1::text, $2::bigint,
                 coalesce($3::text, (select e.name from livestore.pull_page($1, $2 - 1, 1, 2147483647) e where e.seq_num = $2)),
                 $4::text::json, $5)";
        let (name, args) = (Box::new(name.map(str::to_owned)), Box::new(args.map(str::to_owned)));
        let parameters: Vec<Parameter> = vec![text(log.store.as_str()), Box::new(seq_num), name, args, text(reason)];
        self.act_on(log, LIMIT, sql, parameters).await
    }

    /// Replaces the args of an event.
    pub async fn erase(
        &self,
        log: Shown<'_>,
        seq_num: i64,
        replacement: &str,
        reason: &str,
    ) -> Result<(), ActionError> {
        let sql = "select livestore.erase($1, array[$2::bigint], $3::text::json, $4)";
        let parameters: Vec<Parameter> =
            vec![text(log.store.as_str()), Box::new(seq_num), text(replacement), text(reason)];
        self.act_on(log, LIMIT, sql, parameters).await
    }

    /// Gives a dead letter out again.
    pub async fn resend(&self, dead_letter: i64) -> Result<(), ActionError> {
        let sql = "select 1::bigint from livestore.resend($1)";
        self.act(LIMIT, sql, vec![Box::new(dead_letter)]).await.map(drop)
    }

    /// Runs a statement on a connection of its own.
    async fn act(
        &self,
        limit: &'static str,
        sql: &'static str,
        parameters: Vec<Parameter>,
    ) -> Result<i64, ActionError> {
        on_own_connection(&self.0.first_database(), &CHANGES, limit, async move |client| {
            Ok(client.query_one(sql, &references(&parameters)).await?.try_get(0)?)
        })
        .await
    }

    /// The same for a change of this log. If it was reset since, nothing is changed: its numbers are those of other events.
    async fn act_on(
        &self,
        log: Shown<'_>,
        limit: &'static str,
        sql: &'static str,
        parameters: Vec<Parameter>,
    ) -> Result<(), ActionError> {
        let (store, life) = (log.store.as_str().to_owned(), log.life.to_owned());
        on_own_connection(&self.0.first_database(), &CHANGES, limit, async move |mut client| {
            let transaction = client.transaction().await?;
            transaction.execute("select livestore.lock_log($1, $2)", &[&store, &life]).await?;
            transaction.execute(sql, &references(&parameters)).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }
}

/// Changes something on a connection of its own: those of the pool are for clients, and it may wait for a lock. To its end, whether its
/// caller waits or not.
pub async fn on_own_connection<T, F>(
    database: &Database,
    turns: &'static Semaphore,
    limit: &'static str,
    change: impl FnOnce(Client) -> F + Send + 'static,
) -> Result<T, ActionError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ActionError>> + Send,
{
    let turn = timeout(PATIENCE, turns.acquire()).await.map_err(|_| ActionError::TooMany)?;
    let database = database.clone();
    let acting = tokio::spawn(async move {
        let _turn = turn;
        let Connected { client, connection, .. } = database.connect().await.map_err(ActionError::Database)?;
        tokio::spawn(connection);
        client.batch_execute(limit).await?;
        change(client).await
    });
    acting.await.map_err(|_| ActionError::Database(DatabaseError::NoAnswer))?
}

impl From<tokio_postgres::Error> for ActionError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refused) if lacks_function(refused) => Self::Refused(ReadError::Older.to_string()),
            Some(refused) => {
                let hint = refused.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                Self::Refused(format!("{}{hint}", refused.message()))
            }
            None => Self::Database(error.into()),
        }
    }
}

fn references(parameters: &[Parameter]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect()
}

fn text(text: &str) -> Parameter {
    Box::new(text.to_owned())
}
