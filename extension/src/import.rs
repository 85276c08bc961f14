//! Importing the log of another backend; declared in `sql/flavours/native/import.sql`. A table or view of another role can
//! call functions of that role, for example in a view's query. They must not run as the superuser who imports, so the source
//! is then read as its owner.

use std::mem::ManuallyDrop;

use livestore_rules::plan::{Plan, Push, StoredEvent, plan};
use pgrx::Array;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use crate::append::{Event, Row, insert_with_hooks};
use crate::bounds::max_ahead;
use crate::commit_log::{self, Advance};
use crate::hook_errors::repaired;
use crate::roles::RunsAs;

/// Opens a cursor for the query, which reads the source, and returns its name.
#[pg_extern(sql = false)]
fn open_source(source: pg_sys::Oid, query: &str) -> spi::Result<String> {
    let _reader = RunsAs::owner_of_source(source)?;
    Spi::connect(|client| Ok(client.try_open_cursor(query, &[])?.detach_into_name()))
}

/// The next events of that cursor; none at its end, where it is closed.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn fetch_source(
    source: pg_sys::Oid,
    cursor: &str,
    max_events: i32,
) -> spi::Result<
    TableIterator<
        'static,
        (
            name!(seq_num, Option<i64>),
            name!(parent_seq_num, Option<i64>),
            name!(name, Option<String>),
            name!(args, Option<String>),
            name!(client_id, Option<String>),
            name!(session_id, Option<String>),
            name!(created_at, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    let _reader = RunsAs::owner_of_source(source)?;
    Spi::connect(|client| {
        // The cursor stays open for the next call. `ManuallyDrop` also keeps an unwinding error from closing it.
        let mut open = ManuallyDrop::new(client.find_cursor(cursor)?);
        let mut events = Vec::new();
        for row in open.fetch(max_events.max(1).into())? {
            events.push((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?));
        }
        if events.is_empty() {
            drop(ManuallyDrop::into_inner(open));
        }
        Ok(TableIterator::new(events))
    })
}

/// Checks a batch that should follow the event `after` of a log: the SQLSTATE, message and DETAIL of its error; null if it has none.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn check_batch(
    batch: &str,
    after: i64,
) -> TableIterator<
    'static,
    (name!(sqlstate, Option<&'static str>), name!(message, Option<String>), name!(detail, Option<String>)),
> {
    let push = Push { store: "", batch, backend_id: None, store_head: after, store_backend_id: "" };
    let verdict = match plan(&[push], Some(&Default::default()), &max_ahead) {
        Plan::Decided { verdicts, .. } => verdicts.into_iter().next(),
        Plan::Lookup(_) => None,
    };
    TableIterator::once(
        verdict.map_or((None, None, None), |verdict| (verdict.sqlstate(), verdict.message(), verdict.detail())),
    )
}

/// Inserts events into the table of a store, whose row is locked, and runs its hooks. Postgres calls it by way of
/// [`livestore_insert_events`].
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn insert_events(
    store_id: &str,
    store: i64,
    eventlog: pg_sys::Oid,
    seq_nums: Array<'_, i64>,
    parent_seq_nums: Array<'_, i64>,
    names: Array<'_, &str>,
    args: Array<'_, &str>,
    client_ids: Array<'_, &str>,
    session_ids: Array<'_, &str>,
    created_ats: Array<'_, TimestampWithTimeZone>,
) -> spi::Result<()> {
    let count = seq_nums.len();
    let others =
        [parent_seq_nums.len(), names.len(), args.len(), client_ids.len(), session_ids.len(), created_ats.len()];
    if others.iter().any(|&length| length != count) {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_ARRAY_ELEMENT_ERROR, "the arrays must have one element for each event");
    }
    let (mut names, mut args) = (names.iter(), args.iter());
    let (mut client_ids, mut session_ids) = (client_ids.iter(), session_ids.iter());
    let numbers = seq_nums.iter().zip(parent_seq_nums.iter()).zip(created_ats.iter());
    let events: Option<Vec<Event<'_>>> = numbers
        .map(|((seq_num, parent_seq_num), created_at)| {
            Some(Event {
                row: Row { id: store, eventlog },
                store: store_id,
                context: None,
                push: 0,
                seq_num: seq_num?,
                created_at: created_at?,
                content: StoredEvent {
                    parent_seq_num: parent_seq_num?,
                    name: names.next()??,
                    args: args.next()?,
                    client_id: client_ids.next()??,
                    session_id: session_ids.next()??,
                },
            })
        })
        .collect();
    let Some(events) = events else {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "an event lacks a value");
    };
    if let Some(last) = events.last() {
        let events = i32::try_from(count).unwrap_or(i32::MAX);
        commit_log::note([Advance { store, upto: last.seq_num, events }]);
    }
    Spi::connect_mut(|client| insert_with_hooks(client, &events))
}

repaired!(livestore_insert_events, insert_events_wrapper, pg_finfo_livestore_insert_events);
