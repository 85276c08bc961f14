//! The statements that read a log, and how they are executed.

use std::cell::OnceCell;
use std::ffi::{CStr, CString, c_int};
use std::ptr;

use pgrx::prelude::*;

use super::receiver::Receiver;
use crate::hooks::Eventlog;

/// A plan that is kept for the session. It is executed read-only, so the statements of a call share the snapshot of their
/// caller.
pub struct Plan {
    text: &'static CStr,
    parameters: &'static [pg_sys::Oid],
    kept: OnceCell<pg_sys::SPIPlanPtr>,
}

impl Plan {
    const fn new(text: &'static CStr, parameters: &'static [pg_sys::Oid]) -> Self {
        Self { text, parameters, kept: OnceCell::new() }
    }

    /// # Safety
    ///
    /// While SPI is connected.
    pub unsafe fn get(&self) -> pg_sys::SPIPlanPtr {
        *self.kept.get_or_init(|| {
            // SAFETY: as the caller says; a plan that is kept lives as long as the session.
            unsafe {
                let plan = prepare(self.text, self.parameters);
                pg_sys::SPI_keepplan(plan);
                plan
            }
        })
    }
}

/// # Safety
///
/// While SPI is connected.
pub unsafe fn prepare(text: &CStr, parameters: &[pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let mut types = parameters.to_vec();
    let count = c_int::try_from(types.len()).unwrap_or(0);
    // SAFETY: as the caller says; there are as many types as it is told.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), count, types.as_mut_ptr()) };
    if plan.is_null() {
        error!("a statement that reads a log cannot be prepared");
    }
    plan
}

macro_rules! events {
    ($table:literal) => {
        concat!(
            // `only`: each table is read alone. Without it, the shared table would include the dedicated ones, which inherit
            // from it.
            "select e.\"seqNum\", e.\"parentSeqNum\", e.name, e.args, e.\"clientId\", e.\"sessionId\", e.\"createdAt\"
             from only ",
            $table,
            " e
             where e.store operator(pg_catalog.=) $1 and e.\"seqNum\" operator(pg_catalog.>) $2
             order by e.\"seqNum\"
             limit $3"
        )
    };
}

pub const EVENTS: &[pg_sys::Oid] = &[pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID];

thread_local! {
    pub static STORE: Plan = const {
        Plan::new(
            c"select s.head, s.backend_id, s.id, s.eventlog::pg_catalog.oid from livestore.stores s where s.store_id operator(pg_catalog.=) $1",
            &[pg_sys::TEXTOID],
        )
    };
    pub static NO_STORE: Plan = const { Plan::new(c"select livestore.backend_id($1)", &[pg_sys::TEXTOID]) };
    pub static EVENTS_OF_SHARED: Plan = const {
        Plan::new(
            match CStr::from_bytes_with_nul(concat!(events!("livestore.eventlog_1"), "\0").as_bytes()) {
                Ok(text) => text,
                Err(_) => c"",
            },
            EVENTS,
        )
    };
}

/// The statement that reads the events of a store of this table.
///
/// # Safety
///
/// While SPI is connected.
pub unsafe fn events_of(eventlog: pg_sys::Oid) -> pg_sys::SPIPlanPtr {
    // SAFETY: as the caller says.
    unsafe {
        match Eventlog::dedicated(eventlog) {
            None => EVENTS_OF_SHARED.with(|plan| plan.get()),
            Some(name) => prepare(&CString::new(format!(events!("{}"), name)).unwrap_or_default(), EVENTS),
        }
    }
}

/// The first row of a statement with one parameter, if it has one; its columns are not null.
///
/// # Safety
///
/// While SPI is connected; the plan has as many columns as there are values.
pub unsafe fn first_row(plan: pg_sys::SPIPlanPtr, parameter: pg_sys::Datum, values: &mut [pg_sys::Datum]) -> bool {
    let mut parameters = [parameter];
    // SAFETY: as the caller says.
    unsafe {
        let done = pg_sys::SPI_execute_plan(plan, parameters.as_mut_ptr(), ptr::null(), true, 1);
        if done < 0 || pg_sys::SPI_processed == 0 || pg_sys::SPI_tuptable.is_null() {
            return false;
        }
        let table = &*pg_sys::SPI_tuptable;
        let mut is_null = false;
        for (value, column) in values.iter_mut().zip(1..) {
            *value = pg_sys::SPI_getbinval(*table.vals, table.tupdesc, column, &raw mut is_null);
        }
        true
    }
}

/// Executes a statement on events.
///
/// # Safety
///
/// While SPI is connected; the arguments are of the types of [`EVENTS`] and not null.
pub unsafe fn execute(plan: pg_sys::SPIPlanPtr, arguments: &[pg_sys::Datum], receiver: &mut Receiver) {
    let count = c_int::try_from(arguments.len()).unwrap_or(0);
    // SAFETY: as the caller says; a list of parameters has as many as it was made for.
    unsafe {
        let parameters = pg_sys::makeParamList(count);
        for (place, (&value, &ptype)) in arguments.iter().zip(EVENTS).enumerate() {
            *(*parameters).params.as_mut_ptr().add(place) =
                pg_sys::ParamExternData { value, isnull: false, pflags: pg_sys::PARAM_FLAG_CONST as u16, ptype };
        }
        let options = pg_sys::SPIExecuteOptions {
            params: parameters,
            read_only: true,
            dest: (&raw mut *receiver).cast(),
            ..Default::default()
        };
        let done = pg_sys::SPI_execute_plan_extended(plan, &raw const options);
        if done < 0 {
            error!("a page cannot be read: {done}");
        }
    }
}
