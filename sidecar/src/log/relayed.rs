//! Events of the peer relay in the log of a store (`--relay-store`), in the form that its devices know.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;

use super::access::authorize::Action;
use super::access::store::StoreLog;
use super::error::{Denied, PushError};
use super::event::Origin;
use super::text::PgText;
use super::write::outcome::rejected;
use crate::postgres::{DatabaseError, Unreadable, retry_until_available};

/// The bounds of a page.
const PAGE_EVENTS: i32 = 100;
const PAGE_BYTES: i32 = 1_000_000;

const APPEND: &str = "select livestore.relay_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const PAGE: &str = "\
    select max(seq_num) as last, coalesce(json_agg(event order by seq_num), '[]')::text as events, livestore.head($1) as head
    from livestore.relay_page($1, $2, $3, $4)";

/// An event as devices know it. What is JSON is as the device sent it.
pub struct RelayedEvent<'a> {
    pub name: &'a str,
    pub data: Option<&'a RawValue>,
    pub client_id: &'a str,
    pub session_id: &'a str,
    pub number: Option<&'a RawValue>,
    pub timestamp: &'a RawValue,
}

impl RelayedEvent<'_> {
    fn check_texts(&self) -> Result<(), String> {
        let texts = [("eventName", self.name), ("clientId", self.client_id), ("sessionId", self.session_id)];
        texts.into_iter().try_for_each(|(what, text)| PgText::check(what, text))
    }

    /// In bytes, near enough.
    fn size(&self) -> usize {
        self.name.len() + self.data.map_or(0, |data| data.get().len()) + self.client_id.len() + self.session_id.len()
    }
}

/// Some events, in order.
pub struct RelayedPage {
    /// A JSON array.
    pub events: Box<RawValue>,
    /// The sequence number of the last; `None`: there are no more.
    pub last: Option<i64>,
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

impl StoreLog {
    /// Appends events, those that the log does not have. Returns after the commit.
    ///
    /// # Errors
    /// As for other pushes.
    pub async fn append_relayed(&self, events: &[RelayedEvent<'_>]) -> Result<(), PushError> {
        let appended = timeout(self.patience(), async {
            let sizes = events.iter().map(RelayedEvent::size);
            self.limits().check_sizes(sizes.clone())?;
            events.iter().try_for_each(RelayedEvent::check_texts).map_err(PushError::Invalid)?;
            self.authorize(Action::Push).await.map_err(PushError::Rejected)?;
            self.limits().stores.wait(self.id(), sizes.sum()).await;
            // Pushes of one store wait for each other: they shall not take all connections from those who read.
            let _turn = self.relay_turn().await.ok_or(PushError::Unavailable)?;
            let client = self.database().client().await.map_err(|_| PushError::Unavailable)?;
            let names: Vec<_> = events.iter().map(|event| event.name).collect();
            let data: Vec<_> = events.iter().map(|event| event.data.map(RawValue::get)).collect();
            let client_ids: Vec<_> = events.iter().map(|event| event.client_id).collect();
            let session_ids: Vec<_> = events.iter().map(|event| event.session_id).collect();
            let numbers: Vec<_> = events.iter().map(|event| event.number.map(RawValue::get)).collect();
            let timestamps: Vec<_> = events.iter().map(|event| event.timestamp.get()).collect();
            let (payload, headers, claims) =
                (self.context().payload(), self.context().headers(), self.context().claims());
            let arguments: [&(dyn ToSql + Sync); 10] = [
                &self.id().as_str(),
                &names,
                &data,
                &client_ids,
                &session_ids,
                &numbers,
                &timestamps,
                &payload,
                &headers,
                &claims,
            ];
            match client.in_time(client.execute(APPEND, &arguments)).await.map_err(|_| PushError::Unavailable)? {
                Ok(_) => Ok(()),
                Err(error) => Err(rejected(error.code(), error.as_db_error().map_or("", |error| error.message()))),
            }
        })
        .await
        .unwrap_or(Err(PushError::Unavailable));
        let origin = events.first().map(|event| Origin { name: event.name.into(), client_id: event.client_id.into() });
        self.answered(&origin.unwrap_or_default(), appended.as_ref().map(drop));
        appended
    }

    /// The sequence number after which to read what was appended from a moment on, and the head of the log.
    ///
    /// # Errors
    /// Not allowed, or the database is away.
    pub async fn relayed_since(&self, moment: DateTime<Utc>) -> Result<(i64, i64), ReadError> {
        timeout(self.patience(), async {
            self.may_pull().await?;
            Ok((self.last_before(moment).await?, self.end().await?.head))
        })
        .await
        .unwrap_or(Err(ReadError::Unavailable))
    }

    /// The events after a sequence number.
    ///
    /// # Errors
    /// The database is away.
    pub async fn relayed_page(&self, after: i64) -> Result<RelayedPage, ReadError> {
        let page = async || {
            let client = self.database().client().await?;
            let id = self.id().as_str();
            let arguments: [&(dyn ToSql + Sync); 4] = [&id, &after, &PAGE_EVENTS, &PAGE_BYTES];
            let row = client.in_time(client.query_one(PAGE, &arguments)).await??;
            let events = RawValue::from_string(row.try_get("events")?);
            let events = events.map_err(|error| DatabaseError::Unreadable(error.to_string()))?;
            let (last, head): (Option<i64>, i64) = (row.try_get("last")?, row.try_get("head")?);
            if last.is_none() && head > after {
                return Err(DatabaseError::EventsMissing { after, head });
            }
            Ok(RelayedPage { events, last })
        };
        let page = timeout(self.patience(), retry_until_available(page)).await.map_err(|_| ReadError::Unavailable)?;
        Ok(page?)
    }
}
