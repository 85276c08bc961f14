//! Statements on event logs that fire hooks run as `livestore_hooks`; declared in `sql/flavours/native/hooks.sql`.

use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, quote_identifier, quote_qualified_identifier};

use crate::hook_errors::{Watch, repaired};
use crate::roles::RunsAs;

/// An event log table, shared or dedicated, and what an insert has to know of its triggers.
pub struct Eventlog {
    /// `None` for the shared one.
    dedicated_name: Option<String>,
    has_hooks: bool,
    may_change_events: bool,
    /// Names as SQL writes them, and whether the hook is deferred from the start.
    deferrable_hooks: Vec<(String, bool)>,
}

impl Eventlog {
    /// Locks the table against others who would add a hook, and reads what is there.
    ///
    /// # Errors
    /// Of statements.
    pub fn open(client: &mut SpiClient<'_>, table: pg_sys::Oid) -> spi::Result<Self> {
        let shared = shared();
        // SAFETY: an open table has as many triggers as its description says, and stays as it is until it is closed. The names are
        // texts that live as long as the description.
        let (eventlog, is_secured, has_rules) = unsafe {
            let relation = pg_sys::relation_open(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
            let described = (*relation).trigdesc;
            let triggers = match described.as_ref().and_then(|all| usize::try_from(all.numtriggers).ok()) {
                Some(count) if count > 0 => std::slice::from_raw_parts((*described).triggers, count),
                _ => &[],
            };
            let hooks = || triggers.iter().filter(|trigger| !trigger.tgisinternal);
            let eventlog = Self {
                dedicated_name: (table != shared).then(|| table_name(table)),
                has_hooks: hooks().next().is_some(),
                may_change_events: hooks().any(|hook| i32::from(hook.tgtype) & pg_sys::TRIGGER_TYPE_BEFORE as i32 != 0),
                deferrable_hooks: hooks()
                    .filter(|hook| hook.tgdeferrable)
                    .map(|hook| (quote_identifier(CStr::from_ptr(hook.tgname).to_string_lossy()), hook.tginitdeferred))
                    .collect(),
            };
            let is_secured = (*(*relation).rd_rel).relrowsecurity;
            let has_rules = (*(*relation).rd_rel).relhasrules;
            // The lock stays: no hook is added before the events are in.
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            (eventlog, is_secured, has_rules)
        };
        // The functions may still be those of a release that does not know this one.
        let knows_rules = "select to_regprocedure('livestore._refuse_rules(oid)') is not null";
        if has_rules && client.select(knows_rules, Some(1), &[])?.first().get_one::<bool>()? == Some(true) {
            client.update("select livestore._refuse_rules($1)", None, &[table.into()])?;
        }
        if is_secured {
            client.update("select livestore._admit_hooks($1)", None, &[table.into()])?;
        }
        Ok(eventlog)
    }

    /// The name of a table as SQL writes it.
    pub fn name(table: pg_sys::Oid) -> String {
        table_name(table)
    }

    /// The name of a table as SQL writes it, if it is not the shared one.
    pub fn dedicated(table: pg_sys::Oid) -> Option<String> {
        (table != shared()).then(|| table_name(table))
    }

    /// The name of the table, if it is not the shared one.
    pub fn dedicated_name(&self) -> Option<&str> {
        self.dedicated_name.as_deref()
    }

    pub fn has_hooks(&self) -> bool {
        self.has_hooks
    }

    /// Whether there are BEFORE triggers.
    pub fn may_change_events(&self) -> bool {
        self.may_change_events
    }

    pub fn deferrable_hooks(&self) -> &[(String, bool)] {
        &self.deferrable_hooks
    }
}

/// `livestore.eventlog_1`.
fn shared() -> pg_sys::Oid {
    // SAFETY: the names end with a NUL.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"livestore".as_ptr(), false);
        pg_sys::get_relname_relid(c"eventlog_1".as_ptr(), schema)
    }
}

/// Copies the events of a store to its dedicated table, whose constraints may be the application's. Postgres calls
/// it by way of [`livestore_move_events`].
#[pg_extern(sql = false)]
fn move_events(source: pg_sys::Oid, eventlog: pg_sys::Oid) -> spi::Result<()> {
    // Without generated columns, which somebody may have added.
    let columns = Spi::connect(|client| {
        let query =
            "select pg_catalog.string_agg(pg_catalog.quote_ident(a.attname::pg_catalog.text), ', ' order by a.attnum)
            from pg_catalog.pg_attribute a
            where a.attrelid operator(pg_catalog.=) $1 and a.attnum operator(pg_catalog.>) 0 and not a.attisdropped
                and a.attgenerated operator(pg_catalog.=) ''";
        client.select(query, Some(1), &[eventlog.into()])?.first().get_one::<String>()
    })?;
    let (to, from, columns) = (table_name(eventlog), table_name(source), columns.unwrap_or_default());
    run_as_hooks(&format!("insert into {to} ({columns}) select {columns} from only {from}"), &[])
}

