//! Durable subscriptions and their dead letters.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::{Inspection, ReadError};

/// Subscriptions, and dead letters, that a page lists.
const MOST: i64 = 200;

/// A row of `livestore.subscriptions`.
#[derive(Debug)]
pub struct InspectedSubscription {
    pub name: String,
    pub position: i64,
    pub lag_events: i64,
    pub lag_seconds: f64,
    pub failures: i64,
    pub error: Option<String>,
    pub dead_letters: i64,
    pub polled_at: Option<DateTime<Utc>>,
}

/// A row of `livestore.inspect_dead_letters`.
#[derive(Debug)]
pub struct DeadLetter {
    pub id: i64,
    pub subscription: String,
    pub store_id: String,
    pub seq_num: Option<i64>,
    pub name: Option<String>,
    pub failures: i32,
    pub error: Option<String>,
    pub failed_at: DateTime<Utc>,
    pub is_queued: bool,
}

impl Inspection {
    pub async fn subscriptions(&self) -> Result<Vec<InspectedSubscription>, ReadError> {
        let sql = "select s.name, s.position, s.lag_events, s.lag_seconds, s.failures, left(s.error, 500), s.dead_letters, s.polled_at
             from livestore.subscriptions s order by s.name collate \"C\" limit $1";
        let subscription = |row: &Row| {
            Ok(InspectedSubscription {
                name: row.try_get(0)?,
                position: row.try_get::<_, Option<_>>(1)?.unwrap_or_default(),
                lag_events: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
                lag_seconds: row.try_get::<_, Option<_>>(3)?.unwrap_or_default(),
                failures: row.try_get::<_, Option<_>>(4)?.unwrap_or_default(),
                error: row.try_get(5)?,
                dead_letters: row.try_get(6)?,
                polled_at: row.try_get(7)?,
            })
        };
        self.rows(sql, vec![Box::new(MOST)]).await?.iter().map(subscription).collect()
    }

    /// The latest dead letters.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, ReadError> {
        let sql =
            "select d.id, d.subscription, d.store_id, d.seq_num, d.name, d.failures, d.error, d.failed_at, d.is_queued
             from livestore.inspect_dead_letters($1) d order by d.id desc";
        let letter = |row: &Row| {
            Ok(DeadLetter {
                id: row.try_get(0)?,
                subscription: row.try_get(1)?,
                store_id: row.try_get(2)?,
                seq_num: row.try_get(3)?,
                name: row.try_get(4)?,
                failures: row.try_get(5)?,
                error: row.try_get(6)?,
                failed_at: row.try_get(7)?,
                is_queued: row.try_get(8)?,
            })
        };
        self.rows(sql, vec![Box::new(MOST)]).await?.iter().map(letter).collect()
    }
}
