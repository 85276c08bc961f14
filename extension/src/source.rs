//! Reading a log that is imported; declared in `sql/functions/65_import.sql`. Tables and views of others bring functions of
//! others, which must not run as a superuser who imports: then it is read as the owner of the table or view.

use std::mem::ManuallyDrop;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

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
        // It stays open, and is not closed while an error is on its way.
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
