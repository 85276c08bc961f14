//! Reading a log from Postgres, a page at a time.

use std::error::Error;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type, accepts};
use tracing::{Instrument, debug_span, error, warn};

use crate::limits::memory::Share;
use crate::log::event::{Event, StoredEvent};
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, PoolClient};
use crate::telemetry::log_throttle::LogThrottle;

/// The bounds of a page. A page ends with the event that reaches one of them.
pub const PAGE_EVENTS: i32 = 1000;
pub const PAGE_BYTES: i32 = 1_000_000;

/// How often an event that is stored wrong is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// How many of them are told apart.
const MENTIONED: usize = 1000;

/// Events of a log after some sequence number, all of one moment.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<Arc<Event>>,
    /// The head of the log at that moment: the page is the last one if it reaches it.
    pub head: i64,
    /// The life of the log that the events belong to.
    pub backend_id: Arc<str>,
    /// The memory that the events take, and what is made of them.
    pub share: Option<Arc<Share>>,
}

impl Page {
    /// How many events are known to follow: exact if sequence numbers have no gaps.
    pub fn remaining(&self) -> i64 {
        self.events.last().map_or(0, |last| (self.head - last.seq_num).max(0))
    }
}

/// One statement, one snapshot: the events belong to the backend id and the head beside them.
const READ_PAGE: &str = "\
    select head, backend_id, seq_num, parent_seq_num, name, args, client_id, session_id, created_at
    from livestore.read_page($1, $2, $3, $4)";

/// The page after `after`. A store that does not exist is an empty log with the backend id that it will have.
pub async fn pull(database: &Database, store: &StoreId, after: i64) -> Result<Page, DatabaseError> {
    page(database, store, after, PAGE_EVENTS).await
}

/// The first event after `after`, and where the log stands.
pub async fn next(database: &Database, store: &StoreId, after: i64) -> Result<Page, DatabaseError> {
    page(database, store, after, 1).await
}

/// The head and the backend id, without events.
pub async fn status(database: &Database, store: &StoreId) -> Result<Page, DatabaseError> {
    page(database, store, 0, 0).await
}

async fn page(database: &Database, store: &StoreId, after: i64, events: i32) -> Result<Page, DatabaseError> {
    let client = database.client().await?;
    client.in_time(read_page(&client, store, after, events)).await?
}

async fn read_page(client: &PoolClient, store: &StoreId, after: i64, events: i32) -> Result<Page, DatabaseError> {
    let span = debug_span!(
        "sql",
        otel.name = "livestore.read_page",
        otel.kind = "client",
        db.system.name = "postgresql",
        after
    );
    async {
        let read_page = client.prepare_cached(READ_PAGE).await?;
        let rows = client.query(&read_page, &[&store.as_str(), &after, &events, &PAGE_BYTES]).await?;
        let page = read(store, &rows)?;
        if events > 0 && page.events.is_empty() && page.head > after {
            return Err(DatabaseError::EventsMissing { after, head: page.head });
        }
        Ok(page)
    }
    .instrument(span)
    .await
}

fn read(store: &StoreId, rows: &[Row]) -> Result<Page, DatabaseError> {
    let first = rows.first().ok_or_else(|| DatabaseError::Unreadable("a page has no rows".into()))?;
    let (head, backend_id) = (first.try_get(0)?, first.try_get::<_, &str>(1)?.into());
    let mut events: Vec<Arc<Event>> = Vec::with_capacity(rows.len());
    for row in rows {
        match event(row) {
            Ok(Some(Stored { event, is_out_of_time })) => {
                if is_out_of_time {
                    mention_time(store, event.seq_num);
                }
                events.push(event);
            }
            Ok(None) => {}
            // What comes before it can be read.
            Err(_) if !events.is_empty() => break,
            Err(problem) => return Err(unreadable(store, row, &problem)),
        }
    }
    // SQL says nothing of the order in which the rows of a function come, although there is but one in which these can.
    if !events.is_sorted_by(|one, next| one.seq_num < next.seq_num) {
        return Err(DatabaseError::Unreadable("the events of a page are not in order".into()));
    }
    Ok(Page { events, head, backend_id, share: None })
}

