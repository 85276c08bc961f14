//! The proof that a connection is a session of Postgres: one process serves it from its first statement to its last. A pooler
//! in transaction mode gives each transaction to any process that is free. LISTEN, prepared statements and settings do not
//! last there, and settings reach the transactions of other clients. So the proof comes before the first setting.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::{Client, Connection, SimpleQueryMessage, Socket};

use super::{DatabaseError, TlsStream};

/// The time that a proof holds: connections that are made together share it. Later, a pooler may have another mode.
const PROOF: Duration = Duration::from_secs(5);

/// The number of times that each connection is asked. The first is enough, unless other clients take turns in between.
const ROUNDS: usize = 3;

pub struct Sessions {
    /// The option with the URL.
    option: &'static str,
    proven: Mutex<Option<Instant>>,
}

impl Sessions {
    pub fn of(option: &'static str) -> Self {
        Self { option, proven: Mutex::default() }
    }

    /// The option with the URL.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Compares a connection with a second one.
    pub async fn prove<F>(&self, first: &Client, second: impl FnOnce() -> F) -> Result<(), DatabaseError>
    where
        F: Future<Output = Result<(Client, Connection<Socket, TlsStream>), tokio_postgres::Error>>,
    {
        // One proof at a time: two at once would take processes of the pooler from each other, and prove nothing.
        let mut proven = self.proven.lock().await;
        if proven.is_some_and(|at| at.elapsed() < PROOF) {
            return Ok(());
        }
        let (second, connection) = second().await?;
        let are_sessions = tokio::select! {
            biased;
            are_sessions = are_sessions(first, &second) => are_sessions?,
            end = connection => return Err(end.err().map_or(DatabaseError::Lost, DatabaseError::from)),
        };
        if !are_sessions {
            return Err(DatabaseError::TransactionMode { option: self.option });
        }
        *proven = Some(Instant::now());
        Ok(())
    }

    /// Withdraws the proof, because another process than before has answered. The next connection is tested again.
    pub fn distrust(&self) -> DatabaseError {
        // If it is locked, that is being done.
        if let Ok(mut proven) = self.proven.try_lock() {
            *proven = None;
        }
        DatabaseError::TransactionMode { option: self.option }
    }
}

/// Whether two connections are served by a process each, which stays the same. Through a pooler in transaction mode, both get
/// the process that was used last, or one of them gets another process than before.
async fn are_sessions(first: &Client, second: &Client) -> Result<bool, DatabaseError> {
    let mut seen = None;
    for _ in 0..ROUNDS {
        // The first connection is asked twice. Otherwise a pooler that hands out two processes in turn would always give each
        // connection the same one.
        let pids = (process(first).await?, process(first).await?, process(second).await?);
        if pids.0 != pids.1 || pids.0 == pids.2 || *seen.get_or_insert(pids) != pids {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The process that serves a statement. Not a prepared one: those may last no longer than a transaction.
async fn process(client: &Client) -> Result<i32, DatabaseError> {
    let messages = client.simple_query("select pg_catalog.pg_backend_pid()").await?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    pid.ok_or(DatabaseError::Lost)
}
