//! One connection to one of the databases, in a transaction.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::ShardsError;
use crate::install::{JOIN_ROLES, LEAVE_ROLES};
use crate::postgres::{Address, Connected, connect_once, connect_once_to_read};

/// Functions and operators are Postgres' own: strangers may have created others in the schemas that a role searches. A lock that another
/// transaction holds for longer stops the command: clients wait behind it meanwhile.
const BEGIN: &str = "set client_min_messages = warning; begin; set local search_path = pg_catalog, pg_temp; set local lock_timeout = '3s'";

/// A connection that knows which database it leads to.
pub struct Session {
    /// As messages name it: "the front", or "the shard x".
    pub database: String,
    client: Client,
}

impl Session {
    pub async fn open(database: String, address: Address) -> Result<Self, ShardsError> {
        Self::of(&database, connect_once(address).await)
    }

    pub async fn open_to_read(database: String, address: Address) -> Result<Self, ShardsError> {
        Self::of(&database, connect_once_to_read(address).await)
    }

    fn of(database: &str, connected: Result<Connected, crate::postgres::DatabaseError>) -> Result<Self, ShardsError> {
        let Connected { client, connection, .. } =
            connected.map_err(|error| ShardsError::Unreachable { database: database.into(), error })?;
        tokio::spawn(connection);
        Ok(Self { database: database.into(), client })
    }

    pub async fn run(&self, sql: &str) -> Result<(), ShardsError> {
        self.client.batch_execute(sql).await.map_err(|error| self.error(error))
    }

    /// Runs a statement, in a transaction, in which `%L` stands for a secret. The secret goes as a parameter, and an error does not quote it:
    /// the text of a statement is in the log of Postgres, in its statistics, and in the list of what is running.
    pub async fn run_with_secret(&self, statement: &str, secret: &str) -> Result<(), ShardsError> {
        self.rows("select set_config('livestore.secret', $1, true)", &[&secret]).await?;
        let block: String = self
            .value(
                "select format(
                     'do $livestore$ begin
                         execute format(%L, current_setting(''livestore.secret''));
                     exception when others then
                         raise exception using errcode = sqlstate, message = sqlerrm;
                     end $livestore$',
                     $1::text
                 )",
                &[&statement],
            )
            .await?;
        self.run(&block).await?;
        self.run("set local livestore.secret = ''").await
    }

    pub async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, ShardsError> {
        self.client.query_one(sql, parameters).await.map_err(|error| self.error(error))
    }

    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, ShardsError> {
        self.client.query(sql, parameters).await.map_err(|error| self.error(error))
    }

    /// The one value of a query that has a row.
    pub async fn value<T>(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<T, ShardsError>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.read(&self.row(sql, parameters).await?, 0)
    }

    /// A column of a row.
    pub fn read<T>(&self, row: &Row, column: usize) -> Result<T, ShardsError>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        row.try_get(column).map_err(|error| self.error(error))
    }

    pub fn error(&self, error: tokio_postgres::Error) -> ShardsError {
        ShardsError::Sql { database: self.database.clone(), error }
    }

    pub async fn begin(&self) -> Result<(), ShardsError> {
        self.run(BEGIN).await
    }

    /// For what only the owner may read: becomes a member of its role until [`Self::commit`] or [`Self::rollback`].
    pub async fn join_roles(&self) -> Result<(), ShardsError> {
        self.run(JOIN_ROLES).await
    }

    pub async fn commit(&self) -> Result<(), ShardsError> {
        self.run(LEAVE_ROLES).await?;
        self.run("commit").await
    }

    pub async fn rollback(&self) -> Result<(), ShardsError> {
        self.run("rollback").await
    }
}
