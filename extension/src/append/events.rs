//! Heads, and the events with their hooks.

use livestore_rules::plan::StoredEvent;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys::BuiltinOid::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiTupleTable};

use super::stored::{self, StoredRow};
use super::stores::Row;
use crate::context::Entered;
use crate::hook_errors::Watch;
use crate::hooks::Eventlog;
use crate::roles::RunsAs;
use crate::statement::Statement;

/// Returns the rows as they were inserted, where BEFORE triggers may have changed them.
macro_rules! returning {
    () => {
        " returning store, \"seqNum\", \"createdAt\", \"parentSeqNum\", name, args::pg_catalog.text, \"clientId\", \"sessionId\""
    };
}

/// Inserts events of several stores with one statement. They have one `createdAt` for all ($8, a time) or one each ($8, an
/// array).
macro_rules! insert {
    ($table:literal, $end:expr) => {
        insert!($table, "$8", "", "", $end)
    };
    ($table:literal, each at its time, $end:expr) => {
        insert!($table, "e.created_at", ", pg_catalog.unnest($8)", ", created_at", $end)
    };
    ($table:literal, $created_at:literal, $created_ats:literal, $column:literal, $end:expr) => {
        concat!(
            "insert into ",
            $table,
            "
             select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::pg_catalog.json, e.client_id, e.session_id, ",
            $created_at,
            "
             from rows from (
                 pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                 pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7)",
            $created_ats,
            "
             ) e(store, seq_num, parent_seq_num, name, args, client_id, session_id",
            $column,
            ")",
            $end
        )
    };
}

/// Inserts a single event, without arrays. That takes a third of the work, because Postgres executes `unnest` by writing a
/// table of its results and reading it again.
macro_rules! insert_one {
    ($table:literal, $end:expr) => {
        concat!("insert into ", $table, " values ($1, $2, $3, $4, $5::pg_catalog.json, $6, $7, $8)", $end)
    };
}

const MANY: &[PgBuiltInOids] =
    &[INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID];
const MANY_AT_TIMES: &[PgBuiltInOids] = &[
    INT8ARRAYOID,
    INT8ARRAYOID,
    INT8ARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TIMESTAMPTZARRAYOID,
];
const ONE: &[PgBuiltInOids] = &[INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID];

thread_local! {
    static ADVANCE: Statement = const {
        Statement::new(
            "update livestore.stores s set head = n.head
              from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) n(id, head)
              where s.id operator(pg_catalog.=) n.id",
            &[INT8ARRAYOID, INT8ARRAYOID],
        )
    };
    static ADVANCE_ONE: Statement =
        const { Statement::new("update livestore.stores s set head = $2 where s.id operator(pg_catalog.=) $1", &[INT8OID, INT8OID]) };
    static INSERT: Statement = const { Statement::new(insert!("livestore.eventlog_1", ""), MANY) };
    static INSERT_ONE: Statement = const { Statement::new(insert_one!("livestore.eventlog_1", ""), ONE) };
    static INSERT_RETURNING: Statement =
        const { Statement::new(insert!("livestore.eventlog_1", returning!()), MANY) };
    static INSERT_ONE_RETURNING: Statement =
        const { Statement::new(insert_one!("livestore.eventlog_1", returning!()), ONE) };
}

/// An event to insert.
pub struct Event<'a> {
    pub row: Row,
    pub store: &'a str,
    /// The context of its request, for hooks.
    pub context: Option<&'a str>,
    /// The push that it came with. Hooks run for one push at a time.
    pub push: usize,
    pub seq_num: i64,
    pub created_at: TimestampWithTimeZone,
    pub content: StoredEvent<'a>,
}

/// Advances the heads of stores whose rows are locked: pairs of `livestore.stores.id` and the new head.
///
/// # Errors
/// Of the statement.
pub fn advance(client: &mut SpiClient<'_>, heads: impl Iterator<Item = (i64, i64)>) -> spi::Result<()> {
    let (stores, heads): (Vec<i64>, Vec<i64>) = heads.unzip();
    let count = stores.len();
    let advanced = match (&stores[..], &heads[..]) {
        (&[store], &[head]) => ADVANCE_ONE.with(|advance| advance.execute(client, &[store.into(), head.into()])),
        _ => ADVANCE.with(|advance| advance.execute(client, &[stores.into(), heads.into()])),
    }?
    .len();
    if advanced != count {
        error!("of {count} heads {advanced} were advanced");
    }
    Ok(())
}