repaired!(livestore_move_events, move_events_wrapper, pg_finfo_livestore_move_events);

/// Deletes the events of a store from a table that has triggers on DELETE. Postgres calls it by way of
/// [`livestore_delete_hooked_events`].
#[pg_extern(sql = false)]
fn delete_hooked_events(eventlog: pg_sys::Oid, store: i64) -> spi::Result<()> {
    run_as_hooks(
        &format!("delete from only {} where store operator(pg_catalog.=) $1", table_name(eventlog)),
        &[store.into()],
    )
}

repaired!(livestore_delete_hooked_events, delete_hooked_events_wrapper, pg_finfo_livestore_delete_hooked_events);

/// Rewrites events in a table where an update runs code of the application. Postgres calls it by way of [`livestore_update_hooked_events`].
#[pg_extern(sql = false)]
fn update_hooked_events(
    eventlog: pg_sys::Oid,
    store: i64,
    seq_nums: Vec<i64>,
    name: &str,
    args: &str,
) -> spi::Result<()> {
    let statement = format!(
        "update only {} set name = coalesce(nullif($1, ''), name), args = nullif($2, '')::pg_catalog.json
         where store operator(pg_catalog.=) $3 and \"seqNum\" operator(pg_catalog.=) any ($4)",
        table_name(eventlog)
    );
    run_as_hooks(&statement, &[name.into(), args.into(), store.into(), seq_nums.into()])
}

repaired!(livestore_update_hooked_events, update_hooked_events_wrapper, pg_finfo_livestore_update_hooked_events);

/// Runs a statement as `livestore_hooks` by switching the user here. A nested `security definer` function owned by that role
/// would be unsafe: hooks run as that role too, and could alter the function so that it runs as the owner of the logs.
fn run_as_hooks(statement: &str, parameters: &[DatumWithOid]) -> spi::Result<()> {
    Spi::connect_mut(|client| {
        let _watch = Watch::new();
        let _hooks = RunsAs::hooks();
        client.update(statement, None, parameters)?;
        Ok(())
    })
}

/// Creates a hook of the shared log on the table of a store. This runs as a superuser, because the owner of the logs may have
/// no rights in the schemas of the hook functions. That is safe: the statement is the definition of a trigger that exists on
/// the shared log.
#[pg_extern(sql = false)]
fn copy_hook(hook: pg_sys::Oid, eventlog: pg_sys::Oid) -> spi::Result<()> {
    let table = table_name(eventlog);
    let definition = "select pg_catalog.pg_get_triggerdef(t.oid), t.tgname::pg_catalog.text
        from pg_catalog.pg_trigger t
        where t.oid operator(pg_catalog.=) $1 and not t.tgisinternal
            and t.tgrelid operator(pg_catalog.=) 'livestore.eventlog_1'::pg_catalog.regclass
            and exists (
                select from pg_catalog.pg_inherits i
                where i.inhrelid operator(pg_catalog.=) $2 and i.inhparent operator(pg_catalog.=) t.tgrelid
            )";
    Spi::connect_mut(|client| {
        let row = client.select(definition, Some(1), &[hook.into(), eventlog.into()])?;
        let found = if row.is_empty() { (None, None) } else { row.first().get_two::<String, String>()? };
        let (Some(definition), Some(name)) = found else {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("there is no such hook, or {table} is not the table of a store")
            );
        };
        let Some(statement) = on_another_table(&definition, &quote_identifier(name), &table) else {
            error!("a trigger has a definition of another form than expected: {definition}");
        };
        let _superuser = RunsAs::superuser();
        client.update(&statement, None, &[])?;
        Ok(())
    })
}

/// The definition of a trigger on the shared log, for another table. The name comes first, and may look like anything.
fn on_another_table(definition: &str, name: &str, table: &str) -> Option<String> {
    const SHARED: &str = " ON livestore.eventlog_1 ";
    let after_name = definition.find(name)? + name.len();
    let (before, after) = definition.split_at_checked(after_name)?;
    let (time, rest) = after.split_once(SHARED)?;
    Some(format!("{before}{time} ON {table} {rest}"))
}

/// The name of a table, with its schema, as SQL writes it.
fn table_name(table: pg_sys::Oid) -> String {
    let text = |name: *mut std::ffi::c_char| {
        if name.is_null() {
            return None;
        }
        // SAFETY: what is not null is a text that lives as long as the call.
        Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    };
    // SAFETY: both take any number, and give null for one that they do not know.
    let names = unsafe {
        let schema = text(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table)));
        schema.zip(text(pg_sys::get_rel_name(table)))
    };
    let Some((schema, name)) = names else {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("there is no table with the number {table}"));
    };
    quote_qualified_identifier(schema, name)
}
