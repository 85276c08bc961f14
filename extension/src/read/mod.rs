//! `livestore.read_page` and `livestore.pull_page`, declared in `sql/flavours/native/pull.sql`: they read a page of a log.
//! `read_page` returns all events of the page in one value, because rows that a function returns are copied three times on
//! their way to the client.

mod memory;
mod plan;
mod receiver;

use pgrx::fcinfo::{pg_getarg, pg_getarg_datum};
use pgrx::prelude::*;
use pgrx::varlena::rust_byte_slice_to_bytea;

use crate::hook_errors::{Watch, repaired};
use plan::{NO_STORE, STORE, events_of, execute, first_row};
use receiver::{FIELDS, Receiver, Sink};

/// The columns of `livestore.read_page`: head, backend_id, events.
const COLUMNS: usize = 3;

/// The bounds of a page that is returned in one value, which is in memory: whoever may read could ask for any number.
const MOST_EVENTS: i64 = 10_000;
const MOST_BYTES: usize = 64 << 20;

// LS005 arrives as it was raised.
repaired!(livestore_read_page, read_page, pg_finfo_livestore_read_page);
repaired!(livestore_pull_page, pull_page, pg_finfo_livestore_pull_page);

/// Takes a store id, the sequence number after which to read, and the bounds of a page in events and bytes. Returns one row: the head
/// and the backend id of the log, and the events one behind the other, each as COPY writes a row in its binary format.
///
/// # Safety
///
/// Postgres calls it, as a function of version 1.
#[pg_guard]
unsafe extern "C-unwind" fn read_page(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the caller says. What SPI finds is good until it ends.
    unsafe {
        let result = ResultSet::begin(info, COLUMNS);
        let (Some(store), bounds) = (pg_getarg_datum(info, 0), Bounds::of(info).of_one_value()) else {
            return nothing(info);
        };
        memory::keep();
        Spi::connect(|_| {
            let mut found = [pg_sys::Datum::null(); 4];
            let mut receiver = Receiver::new(Sink::Packed(Vec::new()), bounds.bytes);
            if STORE.with(|plan| first_row(plan.get(), store, &mut found)) {
                bounds.read(&found, &mut receiver);
            } else {
                found[0] = 0i64.into();
                backend_id_of_none(store, &mut found[1..2]);
            }
            let [head, backend_id, ..] = found;
            if let Sink::Packed(events) = receiver.into_sink() {
                let events = rust_byte_slice_to_bytea(&events).into_pg();
                let (mut values, mut nulls) = ([head, backend_id, events.into()], [false; COLUMNS]);
                pg_sys::tuplestore_putvalues(result.rows, result.description, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
        });
        nothing(info)
    }
}

/// The events of a page as rows.
///
/// Not a `#[pg_extern]`: that would give the rows one by one, each taken apart and put together again.
///
/// # Safety
///
/// Postgres calls it, as a function of version 1.
#[pg_guard]
unsafe extern "C-unwind" fn pull_page(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe {
        let result = ResultSet::begin(info, FIELDS);
        let (Some(store), bounds) = (pg_getarg_datum(info, 0), Bounds::of(info)) else {
            return nothing(info);
        };
        Spi::connect(|_| {
            let mut found = [pg_sys::Datum::null(); 4];
            if STORE.with(|plan| first_row(plan.get(), store, &mut found)) {
                bounds.read(&found, &mut Receiver::new(Sink::Rows(result.rows), bounds.bytes));
            } else {
                backend_id_of_none(store, &mut found[1..2]);
            }
        });
        nothing(info)
    }
}

/// The backend id that a store will have. Raises an error if it is on another shard.
///
/// # Safety
///
/// While SPI is connected; `store` is text.
unsafe fn backend_id_of_none(store: pg_sys::Datum, found: &mut [pg_sys::Datum]) {
    let _watch = Watch::new();
    // SAFETY: as the caller says.
    NO_STORE.with(|plan| unsafe { first_row(plan.get(), store, found) });
}

/// The return value of a set-returning function that puts its rows into a tuplestore: null.
///
/// # Safety
///
/// `info` is what Postgres calls a function of version 1 with.
unsafe fn nothing(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe { (*info).isnull = true };
    pg_sys::Datum::null()
}

/// The range of a page: events after a sequence number, limited in number and bytes. An argument that is null sets no limit.
struct Bounds {
    after: i64,
    events: i64,
    bytes: usize,
}

impl Bounds {
    /// From the arguments after the store id.
    ///
    /// # Safety
    ///
    /// `info` is what Postgres calls a function of version 1 with, with arguments of the types bigint, integer and integer.
    unsafe fn of(info: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: as the caller says.
        let (after, events, bytes) =
            unsafe { (pg_getarg::<i64>(info, 1), pg_getarg::<i32>(info, 2), pg_getarg::<i32>(info, 3)) };
        Self {
            after: after.unwrap_or(0),
            events: events.unwrap_or(i32::MAX).max(0).into(),
            bytes: bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(0)),
        }
    }

    fn of_one_value(self) -> Self {
        Self { events: self.events.min(MOST_EVENTS), bytes: self.bytes.min(MOST_BYTES), ..self }
    }

    /// Reads the events of a store.
    ///
    /// # Safety
    ///
    /// While SPI is connected; `store` is a row of [`STORE`].
    unsafe fn read(&self, store: &[pg_sys::Datum; 4], receiver: &mut Receiver) {
        let [_, _, id, eventlog] = *store;
        if self.events == 0 {
            return;
        }
        // SAFETY: as the caller says.
        unsafe {
            let eventlog = pg_sys::Oid::from_datum(eventlog, false).unwrap_or(pg_sys::Oid::INVALID);
            execute(events_of(eventlog), &[id, self.after.into(), self.events.into()], receiver);
        }
    }
}

/// The rows that will be returned.
#[derive(Clone, Copy)]
struct ResultSet {
    rows: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
}

impl ResultSet {
    /// # Safety
    ///
    /// `info` is what Postgres calls a function of version 1 with.
    unsafe fn begin(info: pg_sys::FunctionCallInfo, columns: usize) -> Self {
        // SAFETY: as the caller says. The rows live as long as the query that calls.
        unsafe {
            let call = (*info).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let returns_set = !call.is_null()
                && (*call).type_ == pg_sys::NodeTag::T_ReturnSetInfo
                && (*call).allowedModes as u32 & pg_sys::SetFunctionReturnMode::SFRM_Materialize != 0
                && !(*call).expectedDesc.is_null()
                && usize::try_from((*(*call).expectedDesc).natts) == Ok(columns);
            if !returns_set {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "this function of livestore returns rows, and is called where none are expected, or others"
                );
            }
            let former = pg_sys::MemoryContextSwitchTo((*(*call).econtext).ecxt_per_query_memory);
            let result = Self {
                rows: pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem),
                description: pg_sys::CreateTupleDescCopy((*call).expectedDesc),
            };
            pg_sys::MemoryContextSwitchTo(former);
            (*call).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*call).setResult = result.rows;
            (*call).setDesc = result.description;
            result
        }
    }
}
