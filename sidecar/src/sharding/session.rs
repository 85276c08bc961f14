//! One connection to one of the databases, in a transaction.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use tokio_util::task::AbortOnDropHandle;

use super::ShardsError;
use crate::install::{JOIN_ROLES, LEAVE_ROLES};
use crate::postgres::{
    Address, Connected, DatabaseError, connect_once, connect_once_to_read, hide_parameters, run_with_secret,
};

/// Functions and operators are Postgres' own: strangers may have created others in the schemas that a role searches. A lock that another
/// transaction holds for longer stops the command: clients wait behind it meanwhile.
const BEGIN: &str = "set client_min_messages = warning; begin; set local search_path = pg_catalog, pg_temp; set local lock_timeout = '3s';
    set local log_parameter_max_length_on_error = 0";

/// A connection that knows which database it leads to.
pub struct Session {
    /// As messages name it: "the front", or "the shard x".
    pub database: String,
    client: Client,
    /// Whether the membership in the owner's role ends with the transaction.
    has_joined: AtomicBool,
    /// Closed with this, even if a statement was not answered.
    _connection: AbortOnDropHandle<()>,
}

impl Session {
    pub async fn open(database: String, address: Address) -> Result<Self, ShardsError> {
        Self::of(&database, connect_once(with_password(address)).await)
    }

    pub async fn open_to_read(database: String, address: Address) -> Result<Self, ShardsError> {
        Self::of(&database, connect_once_to_read(with_password(address)).await)
    }

    fn of(database: &str, connected: Result<Connected, DatabaseError>) -> Result<Self, ShardsError> {
        let Connected { client, connection, .. } =
            connected.map_err(|error| ShardsError::Unreachable { database: database.into(), error })?;
        let connection = tokio::spawn(async move {
            // Its error is that of the statement.
            let _ = connection.await;
        });
        let (has_joined, _connection) = (AtomicBool::new(false), AbortOnDropHandle::new(connection));
        Ok(Self { database: database.into(), client, has_joined, _connection })
    }

    pub async fn run(&self, sql: &str) -> Result<(), ShardsError> {
        self.client.batch_execute(sql).await.map_err(|error| self.error(error))
    }

    /// [`hide_parameters`], since they are keys and passwords.
    pub async fn hide_parameters(&self) -> Result<(), ShardsError> {
        hide_parameters(&self.client).await.map_err(|error| self.error(error))
    }

    /// [`run_with_secret`].
    pub async fn run_with_secret(&self, statement: &str, secret: &str) -> Result<(), ShardsError> {
        run_with_secret(&self.client, statement, secret).await.map_err(|error| self.error(error))
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
        self.run(JOIN_ROLES).await?;
        // Asked now: code of the application could change it.
        let has_joined = self
            .value(
                "select 'on' in (
                     coalesce(current_setting('livestore.joined_livestore_owner', true), ''),
                     coalesce(current_setting('livestore.joined_livestore_hooks', true), '')
                 )",
                &[],
            )
            .await?;
        self.has_joined.store(has_joined, Ordering::Relaxed);
        Ok(())
    }

    /// A transaction of a command that may take long, on a shard. It sees everything as it was at one moment, if `is_snapshot`. It gives up a
    /// lock before Postgres would look for a deadlock, in which it might choose somebody else.
    pub async fn begin_as_owner(&self, is_snapshot: bool) -> Result<(), ShardsError> {
        self.begin().await?;
        if is_snapshot {
            self.run("set transaction isolation level repeatable read").await?;
        }
        self.run(
            "set local lock_timeout = '500ms'; set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0;
             set local datestyle = iso; set local timezone = 'UTC';
             select set_config(s.name, '0', true) from pg_settings s where s.name = 'transaction_timeout'",
        )
        .await?;
        self.join_roles().await?;
        self.act_as_owner().await
    }

    /// From here on, code of the application in triggers, constraints and indexes does not run with the rights of a superuser.
    pub async fn act_as_owner(&self) -> Result<(), ShardsError> {
        self.run("set local role livestore_owner").await
    }

    /// Runs the triggers of the application that are deferred, with the rights of its hooks.
    pub async fn run_deferred(&self) -> Result<(), ShardsError> {
        self.run("set local role livestore_hooks; set constraints all immediate; set constraints all deferred").await?;
        self.act_as_owner().await
    }

    /// As the role that has connected.
    pub async fn act_as_self(&self) -> Result<(), ShardsError> {
        self.run("set local role none").await
    }

    /// Copies the rows of a query into a table of another database, and returns how many. No more than a few of them are in memory.
    pub async fn copy(&self, query: &str, other: &Self, table: &str) -> Result<u64, ShardsError> {
        let rows = format!("copy ({query}) to stdout (format binary)");
        let mut rows = Box::pin(self.client.copy_out(&rows).await.map_err(|error| self.error(error))?);
        let table = format!("copy {table} from stdin (format binary)");
        let mut table = Box::pin(other.client.copy_in(&table).await.map_err(|error| other.error(error))?);
        while let Some(part) = rows.next().await {
            table.feed(part.map_err(|error| self.error(error))?).await.map_err(|error| other.error(error))?;
        }
        table.as_mut().finish().await.map_err(|error| other.error(error))
    }

    pub async fn commit(&self) -> Result<(), ShardsError> {
        // Deferred triggers run as the owner, too, unless the membership in it ends.
        if self.has_joined.load(Ordering::Relaxed) {
            self.act_as_self().await?;
            self.run(LEAVE_ROLES).await?;
        }
        self.run("commit").await
    }

    pub async fn rollback(&self) -> Result<(), ShardsError> {
        self.run("rollback").await
    }
}

/// With the password of `PGPASSWORD`, as libpq takes it, if the URL has none: arguments of a command can be read by others on its machine.
fn with_password(mut address: Address) -> Address {
    if address.config.get_password().is_none()
        && let Some(password) = env::var("PGPASSWORD").ok().filter(|password| !password.is_empty())
    {
        address.config.password(password);
    }
    address
}

impl ShardsError {
    /// Whether another transaction holds a lock, and it is worth trying again.
    pub fn is_busy(&self) -> bool {
        let Self::Sql { error, .. } = self else { return false };
        let busy = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::QUERY_CANCELED,
        ];
        error.code().is_some_and(|code| busy.contains(code))
    }

    /// Whether a role has no right to what it tried.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Sql { error, .. } if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
    }
}
