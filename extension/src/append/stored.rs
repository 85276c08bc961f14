//! Events that are in a log already.

use std::collections::BTreeMap;

use livestore_rules::plan::StoredEvent;
use livestore_rules::validation::Event;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::BuiltinOid::INT8ARRAYOID;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiTupleTable};

use super::stores::Row;
use crate::hooks::Eventlog;

pub struct StoredRow {
    /// `livestore.stores.id`.
    pub store: i64,
    pub seq_num: i64,
    pub created_at: TimestampWithTimeZone,
    parent_seq_num: i64,
    name: String,
    args: Option<String>,
    client_id: String,
    session_id: String,
}

impl StoredRow {
    pub fn event(&self) -> StoredEvent<'_> {
        StoredEvent {
            parent_seq_num: self.parent_seq_num,
            name: &self.name,
            args: self.args.as_deref(),
            client_id: &self.client_id,
            session_id: &self.session_id,
        }
    }

    /// Takes the content of another event.
    pub fn become_event(&mut self, event: &Event<'_>) {
        self.parent_seq_num = event.parent_seq_num;
        self.name = event.name.to_string();
        self.args = event.args.map(|args| args.text().to_owned());
        self.client_id = event.client_id.to_string();
        self.session_id = event.session_id.to_string();
    }
}

/// The events of these stores that have these sequence numbers, as far as there are any.
///
/// # Errors
/// Of statements.
pub fn read(client: &mut SpiClient<'_>, wanted: impl Iterator<Item = (Row, i64)>) -> spi::Result<Vec<StoredRow>> {
    let mut tables: BTreeMap<u32, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
    for (row, seq_num) in wanted {
        let (stores, seq_nums) = tables.entry(row.eventlog.to_u32()).or_default();
        stores.push(row.id);
        seq_nums.push(seq_num);
    }
    let mut found = Vec::new();
    for (eventlog, (stores, seq_nums)) in tables {
        // `only`, because without it Postgres would lock the dedicated tables of all stores, which inherit from this one, and
        // plan a scan of each.
        let text = format!(
            "select e.store, e.\"seqNum\", e.\"createdAt\", e.\"parentSeqNum\", e.name, e.args::pg_catalog.text, e.\"clientId\", e.\"sessionId\"
             from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) w(store, seq_num)
             join only {} e on e.store operator(pg_catalog.=) w.store and e.\"seqNum\" operator(pg_catalog.=) w.seq_num",
            Eventlog::name(eventlog.into())
        );
        let statement = client.prepare(text.as_str(), &[INT8ARRAYOID.into(), INT8ARRAYOID.into()])?;
        found.extend(rows(client.select(&statement, None, &[stores.into(), seq_nums.into()])?)?);
    }
    Ok(found)
}

/// Rows of store, seqNum, createdAt, parentSeqNum, name, args, clientId and sessionId.
pub fn rows(table: SpiTupleTable<'_>) -> spi::Result<Vec<StoredRow>> {
    let mut rows = Vec::with_capacity(table.len());
    for row in table {
        let (
            Some(store),
            Some(seq_num),
            Some(created_at),
            Some(parent_seq_num),
            Some(name),
            args,
            Some(client_id),
            Some(session_id),
        ) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?)
        else {
            return Err(spi::Error::InvalidPosition);
        };
        rows.push(StoredRow { store, seq_num, created_at, parent_seq_num, name, args, client_id, session_id });
    }
    Ok(rows)
}
