//! The outcome of a push: rows of `livestore.push_batch` and errors of Postgres, turned into results for protocols.

use chrono::{DateTime, Utc};
use livestore_rules::codes;
use serde::Deserialize;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::log::error::{Denied, PushError};
use crate::postgres::{Retry, is_elsewhere};
use crate::telemetry::refusals::Reason;

/// A push that is in the log. Only the committer makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    pub(super) head: i64,
}

impl Pushed {
    pub fn head(&self) -> i64 {
        self.head
    }
}

/// A row of `livestore.push_batch`.
pub struct Outcome {
    /// Its position in the group.
    pub push: usize,
    pub result: Result<Appended, Failed>,
}

/// A push that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    pub error: PushError,
    /// A function, a table or a right was missing: perhaps of an update that took place in the middle of the push, and then the next
    /// attempt finds it.
    pub lacks_something: bool,
    /// The store is on another shard.
    pub is_elsewhere: bool,
}

pub struct Appended {
    pub head: i64,
    /// The number of new events at the end of the batch.
    pub count: usize,
    pub backend_id: String,
    /// `None` if none is new.
    pub created_at: Option<DateTime<Utc>>,
}

pub fn outcome(row: &Row) -> Result<Outcome, tokio_postgres::Error> {
    let position: i32 = row.try_get("push")?;
    let result = match row.try_get::<_, Option<&str>>("sqlstate")? {
        None => Ok(Appended {
            head: row.try_get("head")?,
            count: usize::try_from(row.try_get::<_, i32>("appended")?).unwrap_or(0),
            backend_id: row.try_get("backend_id")?,
            created_at: row.try_get("created_at")?,
        }),
        Some(sqlstate) => {
            let message = row.try_get::<_, Option<&str>>("message")?.unwrap_or_default();
            let detail = row.try_get::<_, Option<&str>>("detail")?.unwrap_or_default();
            let code = SqlState::from_code(sqlstate);
            let (lacks_something, is_elsewhere) = (lacks_something(&code), is_elsewhere(&code));
            Err(Failed { error: push_error(sqlstate, message, detail), lacks_something, is_elsewhere })
        }
    };
    Ok(Outcome { push: usize::try_from(position).unwrap_or(0).wrapping_sub(1), result })
}

/// The meaning of an SQLSTATE that `livestore.push_batch` returns.
fn push_error(sqlstate: &str, message: &str, detail: &str) -> PushError {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ServerAhead {
        minimum_expected_num: i64,
        provided_num: i64,
    }
    #[derive(Deserialize)]
    struct BackendIdMismatch {
        expected: String,
        received: String,
    }
    let parsed = match sqlstate {
        codes::SERVER_AHEAD => serde_json::from_str(detail)
            .map(|ServerAhead { minimum_expected_num, provided_num }| PushError::ServerAhead {
                minimum_expected_num,
                provided_num,
            })
            .ok(),
        codes::BACKEND_ID_MISMATCH => serde_json::from_str(detail)
            .map(|BackendIdMismatch { expected, received }| PushError::BackendIdMismatch { expected, received })
            .ok(),
        codes::INVALID => Some(PushError::Invalid(message.into())),
        _ => None,
    };
    parsed.unwrap_or_else(|| rejected(Some(&SqlState::from_code(sqlstate)), message))
}

/// Postgres' own words may quote an event, so they stay out of the log; its own log has them.
pub fn log_rollback(error: &tokio_postgres::Error, message: &str) {
    warn!(sqlstate = error.code().map(SqlState::code), "{message}");
}

/// An error that is not one of the extension. The text of a plain `raise exception` is meant for the client. Every other text
/// is from Postgres, and may reveal contents of the database.
fn rejected(code: Option<&SqlState>, message: &str) -> PushError {
    match code {
        Some(code) if *code == SqlState::RAISE_EXCEPTION => PushError::Rejected(Denied::new(Reason::Hook, message)),
        Some(code) if Retry::after(code).may_pass() => PushError::Unavailable,
        Some(code) => refused_by_database(code),
        // A retry would not help. Whether the batch is in the log is not known: it may be repeated.
        None => {
            let text = "the server cannot read the answer of its database: ask its operator";
            PushError::Rejected(Denied::new(Reason::Database, text))
        }
    }
}

fn refused_by_database(code: &SqlState) -> PushError {
    let text = format!("the database rejected the batch (SQLSTATE {})", code.code());
    PushError::Rejected(Denied::new(Reason::Database, text))
}

fn lacks_something(code: &SqlState) -> bool {
    Retry::after(code) == Retry::WhenMended
}

/// The error of a whole transaction. LS005 is then of something that the application does at its end, in a deferred trigger for example.
impl From<&tokio_postgres::Error> for PushError {
    fn from(error: &tokio_postgres::Error) -> Self {
        if let Some(code) = error.code().filter(|code| is_elsewhere(code)) {
            return refused_by_database(code);
        }
        rejected(error.code(), error.as_db_error().map_or("", |error| error.message()))
    }
}

impl From<&tokio_postgres::Error> for Failed {
    fn from(error: &tokio_postgres::Error) -> Self {
        let lacks_something = error.code().is_some_and(lacks_something);
        Self { error: error.into(), lacks_something, is_elsewhere: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages that are Postgres' own, and the same for everybody, depend on nothing that they quote.
    #[test]
    fn fuzz_push_error() {
        fuzzing::text_target!("push_error", |text| {
            let mut lines = text.splitn(3, '\n');
            let [sqlstate, message, detail] = std::array::from_fn(|_| lines.next().unwrap_or_default());
            let error = format!("{:?}", push_error(sqlstate, message, detail));
            let is_for_clients = ["LS003", "P0001"].contains(&sqlstate);
            assert!(is_for_clients || error == format!("{:?}", push_error(sqlstate, "another", detail)), "{error}");
        });
    }
}
