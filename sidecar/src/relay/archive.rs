//! Events of the peer relay in the log of a store (`--relay-store`), in the form that its devices know.

use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::ToSql;

use crate::log::{Context, Denied, Malformed, Origin, OverLimit, PgText, PushError, Reader, StoreId, StoreLog};
use crate::postgres::{ANSWER_TIMEOUT, Backoff, Database, DatabaseError, Unreadable, is_elsewhere};

/// The bounds of a page.
const PAGE_EVENTS: i32 = 100;
const PAGE_BYTES: i32 = 1_000_000;

/// Connections that may append at once. Appends to one store wait for each other: they shall not take all connections from readers.
static CONNECTIONS: Semaphore = Semaphore::const_new(2);

/// The time for which an append keeps its connection. A device is answered long before. An append that waits for a standby goes on when
/// its connection is closed, so that each try would leave one more process of Postgres behind; a pooler may have lost the answer for good.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

const APPEND: &str = "select livestore.relay_append($1, $2, $3, $4, $5, $6, $7, $8)";
const PAGE: &str = "\
    select max(seq_num) as last, coalesce(json_agg(event order by seq_num), '[]')::text as events, livestore.head($1) as head
    from livestore.relay_page($1, $2, $3, $4)";

/// An event as devices know it. What is JSON is as the device sent it.
pub struct ArchivedEvent<'a> {
    pub name: &'a str,
    pub data: Option<&'a RawValue>,
    pub client_id: &'a str,
    pub session_id: &'a str,
    pub number: Option<&'a RawValue>,
    pub timestamp: &'a RawValue,
}

impl ArchivedEvent<'_> {
    fn check_texts(&self) -> Result<(), Malformed> {
        let texts = [("eventName", self.name), ("clientId", self.client_id), ("sessionId", self.session_id)];
        texts.into_iter().try_for_each(|(what, text)| PgText::check(what, text))
    }

    /// In bytes, near enough.
    fn size(&self) -> usize {
        let texts = [self.name, self.client_id, self.session_id].map(str::len);
        let jsons = [self.data, self.number, Some(self.timestamp)].map(|json| json.map_or(0, |json| json.get().len()));
        texts.into_iter().chain(jsons).sum()
    }
}

/// Some events, in order.
pub struct Page {
    /// A JSON array.
    pub events: Box<RawValue>,
    pub has_more: bool,
}

/// The events from a moment on, page by page.
pub struct Pages {
    reader: Reader,
    after: i64,
    /// The head of the log at the beginning.
    head: i64,
    /// The time that a page waits for the database.
    patience: Duration,
}

/// Why events are not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the database is not available, try again later")]
    Unavailable,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Appends events, those that the log does not have. Returns after the commit.