/// Tells the operator of an event that stops everybody who reads its store.
fn unreadable(store: &StoreId, row: &Row, problem: &tokio_postgres::Error) -> DatabaseError {
    static SAID: LazyLock<LogThrottle<(StoreId, Option<i64>)>> =
        LazyLock::new(|| LogThrottle::new(MENTION_EVERY, MENTIONED));
    let seq_num = row.try_get(2).ok().flatten();
    if let Some(suppressed) = SAID.suppressed((store.clone(), seq_num)) {
        error!(
            ?store,
            seq_num,
            error = problem as &dyn Error,
            suppressed,
            "an event cannot be read: nobody gets what follows it, until its row in the event log is mended"
        );
    }
    DatabaseError::UnreadableEvent { seq_num, problem: problem.to_string() }
}

/// Tells the operator of events whose time cannot be told to clients.
fn mention_time(store: &StoreId, seq_num: i64) {
    static SAID: LazyLock<LogThrottle<StoreId>> = LazyLock::new(|| LogThrottle::new(MENTION_EVERY, MENTIONED));
    if let Some(suppressed) = SAID.suppressed(store.clone()) {
        warn!(
            ?store,
            seq_num,
            suppressed,
            "the \"createdAt\" of an event is outside of the years 0 to 9999: its readers are told the nearest time that can be told"
        );
    }
}

/// `json` as it is stored.
struct Json<'a>(&'a str);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?))
    }

    accepts!(JSON);
}

/// When an event was appended, within the years that every dialect can write: what is stored may be `infinity`.
struct Moment {
    at: DateTime<Utc>,
    is_out_of_time: bool,
}

impl Moment {
    /// The first and the last, in microseconds since 1970.
    const FIRST: i64 = -62_167_219_200_000_000;
    const LAST: i64 = 253_402_300_799_999_999;

    /// `microseconds` since 2000, as Postgres counts.
    fn of(microseconds: i64) -> Self {
        const EPOCH: i64 = 946_684_800_000_000;
        let since_1970 = microseconds.saturating_add(EPOCH);
        let told = since_1970.clamp(Self::FIRST, Self::LAST);
        Self { at: DateTime::from_timestamp_micros(told).unwrap_or_default(), is_out_of_time: told != since_1970 }
    }
}

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::of(i64::from_be_bytes(raw.try_into()?)))
    }

    accepts!(TIMESTAMPTZ);
}

/// A row that can be read.
struct Stored {
    event: Arc<Event>,
    is_out_of_time: bool,
}

/// `None` for the row of an empty page.
fn event(row: &Row) -> Result<Option<Stored>, tokio_postgres::Error> {
    // By position: by name would compare it with each column, for each event.
    let Some(seq_num) = row.try_get(2)? else {
        return Ok(None);
    };
    let args: Option<Json<'_>> = row.try_get(5)?;
    let event = StoredEvent {
        name: row.try_get(4)?,
        args: args.map(|Json(args)| args),
        seq_num,
        parent_seq_num: row.try_get(3)?,
        client_id: row.try_get(6)?,
        session_id: row.try_get(7)?,
    };
    let Moment { at, is_out_of_time } = row.try_get(8)?;
    Ok(Some(Stored { event: Arc::new(event.appended_at(at)), is_out_of_time }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_of_postgres_can_be_told() {
        for (microseconds, told) in [
            (0, "2000-01-01T00:00:00+00:00"),
            (i64::MAX, "9999-12-31T23:59:59.999999+00:00"),
            (i64::MIN, "0000-01-01T00:00:00+00:00"),
            // 294276-12-31 and 4713 BC.
            (9_223_371_331_199_999_999, "9999-12-31T23:59:59.999999+00:00"),
            (-211_813_488_000_000_000, "0000-01-01T00:00:00+00:00"),
        ] {
            let Moment { at, is_out_of_time } = Moment::of(microseconds);
            assert_eq!((at.to_rfc3339(), is_out_of_time), (told.into(), microseconds != 0));
        }
    }
}
