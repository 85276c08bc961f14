//! Pages of events, with filters.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::{Inspection, ReadError};
use crate::log::read::prefetch::Prefetch;
use crate::log::read::subscription::Subscription;
use crate::log::store_id::StoreId;
use crate::postgres::Unreadable;

/// Events on a page.
pub const PAGE: i64 = 200;

/// The most of the args of an event that a page has, in characters.
pub const ARGS_CHARACTERS: i32 = 2000;

/// The most of a name or an id that a page has, in characters: clients choose them, and they may be as long as an event.
pub const NAME_CHARACTERS: usize = 300;

/// The beginning of a name or an id.
pub fn shortened_name(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARACTERS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// An event as a page shows it.
#[derive(Debug)]
pub struct InspectedEvent {
    pub seq_num: i64,
    pub parent_seq_num: i64,
    pub name: String,
    /// The beginning of `args`, as JSON.
    pub args: Option<String>,
    pub has_all_args: bool,
    pub client_id: String,
    pub session_id: String,
    pub created_at: DateTime<Utc>,
}

impl InspectedEvent {
    /// An event of which only the args are known, in whole.
    pub fn with_args(args: Option<String>) -> Self {
        let most = ARGS_CHARACTERS.unsigned_abs() as usize;
        let end = args.as_ref().and_then(|args| args.char_indices().nth(most)).map(|(end, _)| end);
        let shown = args.map(|mut args| {
            args.truncate(end.unwrap_or(args.len()));
            args
        });
        Self {
            seq_num: 0,
            parent_seq_num: 0,
            name: String::new(),
            args: shown,
            has_all_args: end.is_none(),
            client_id: String::new(),
            session_id: String::new(),
            created_at: DateTime::UNIX_EPOCH,
        }
    }
}

/// The events that are wanted: all that is given applies.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub name: Option<String>,
    pub client_id: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    pub fn takes(&self, event: &InspectedEvent) -> bool {
        self.name.as_ref().is_none_or(|name| *name == event.name)
            && self.client_id.as_ref().is_none_or(|client| *client == event.client_id)
            && self.since.is_none_or(|since| since <= event.created_at)
            && self.until.is_none_or(|until| event.created_at < until)
    }
}

/// From where on events are read.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Those before this number, the newest first.
    Before(i64),
    /// Those after this number, the newest first, too: the page ends with the event that follows it.
    After(i64),
}

impl Inspection {
    /// A page of events, the newest first. A filter may have to look through many events: Postgres stops that after 5 s.
    pub async fn events(
        &self,
        store: &StoreId,
        order: Order,
        filter: &Filter,
    ) -> Result<Vec<InspectedEvent>, ReadError> {
        let (comparison, direction, from) = match order {
            Order::Before(before) => ("<", "desc", before),
            Order::After(after) => (">", "asc", after),
        };
        // Of the table, not of the view: a join would have to be sorted.
        let sql = format!(
            "select e.\"seqNum\", e.\"parentSeqNum\", left(e.name, 301), left(e.args::text, $7),
                 char_length(e.args::text) <= $7, left(e.\"clientId\", 301), left(e.\"sessionId\", 301), e.\"createdAt\"
             from livestore.eventlog_1 e
             where e.store = (select s.id from livestore.stores s where s.store_id = $1) and e.\"seqNum\" {comparison} $2
                 and ($3::text is null or e.name = $3) and ($4::text is null or e.\"clientId\" = $4)
                 and ($5::timestamptz is null or e.\"createdAt\" >= $5) and ($6::timestamptz is null or e.\"createdAt\" < $6)
             order by e.\"seqNum\" {direction} limit $8"
        );
        let Filter { name, client_id, since, until } = filter;
        let rows = self
            .rows(
                &sql,
                vec![
                    Box::new(store.as_str().to_owned()),
                    Box::new(from),
                    Box::new(name.clone()),
                    Box::new(client_id.clone()),
                    Box::new(*since),
                    Box::new(*until),
                    Box::new(ARGS_CHARACTERS),
                    Box::new(PAGE),
                ],
            )
            .await?;
        let mut events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        if let Order::After(_) = order {
            events.reverse();
        }
        Ok(events)
    }

    /// All of the args of an event, as JSON, if there is such an event; `None` within, if it has none.
    pub async fn args(&self, store: &StoreId, seq_num: i64) -> Result<Option<Option<String>>, ReadError> {
        let sql = "select e.args::text from livestore.eventlog_1 e
             where e.store = (select s.id from livestore.stores s where s.store_id = $1) and e.\"seqNum\" = $2";
        let rows = self.rows(sql, vec![Box::new(store.as_str().to_owned()), Box::new(seq_num)]).await?;
        rows.first().map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// Follows the log of a store, as clients do. Waits while the database is away.
    pub async fn follow(&self, store: &StoreId, after: i64) -> Result<Subscription, Unreadable> {
        let account = self.0.memory.connection();
        let prefetch = Prefetch::new(Arc::clone(&self.0.shards), store.clone(), account);
        Ok(Subscription::begin(Some(after), prefetch).await?.at_once())
    }
}

fn event(row: &Row) -> Result<InspectedEvent, ReadError> {
    Ok(InspectedEvent {
        seq_num: row.try_get(0)?,
        parent_seq_num: row.try_get(1)?,
        name: shortened_name(row.try_get(2)?),
        args: row.try_get(3)?,
        has_all_args: row.try_get::<_, Option<bool>>(4)?.unwrap_or(true),
        client_id: shortened_name(row.try_get(5)?),
        session_id: shortened_name(row.try_get(6)?),
        created_at: row.try_get(7)?,
    })
}