/// Inserts the events into the tables of their stores. If a table has hooks, there is one statement for each push, because
/// hooks read the context of its request. Otherwise there is one statement for each table.
///
/// # Errors
/// Of statements. Errors of hooks unwind. So does the error that is raised if a hook has changed an event: the client would
/// not recognise the event that comes back as its own, and would push its own again.
pub fn insert_with_hooks(client: &mut SpiClient<'_>, events: &[Event<'_>]) -> spi::Result<()> {
    let mut tables: Vec<(pg_sys::Oid, Eventlog)> = Vec::with_capacity(1);
    let mut parts: Vec<(usize, Vec<&Event<'_>>)> = Vec::with_capacity(1);
    // Events of one push come one after the other.
    let mut last: Option<(pg_sys::Oid, usize, usize)> = None;
    for event in events {
        let part = match last {
            Some((eventlog, push, part)) if (eventlog, push) == (event.row.eventlog, event.push) => part,
            _ => {
                let table = match tables.iter().position(|(eventlog, _)| *eventlog == event.row.eventlog) {
                    Some(table) => table,
                    None => {
                        tables.push((event.row.eventlog, Eventlog::open(client, event.row.eventlog)?));
                        tables.len() - 1
                    }
                };
                let has_hooks = tables.get(table).is_some_and(|(_, eventlog)| eventlog.has_hooks());
                let shared = if has_hooks { None } else { parts.iter().position(|(other, _)| *other == table) };
                shared.unwrap_or_else(|| {
                    parts.push((table, Vec::new()));
                    parts.len() - 1
                })
            }
        };
        last = Some((event.row.eventlog, event.push, part));
        if let Some((_, part)) = parts.get_mut(part) {
            part.push(event);
        }
    }
    for (table, part) in &parts {
        if let Some((_, table)) = tables.get(*table) {
            insert_part(client, table, part)?;
        }
    }
    Ok(())
}

/// One statement, and the hooks that it fires.
fn insert_part(client: &mut SpiClient<'_>, table: &Eventlog, part: &[&Event<'_>]) -> spi::Result<()> {
    let _context = match part {
        [first, ..] if table.has_hooks() => Some(Entered::new(first.store, first.context)),
        _ => None,
    };
    let _watch = Watch::new();
    let _hooks = RunsAs::hooks();
    insert(client, table, part)?;
    // Deferred hooks run now, and not at the commit: there they would run as the role that commits, and their errors would
    // fail all pushes of the transaction. Hooks that are DEFERRABLE are included, because `set constraints` may have deferred
    // them.
    for (name, is_initially_deferred) in table.deferrable_hooks() {
        client.update(format!("set constraints livestore.{name} immediate").as_str(), None, &[])?;
        if *is_initially_deferred {
            client.update(format!("set constraints livestore.{name} deferred").as_str(), None, &[])?;
        }
    }
    Ok(())
}

fn insert(client: &mut SpiClient<'_>, table: &Eventlog, part: &[&Event<'_>]) -> spi::Result<()> {
    let inserted = if let [event] = part {
        let content = &event.content;
        let arguments = [
            event.row.id.into(),
            event.seq_num.into(),
            content.parent_seq_num.into(),
            content.name.into(),
            content.args.into(),
            content.client_id.into(),
            content.session_id.into(),
            event.created_at.into(),
        ];
        match (table.dedicated_name(), table.may_change_events()) {
            (None, false) => INSERT_ONE.with(|insert| insert.execute(client, &arguments))?,
            (None, true) => INSERT_ONE_RETURNING.with(|insert| insert.execute(client, &arguments))?,
            (Some(name), _) => execute(client, &format!(insert_one!("{}", returning!()), name), ONE, &arguments)?,
        }
    } else {
        let at = part.first().map(|event| event.created_at);
        let is_one_time = part.iter().all(|event| Some(event.created_at) == at);
        let arguments = [
            part.iter().map(|event| event.row.id).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.seq_num).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.content.parent_seq_num).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.content.name).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.content.args).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.content.client_id).collect::<Vec<_>>().into(),
            part.iter().map(|event| event.content.session_id).collect::<Vec<_>>().into(),
            if is_one_time { at.into() } else { part.iter().map(|event| event.created_at).collect::<Vec<_>>().into() },
        ];
        match (is_one_time, table.dedicated_name(), table.may_change_events()) {
            (true, None, false) => INSERT.with(|insert| insert.execute(client, &arguments))?,
            (true, None, true) => INSERT_RETURNING.with(|insert| insert.execute(client, &arguments))?,
            (true, Some(name), _) => execute(client, &format!(insert!("{}", returning!()), name), MANY, &arguments)?,
            (false, name, _) => {
                let name = name.unwrap_or("livestore.eventlog_1");
                let text = format!(insert!("{}", each at its time, returning!()), name);
                execute(client, &text, MANY_AT_TIMES, &arguments)?
            }
        }
    };
    if !table.may_change_events() {
        if inserted.len() != part.len() {
            error!("of {} events {} were inserted", part.len(), inserted.len());
        }
        return Ok(());
    }
    let inserted = stored::rows(inserted)?;
    let is_as_pushed = |(event, row): (&&Event<'_>, &StoredRow)| {
        (row.store, row.seq_num, row.created_at) == (event.row.id, event.seq_num, event.created_at)
            && row.event() == event.content
    };
    if inserted.len() != part.len() || !part.iter().zip(&inserted).all(is_as_pushed) {
        let message = "a BEFORE trigger on the event log skipped or changed events";
        let hint = "A hook lets an event pass as it is (return new) or rejects it (raise exception).";
        pgrx::pg_sys::panic::ErrorReport::new(PgSqlErrorCode::ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, message, "")
            .set_hint(hint)
            .report(PgLogLevel::ERROR);
    }
    Ok(())
}

/// Prepares and executes a statement without keeping its plan for the session: there may be many dedicated tables.
fn execute<'c>(
    client: &mut SpiClient<'c>,
    text: &str,
    parameters: &[PgBuiltInOids],
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<SpiTupleTable<'c>> {
    let types: Vec<PgOid> = parameters.iter().map(|&oid| oid.into()).collect();
    let statement = client.prepare_mut(text, &types)?;
    client.update(&statement, None, arguments)
}
