//! Reading a log from Postgres, a page at a time.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_postgres::Row;
use tracing::{Instrument, debug_span, warn};

use super::event::{Event, EventFields};
use super::store_id::StoreId;
use crate::postgres::{Backoff, Database, DatabaseError};

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
}

impl Page {
    /// How many events are known to follow: exact if sequence numbers have no gaps.
    pub fn remaining(&self) -> i64 {
        self.events.last().map_or(0, |last| (self.head - last.seq_num).max(0))
    }
}

/// One statement, one snapshot: the events belong to the backend id and the head beside them.
const PULL: &str = "\
    select log.head, log.backend_id, e.seq_num, e.parent_seq_num, e.name, e.args::text, e.client_id, e.session_id, e.created_at
    from (select livestore.head($1) as head, livestore.backend_id($1) as backend_id offset 0) log
    left join livestore.pull_page($1, $2, $3, $4) e on true
    order by e.seq_num";

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
    let statement = client.prepare_cached(PULL).await?;
    let span = debug_span!(
        "sql",
        otel.name = "livestore.pull_page",
        otel.kind = "client",
        db.system.name = "postgresql",
        after
    );
    let rows = client.query(&statement, &[&store.as_str(), &after, &events, &PAGE_BYTES]).instrument(span).await?;
    let first = rows.first().ok_or(DatabaseError::Busy)?;
    let (head, backend_id) = (first.try_get("head")?, first.try_get::<_, &str>("backend_id")?.into());
    let events = rows.iter().filter_map(|row| event(row).transpose()).collect::<Result<_, _>>()?;
    Ok(Page { events, head, backend_id })
}

/// `None` for the row of an empty page.
fn event(row: &Row) -> Result<Option<Arc<Event>>, tokio_postgres::Error> {
    let Some(seq_num) = row.try_get("seq_num")? else {
        return Ok(None);
    };
    let args: Option<&str> = row.try_get("args")?;
    let fields = EventFields {
        name: Cow::Borrowed(row.try_get("name")?),
        // What Postgres holds as json is JSON; should it not be, an event without args is what every client survives.
        args: args.and_then(|args| serde_json::from_str::<&RawValue>(args).ok()),
        seq_num,
        parent_seq_num: row.try_get("parent_seq_num")?,
        client_id: Cow::Borrowed(row.try_get("client_id")?),
        session_id: Cow::Borrowed(row.try_get("session_id")?),
    };
    Ok(Some(Arc::new(fields.appended_at(row.try_get("created_at")?))))
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
