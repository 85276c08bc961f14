//! The reaction to a fault of the database: the same for every caller.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tracing::{error, warn};

use super::{Backoff, DatabaseError, is_elsewhere};
use crate::telemetry::chain;

/// Whether the same request may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Yes: the database is away, restarting, failing over, out of resources, or holds a lock.
    Soon,
    /// Yes, once the operator has fixed how the database is set up. Nothing is wrong with the request, and everybody's
    /// fails: clients wait, since LiveStore stops syncing for good when a pull fails.
    WhenMended,
    /// Perhaps: an internal error, as when a table is dropped while it is read.
    AFewTimes,
    /// No: the database does not take what it was given, or what it has cannot be read.
    Never,
}

/// The number of attempts of [`Retry::AFewTimes`].
const A_FEW_TIMES: u32 = 6;

/// The interval at which a database that stays away is mentioned in the log.
const WARN_EVERY: u32 = 8;

impl Retry {
    /// After an error of Postgres.
    pub fn after(code: &SqlState) -> Self {
        let soon = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::OBJECT_IN_USE,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        if soon.contains(code) || is_elsewhere(code) {
            return Self::Soon;
        }
        match code.code().get(..2) {
            // Connections, prepared statements of a connection, rolled back transactions, resources, the operator.
            Some("08" | "26" | "40" | "53" | "57") => Self::Soon,
            // Features, names, databases and privileges that are not there, logins that are refused.
            Some("0A" | "28" | "3D" | "3F" | "42") => Self::WhenMended,
            // The system, and Postgres itself. What is corrupt stays so.
            Some("58" | "XX") if ![SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => {
                Self::AFewTimes
            }
            _ => Self::Never,
        }
    }

    /// Whether it helps to wait, without anybody doing something.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Soon | Self::AFewTimes)
    }
}

/// Tries until the database answers: a client whose pull fails stops syncing for good, so a pull waits instead. Drop the
/// future to stop waiting.
///
/// # Errors
/// To wait does not help. The log says why.
pub async fn retry_until_available<T, F: Future<Output = Result<T, DatabaseError>>>(
    attempt: impl FnMut() -> F,
) -> Result<T, Unreadable> {
    retry_naming(|| None, attempt).await
}

/// The same. `shard` names the database in the log, if it is one of several.
///
/// # Errors
/// To wait does not help. The log says why.
pub async fn retry_naming<T, F: Future<Output = Result<T, DatabaseError>>>(
    shard: impl Fn() -> Option<Arc<str>>,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Unreadable> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => mention(&error, backoff.attempts(), &shard)?,
        }
        backoff.sleep().await;
    }
}

/// Tells the operator of an attempt that failed, after so many others.
///
/// # Errors
/// Another one would fail, too.
fn mention(error: &DatabaseError, attempts: u32, shard: impl Fn() -> Option<Arc<str>>) -> Result<(), Unreadable> {
    // A store that moves to another shard is on none for a moment.
    let is_moving = attempts == 0 && matches!(error, DatabaseError::Elsewhere);
    let is_to_mention = attempts.is_multiple_of(WARN_EVERY) && !is_moving;
    let cause = chain(error);
    let retry = error.retry();
    if retry == Retry::Never || (retry == Retry::AFewTimes && attempts + 1 >= A_FEW_TIMES) {
        // An event that cannot be read was told of where it was met, with its store.
        if !matches!(error, DatabaseError::UnreadableEvent { .. }) {
            error!(shard = shard().as_deref(), error = %cause, "a read fails, and would fail again");
        }
        return Err(Unreadable);
    }
    match retry {
        Retry::WhenMended if is_to_mention => {
            error!(shard = shard().as_deref(), error = %cause, "a read waits until the database is set up right")
        }
        _ if is_to_mention => warn!(shard = shard().as_deref(), error = %cause, "a read waits for the database"),
        _ => {}
    }
    Ok(())
}

/// Something cannot be read, and could not be later. The text is for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server cannot read this from its database: its operator finds the reason in its log")]
pub struct Unreadable;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_passes_or_does_not() {
        for (codes, retry) in [
            (
                &["08006", "40001", "40P01", "53300", "55P03", "57014", "57P01", "57P03", "25006", "26000", "LS005"][..],
                Retry::Soon,
            ),
            (&["42501", "42883", "42P01", "3F000", "28P01", "3D000", "0A000"], Retry::WhenMended),
            (&["XX000", "58030"], Retry::AFewTimes),
            (&["22021", "22P05", "23514", "54000", "XX001", "XX002", "P0001", "LS003", "21000", "?"], Retry::Never),
        ] {
            for code in codes {
                assert_eq!(Retry::after(&SqlState::from_code(code)), retry, "{code}");
            }
        }
    }
}
