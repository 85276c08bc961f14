//! Statements on event logs that fire hooks run as `livestore_hooks`; declared in `sql/functions/35_hooks.sql`.

use std::ffi::CStr;

use pgrx::pgrx_extern_c_guard;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_qualified_identifier};

use crate::roles::{FormerUser, RunsAs};

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_run_as_hooks() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// Whether the shared log has hooks, for pushes that run none.
pub fn are_on_shared_log() -> bool {
    // SAFETY: the names end with a NUL, and what does not exist may be missing. A table that is open has as many triggers as its
    // description says, and stays as it is until it is closed.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"livestore".as_ptr(), false);
        let eventlog = pg_sys::get_relname_relid(c"eventlog_1".as_ptr(), schema);
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::relation_open(eventlog, mode);
        let described = (*table).trigdesc;
        let triggers = match described.as_ref().and_then(|all| usize::try_from(all.numtriggers).ok()) {
            Some(count) if count > 0 => std::slice::from_raw_parts((*described).triggers, count),
            _ => &[],
        };
        let are_there = triggers.iter().any(|trigger| !trigger.tgisinternal);
        pg_sys::relation_close(table, mode);
        are_there
    }
}

/// Calls the function that is named like the called one with `_now` behind it, in the same schema and with the same arguments
/// and result, as `livestore_hooks`. A nested `security definer` function of that role would not do: a hook runs as that
/// role too, and could alter the function to be run by the owner of the logs.
///
/// Not a `#[pg_extern]`: what a hook raises has to arrive as it was raised, with its context and the names of constraints, and
/// pgrx raises an error anew, without them.
///
/// # Safety
///
/// Postgres calls it, as a function of version 1.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn run_as_hooks(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the guard turns what Rust and Postgres raise inside it into errors of Postgres.
    let call = unsafe { pgrx_extern_c_guard(|| Call::prepare(info)) };
    // SAFETY: `prepare` has put down all that a function of version 1 reads. An error in it leaves by a jump over this
    // frame, which has nothing to drop; the end of the (sub)transaction restores user and settings.
    let result = unsafe { (call.function)(call.info) };
    // SAFETY: as above; both pointers are good for as long as the call.
    unsafe {
        pgrx_extern_c_guard(|| call.user.restore());
        (*info).isnull = (*call.info).isnull;
    }
    result
}

/// A call that is about to happen. Copied, and never dropped.
#[derive(Clone, Copy)]
struct Call {
    function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    info: pg_sys::FunctionCallInfo,
    user: FormerUser,
}

impl Call {
    /// Looks the other function up, copies the arguments and switches the user.
    ///
    /// # Safety
    ///
    /// `info` is what Postgres gives a function of version 1.
    unsafe fn prepare(info: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: a call has a function, unless somebody calls it from C.
        let called = unsafe { (*info).flinfo.as_ref() }.map(|function| function.fn_oid);
        let Some(other) = called.and_then(function_now) else {
            error!("there is no function with the same arguments and result, and _now behind its name");
        };
        // SAFETY: the memory is zero, and large enough for the arguments, whose number both calls share.
        unsafe {
            let count = usize::try_from((*info).nargs).unwrap_or_default();
            let size = size_of::<pg_sys::FunctionCallInfoBaseData>() + count * size_of::<pg_sys::NullableDatum>();
            let copy: pg_sys::FunctionCallInfo = pg_sys::palloc0(size).cast();
            let function: *mut pg_sys::FmgrInfo = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()).cast();
            pg_sys::fmgr_info(other, function);
            (*copy).flinfo = function;
            (*copy).fncollation = (*info).fncollation;
            (*copy).nargs = (*info).nargs;
            std::ptr::copy_nonoverlapping((*info).args.as_ptr(), (*copy).args.as_mut_ptr(), count);
            let Some(address) = (*function).fn_addr else {
                error!("the function with _now behind its name cannot be called");
            };
            Self { function: address, info: copy, user: FormerUser::switch_to_hooks() }
        }
    }
}

/// The function of that name with the same arguments and result. One that is strict would have to be spared nulls.
fn function_now(called: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: rows of the cache are good until they are released.
    unsafe {
        let row = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, called.into());
        if row.is_null() {
            return None;
        }
        let called: pg_sys::Form_pg_proc = pg_sys::heap_tuple_get_struct(row);
        let name = format!("{}_now", CStr::from_ptr((*called).proname.data.as_ptr()).to_string_lossy());
        let name = std::ffi::CString::new(name).ok()?;
        let other = pg_sys::SearchSysCache3(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            name.as_ptr().into(),
            (&raw const (*called).proargtypes).into(),
            (*called).pronamespace.into(),
        );
        let mut found = None;
        if !other.is_null() {
            let form: pg_sys::Form_pg_proc = pg_sys::heap_tuple_get_struct(other);
            let is_alike = (*form).prorettype == (*called).prorettype && !(*form).proretset && !(*form).proisstrict;
            found = (is_alike && !(*called).proretset).then_some((*form).oid);
            pg_sys::ReleaseSysCache(other);
        }
        pg_sys::ReleaseSysCache(row);
        found
    }
}

/// Creates one of the shared log's hooks on the table of a store. The owner of the logs may not use the schemas in which
/// applications have their functions, so a superuser does it: with nothing but a definition that is on the shared log.
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
