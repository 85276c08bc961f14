//! Reading a log from Postgres, a page at a time.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio_postgres::Row;
use tracing::{Instrument, debug_span, error, warn};

use super::events::Events;
use super::stored::{Malformed, Stored, StoredEvents};
use crate::limits::memory::Share;
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, PoolClient};
use crate::telemetry::chain;
use crate::telemetry::log_throttle::LogThrottle;

/// The bounds of a page. A page ends with the event that reaches one of them.
pub const PAGE_EVENTS: i32 = 1000;
pub const PAGE_BYTES: i32 = 1_000_000;

/// The interval at which an event that is stored wrong is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// The number of such events that are told apart.
const MENTIONED: usize = 1000;

/// Events of a log after some sequence number, all of one moment.
#[derive(Debug, Clone)]
pub struct Page {
    pub events: Events,
    /// The head of the log at that moment: the page is the last one if it reaches it.
    pub head: i64,
    /// The life of the log that the events belong to.
    pub backend_id: Arc<str>,
    /// The memory that the events take, and what is made of them.
    pub share: Option<Arc<Share>>,
}

impl Page {
    /// The number of events that are known to follow: exact if sequence numbers have no gaps.
    pub fn remaining(&self) -> i64 {
        self.events.last().map_or(0, |last| (self.head - last.seq_num).max(0))
    }
}

/// One statement, one snapshot: the events belong to the backend id and the head beside them.
const READ_PAGE: &str = "select head, backend_id, events from livestore.read_page($1, $2, $3, $4)";

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

/// The page after `after` from a standby, if one has it and other events follow there: only such a page is the same on all servers. `None`:
/// the primary has to be read.
pub async fn pull_from_standby(database: &Database, store: &StoreId, after: i64) -> Option<Page> {
    let (client, standby) = database.standby().await?;
    match client.read_in_time(read_page(&client, store, after, PAGE_EVENTS)).await.and_then(|page| page) {
        Ok(page) => (!page.events.is_empty() && page.remaining() > 0).then_some(page),
        Err(DatabaseError::EventsMissing { .. } | DatabaseError::UnreadableEvent { .. }) => None,
        Err(error) => {
            standby.failed(error);
            None
        }
    }
}

/// The same as [`status`] on this connection.
pub async fn read_status(client: &PoolClient, store: &StoreId) -> Result<Page, DatabaseError> {
    read_page(client, store, 0, 0).await
}

async fn page(database: &Database, store: &StoreId, after: i64, events: i32) -> Result<Page, DatabaseError> {
    let client = database.client().await?;
    client.read_in_time(read_page(&client, store, after, events)).await?
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
        let row = client.query_one(&read_page, &[&store.as_str(), &after, &events, &PAGE_BYTES]).await?;
        let page = read(store, &row)?;
        if events > 0 && page.events.is_empty() && page.head > after {
            return Err(DatabaseError::EventsMissing { after, head: page.head });
        }
        Ok(page)
    }
    .instrument(span)
    .await
}

fn read(store: &StoreId, row: &Row) -> Result<Page, DatabaseError> {
    let (head, backend_id) = (row.try_get(0)?, row.try_get::<_, &str>(1)?.into());
    let mut stored = StoredEvents::new(row.try_get(2)?);
    let mut events: Vec<Arc<Event>> = Vec::new();
    loop {
        let seq_num = stored.seq_num();
        match stored.next() {
            Ok(Some(Stored { event, is_out_of_time })) => {
                if is_out_of_time {
                    mention_time(store, event.seq_num);
                }
                events.push(Arc::new(event));
            }
            Ok(None) => break,
            // The events before it can be read.
            Err(_) if !events.is_empty() => break,
            Err(problem) => return Err(unreadable(store, seq_num, &problem)),
        }
    }
    if !events.is_sorted_by(|one, next| one.seq_num < next.seq_num) {
        return Err(DatabaseError::Unreadable("the events of a page are not in order".into()));
    }
    Ok(Page { events: events.into(), head, backend_id, share: None })
}

/// Tells the operator of an event that stops everybody who reads its store.
fn unreadable(store: &StoreId, seq_num: Option<i64>, problem: &Malformed) -> DatabaseError {
    static SAID: LazyLock<LogThrottle<(StoreId, Option<i64>)>> =
        LazyLock::new(|| LogThrottle::new(MENTION_EVERY, MENTIONED));
    if let Some(suppressed) = SAID.suppressed((store.clone(), seq_num)) {
        error!(
            ?store,
            seq_num,
            error = %chain(problem),
            suppressed,
            "an event cannot be read: nobody gets what follows it, until its row in the event log is fixed"
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