pub async fn append(log: &StoreLog, events: &[ArchivedEvent<'_>]) -> Result<(), PushError> {
    let appended = timeout(log.patience(), append_in_time(log, events)).await.unwrap_or(Err(PushError::Unavailable));
    let origin = events.first().map(|event| Origin { name: event.name.into(), client_id: event.client_id.into() });
    log.answered(&origin.unwrap_or_default(), appended.as_ref().map(drop));
    appended
}

async fn append_in_time(log: &StoreLog, events: &[ArchivedEvent<'_>]) -> Result<(), PushError> {
    let sizes = events.iter().map(ArchivedEvent::size);
    log.check_sizes(sizes.clone())?;
    events.iter().try_for_each(ArchivedEvent::check_texts).map_err(|error| PushError::Invalid(error.into()))?;
    let writer = log.writer_of(sizes.sum(), OverLimit::Wait).await?;
    let append = async || {
        let connection = CONNECTIONS.acquire().await.map_err(|_| PushError::Unavailable)?;
        let database = writer.database();
        let client = database.client().await.map_err(|_| PushError::Unavailable)?;
        let arguments = Arguments::new(log.id(), events, writer.context());
        // A task of its own waits for the end, also if the device leaves or connects again: Postgres would go on, and a device could have it
        // carry out any number at once.
        let appending = tokio::spawn(async move {
            let _connection = connection;
            let start = Instant::now();
            let all = arguments.all();
            let mut appending = pin!(client.writing().run(client.execute(APPEND, &all)));
            loop {
                match timeout(ANSWER_TIMEOUT, &mut appending).await {
                    // A server that was given up may wait for a standby that was promoted.
                    Err(late) if start.elapsed() > COMMIT_TIMEOUT || !database.is_current(client.server()) => {
                        return Err(late);
                    }
                    Err(_) => {}
                    appended => return appended,
                }
            }
        });
        appending.await.map_err(|_| PushError::Unavailable)?.map_err(|_| PushError::Unavailable)
    };
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match append().await? {
            // It is refused everywhere while it moves.
            Err(error) if error.code().is_some_and(is_elsewhere) => {}
            appended => return appended.map(drop).map_err(|error| PushError::from(&error)),
        }
        writer.look_anew().await;
        backoff.sleep().await;
    }
}

/// Copies of what Postgres is given.
struct Arguments {
    store: String,
    names: Vec<String>,
    data: Vec<Option<String>>,
    client_ids: Vec<String>,
    session_ids: Vec<String>,
    numbers: Vec<Option<String>>,
    timestamps: Vec<String>,
    context: String,
}

impl Arguments {
    fn new(store: &StoreId, events: &[ArchivedEvent<'_>], context: &Context) -> Self {
        let text = |json: Option<&RawValue>| json.map(|json| json.get().to_owned());
        Self {
            store: store.as_str().into(),
            names: events.iter().map(|event| event.name.into()).collect(),
            data: events.iter().map(|event| text(event.data)).collect(),
            client_ids: events.iter().map(|event| event.client_id.into()).collect(),
            session_ids: events.iter().map(|event| event.session_id.into()).collect(),
            numbers: events.iter().map(|event| text(event.number)).collect(),
            timestamps: events.iter().map(|event| event.timestamp.get().into()).collect(),
            context: context.json().into(),
        }
    }

    fn all(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.store,
            &self.names,
            &self.data,
            &self.client_ids,
            &self.session_ids,
            &self.numbers,
            &self.timestamps,
            &self.context,
        ]
    }
}

/// The events that were appended from a moment on.
pub async fn since(log: &StoreLog, moment: DateTime<Utc>) -> Result<Pages, ReadError> {
    let patience = log.patience();
    timeout(patience, async {
        let reader = log.reader().await?;
        let (after, head) = (reader.last_before(moment).await?, reader.end().await?.head);
        Ok(Pages { reader, after, head, patience })
    })
    .await
    .unwrap_or(Err(ReadError::Unavailable))
}

impl Pages {
    /// The next page, which may be empty.
    pub async fn next(&mut self) -> Result<Page, ReadError> {
        let (reader, after) = (&self.reader, self.after);
        let page = |database: Database| async move {
            let client = database.client().await?;
            let id = reader.id().as_str();
            let arguments: [&(dyn ToSql + Sync); 4] = [&id, &after, &PAGE_EVENTS, &PAGE_BYTES];
            let row = client.read_in_time(client.query_one(PAGE, &arguments)).await??;
            let events = RawValue::from_string(row.try_get("events")?);
            let events = events.map_err(|error| DatabaseError::Unreadable(error.to_string()))?;
            let (last, head): (Option<i64>, i64) = (row.try_get("last")?, row.try_get("head")?);
            if last.is_none() && head > after {
                return Err(DatabaseError::EventsMissing { after, head });
            }
            Ok((events, last))
        };
        let page = timeout(self.patience, reader.read(page)).await.map_err(|_| ReadError::Unavailable)?;
        let (events, last) = page?;
        self.after = last.unwrap_or(after);
        Ok(Page { events, has_more: last.is_some_and(|last| last < self.head) })
    }
}
