//! Pages of events, with filters.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::{Inspection, Parameter, ReadError};
use crate::log::read::prefetch::Prefetch;
use crate::log::read::subscription::Subscription;
use crate::log::store_id::StoreId;
use crate::postgres::Unreadable;

/// Events on a page.
pub const PAGE: i32 = 200;

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

/// The time after which a page with a filter is shown as far as it is: less than what `livestore.reset_store` waits for a reader.
const SECONDS: f64 = 1.5;

/// From where on events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those before this number, the newest first.
    Before(i64),
    /// Those after this number, the newest first, too: the page ends with the event that follows it.
    After(i64),
}

/// A page of events, the newest first.
#[derive(Debug)]
pub struct EventPage {
    pub events: Vec<InspectedEvent>,
    pub order: Order,
    /// The last event that was looked at, if the time was over before the page was full.
    pub stopped_at: Option<i64>,
}

impl EventPage {
    /// The number before which older events may follow.
    pub fn older(&self) -> Option<i64> {
        let oldest = self.events.last().map(|event| event.seq_num);
        let is_full = self.events.len() >= PAGE as usize;
        let older = match self.order {
            Order::Before(_) => self.stopped_at.or(oldest.filter(|_| is_full)),
            Order::After(after) => Some(oldest.unwrap_or(after.saturating_add(1))),
        };
        older.filter(|older| *older > 1)
    }

    /// The number after which newer events may follow.
    pub fn newer(&self) -> i64 {
        let newest = self.events.first().map(|event| event.seq_num);
        match self.order {
            Order::Before(before) => newest.unwrap_or(before.saturating_sub(1)),
            Order::After(after) => self.stopped_at.or(newest).unwrap_or(after),
        }
    }
}

impl Inspection {
    /// A page of events. A filter may have to look through many events: after a while, the page ends with those that were found.
    pub async fn events(&self, store: &StoreId, order: Order, filter: &Filter) -> Result<EventPage, ReadError> {
        let (is_backward, from) = match order {
            Order::Before(before) => (true, before),
            Order::After(after) => (false, after),
        };
        let sql = "select e.seq_num, e.parent_seq_num, e.name, e.args, e.has_all_args, e.client_id, e.session_id, e.created_at
             from livestore.inspect_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) e";
        let Filter { name, client_id, since, until } = filter;
        let rows = self
            .rows(
                sql,
                vec![
                    Box::new(store.as_str().to_owned()),
                    Box::new(from),
                    Box::new(is_backward),
                    Box::new(name.clone()),
                    Box::new(client_id.clone()),
                    Box::new(*since),
                    Box::new(*until),
                    // One more, by which the beginning of a name is told from a whole one.
                    Box::new(NAME_CHARACTERS as i32 + 1),
                    Box::new(ARGS_CHARACTERS),
                    Box::new(PAGE),
                    Box::new(SECONDS),
                ],
            )
            .await?;
        let (mut events, mut stopped_at) = (Vec::with_capacity(rows.len()), None);
        for row in &rows {
            if row.try_get::<_, Option<&str>>(2)?.is_none() {
                stopped_at = row.try_get(0)?;
                continue;
            }
            let event = event(row)?;
            events.push(InspectedEvent { name: shortened_name(&event.name), ..event });
        }
        if !is_backward {
            events.reverse();
        }
        Ok(EventPage { events, order, stopped_at })
    }

    /// An event, with all of its name and args.
    pub async fn event(&self, store: &StoreId, seq_num: i64) -> Result<Option<InspectedEvent>, ReadError> {
        let sql =
            "select e.seq_num, e.parent_seq_num, e.name, e.args::text, true, e.client_id, e.session_id, e.created_at
             from livestore.pull_page($1, $2, 1, 2147483647) e where e.seq_num = $3";
        let before = seq_num.saturating_sub(1);
        let parameters: Vec<Parameter> = vec![Box::new(store.as_str().to_owned()), Box::new(before), Box::new(seq_num)];
        self.rows(sql, parameters).await?.first().map(event).transpose()
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
        name: row.try_get(2)?,
        args: row.try_get(3)?,
        has_all_args: row.try_get::<_, Option<bool>>(4)?.unwrap_or(true),
        client_id: shortened_name(row.try_get(5)?),
        session_id: shortened_name(row.try_get(6)?),
        created_at: row.try_get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_on_from_where_the_search_has_stopped() {
        let full: Vec<i64> = (801..=1000).rev().collect();
        for (order, numbers, stopped_at, older, newer) in [
            (Order::Before(i64::MAX), &full[..], None, Some(801), 1000),
            (Order::Before(i64::MAX), &[900, 800], Some(500), Some(500), 900),
            (Order::Before(500), &[], Some(300), Some(300), 499),
            (Order::Before(300), &[7], None, None, 7),
            (Order::Before(9), &[7], Some(1), None, 7),
            (Order::After(7), &[], Some(100), Some(8), 100),
            (Order::After(100), &[120], None, Some(120), 120),
            (Order::After(120), &[], None, Some(121), 120),
        ] {
            let event = |&seq_num: &i64| InspectedEvent { seq_num, ..InspectedEvent::with_args(None) };
            let page = EventPage { events: numbers.iter().map(event).collect(), order, stopped_at };
            assert_eq!((page.older(), page.newer()), (older, newer), "{page:?}");
        }
    }
}
