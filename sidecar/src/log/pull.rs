//! Reading a log from Postgres, a page at a time.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type, accepts};
use tracing::{Instrument, debug_span, warn};

use super::event::{Event, StoredEvent};
use super::store_id::StoreId;
use crate::budget::Share;
use crate::postgres::{Backoff, Database, DatabaseError, PoolClient};

/// The bounds of a page. A page ends with the event that reaches one of them.
pub const PAGE_EVENTS: i32 = 1000;
pub const PAGE_BYTES: i32 = 1_000_000;

/// How often a database that stays away is mentioned in the log.
const WARN_EVERY: u32 = 8;

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
        let page = read(&rows)?;
        if events > 0 && page.events.is_empty() && page.head > after {
            return Err(DatabaseError::EventsMissing { after, head: page.head });
        }
        Ok(page)
    }
    .instrument(span)
    .await
}

fn read(rows: &[Row]) -> Result<Page, DatabaseError> {
    let first = rows.first().ok_or(DatabaseError::Busy)?;
    let (head, backend_id) = (first.try_get(0)?, first.try_get::<_, &str>(1)?.into());
    let events: Vec<_> = rows.iter().filter_map(|row| event(row).transpose()).collect::<Result<_, _>>()?;
    // SQL says nothing of the order in which the rows of a function come, although there is but one in which these can.
    if !events.is_sorted_by(|one, next| one.seq_num < next.seq_num) {
        return Err(DatabaseError::Busy);
    }
    Ok(Page { events, head, backend_id, share: None })
}

/// `json` as it is stored.
struct Json<'a>(&'a str);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?))
    }

    accepts!(JSON);
}

/// `None` for the row of an empty page.
fn event(row: &Row) -> Result<Option<Arc<Event>>, tokio_postgres::Error> {
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
    Ok(Some(Arc::new(event.appended_at(row.try_get(8)?))))
}

/// Tries until the database answers: a client whose pull fails stops syncing for good, so a pull waits instead. Drop the
/// future to stop waiting.
pub async fn patiently<T, F: Future<Output = Result<T, DatabaseError>>>(mut attempt: impl FnMut() -> F) -> T {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                if backoff.attempts().is_multiple_of(WARN_EVERY) {
                    warn!(error = &error as &dyn std::error::Error, "a read waits for the database");
                }
                backoff.sleep().await;
            }
        }
    }
}
