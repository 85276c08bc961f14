//! `livestore.read_page`, declared in `sql/flavours/native/pull.sql`: the one way by which a log is read. A page ends with the event that
//! reaches its bytes, which are counted while rows arrive: to find out beforehand where a page has to end took as long as to read it.

use std::cell::OnceCell;
use std::ffi::{CStr, CString, c_int};
use std::ptr;

use pgrx::fcinfo::{pg_getarg, pg_getarg_datum};
use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varsize_any_exhdr};

use crate::hooks::Eventlog;

/// The columns of a page: head, backend_id, seq_num, parent_seq_num, name, args, client_id, session_id, created_at.
const COLUMNS: usize = 9;

/// Those whose bytes count: name, args, client_id, session_id.
const COUNTED: [usize; 4] = [4, 5, 6, 7];

/// A plan that a session keeps. Read only: the statements of a call see the same moment, as its caller does.
struct Plan {
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
    unsafe fn get(&self) -> pg_sys::SPIPlanPtr {
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
unsafe fn prepare(text: &CStr, parameters: &[pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let mut types = parameters.to_vec();
    let count = c_int::try_from(types.len()).unwrap_or(0);
    // SAFETY: as the caller says; there are as many types as it is told.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), count, types.as_mut_ptr()) };
    if plan.is_null() {
        error!("a statement of livestore.read_page cannot be prepared");
    }
    plan
}

macro_rules! events {
    ($table:literal) => {
        concat!(
            // only: a dedicated table is asked itself, and the shared one without its children.
            "select $4, $5, e.\"seqNum\", e.\"parentSeqNum\", e.name, e.args, e.\"clientId\", e.\"sessionId\", e.\"createdAt\"
             from only ", $table, " e
             where e.store = $1 and e.\"seqNum\" > $2
             order by e.\"seqNum\"
             limit $3"
        )
    };
}

const EVENTS: &[pg_sys::Oid] = &[pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::TEXTOID];

thread_local! {
    static STORE: Plan = const {
        Plan::new(
            c"select s.head, s.backend_id, s.id, s.eventlog::pg_catalog.oid from livestore.stores s where s.store_id = $1",
            &[pg_sys::TEXTOID],
        )
    };
    static NO_STORE: Plan = const { Plan::new(c"select livestore.backend_id($1)", &[pg_sys::TEXTOID]) };
    static EVENTS_OF_SHARED: Plan = const {
        Plan::new(
            match CStr::from_bytes_with_nul(concat!(events!("livestore.eventlog_1"), "\0").as_bytes()) {
                Ok(text) => text,
                Err(_) => c"",
            },
            EVENTS,
        )
    };
}

/// Puts rows into the result until they have enough bytes.
#[repr(C)]
struct Receiver {
    /// First: Postgres knows no more of it.
    base: pg_sys::DestReceiver,
    result: *mut pg_sys::Tuplestorestate,
    rows: u64,
    bytes: i64,
    max_bytes: i64,
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: Postgres gives back the receiver that it was given, and a row of the columns that it was asked for. Values that are not
    // null are good as long as the row is.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver>();
        if usize::try_from((*slot).tts_nvalid).is_ok_and(|valid| valid < COLUMNS) {
            pg_sys::slot_getsomeattrs_int(slot, COLUMNS as c_int);
        }
        for column in COUNTED {
            if !*(*slot).tts_isnull.add(column) {
                receiver.bytes += bytes(*(*slot).tts_values.add(column));
            }
        }
        pg_sys::tuplestore_puttupleslot(receiver.result, slot);
        receiver.rows += 1;
        receiver.bytes < receiver.max_bytes
    }
}

/// How long a text is, as the reader gets it. Nothing is unpacked to find out.
///
/// # Safety
///
/// The value of a column of type text or json that is not null.
unsafe fn bytes(text: pg_sys::Datum) -> i64 {
    let header = i64::try_from(pg_sys::VARHDRSZ).unwrap_or(0);
    // SAFETY: such a value points to its header.
    unsafe {
        let value: *const pg_sys::varlena = text.cast_mut_ptr();
        if varatt_is_1b_e(value) || varatt_is_4b_c(value) {
            i64::try_from(pg_sys::toast_raw_datum_size(text)).unwrap_or(i64::MAX) - header
        } else {
            i64::try_from(varsize_any_exhdr(value)).unwrap_or(i64::MAX)
        }
    }
}

unsafe extern "C-unwind" fn start(_: *mut pg_sys::DestReceiver, _: c_int, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn end(_: *mut pg_sys::DestReceiver) {}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_livestore_read_page() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// Takes a store id, the sequence number after which to read, and the bounds of a page in events and bytes. Returns the events, each
/// beside the head and the backend id of the log; one row without an event if there is none.
///
/// Not a `#[pg_extern]`: that would give the rows one by one, each taken apart and put together again.
///
/// # Safety
///
/// Postgres calls it, as a function of version 1 that is strict.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn livestore_read_page(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe {
        let (Some(store), Some(after), Some(max_events), Some(max_bytes)) =
            (pg_getarg_datum(info, 0), pg_getarg::<i64>(info, 1), pg_getarg::<i32>(info, 2), pg_getarg::<i32>(info, 3))
        else {
            error!("livestore.read_page is declared as strict");
        };
        let result = begin_result(info);
        Spi::connect(|_| read(store, after, max_events, max_bytes, result));
        (*info).isnull = true;
        pg_sys::Datum::null()
    }
}

/// The rows that will be returned.
#[derive(Clone, Copy)]
struct ResultSet {
    rows: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
}

/// # Safety
///
/// `info` is what Postgres calls a function of version 1 with.
unsafe fn begin_result(info: pg_sys::FunctionCallInfo) -> ResultSet {
    // SAFETY: as the caller says. The rows live as long as the query that calls.
    unsafe {
        let call = (*info).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let returns_set = !call.is_null()
            && (*call).type_ == pg_sys::NodeTag::T_ReturnSetInfo
            && (*call).allowedModes as u32 & pg_sys::SetFunctionReturnMode::SFRM_Materialize != 0
            && !(*call).expectedDesc.is_null()
            && usize::try_from((*(*call).expectedDesc).natts) == Ok(COLUMNS);
        if !returns_set {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "livestore.read_page returns a set of rows, and is called where none are expected"
            );
        }
        let former = pg_sys::MemoryContextSwitchTo((*(*call).econtext).ecxt_per_query_memory);
        let result = ResultSet {
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

/// # Safety
///
/// While SPI is connected; `store` is a text.
unsafe fn read(store: pg_sys::Datum, after: i64, max_events: i32, max_bytes: i32, result: ResultSet) {
    // SAFETY: as the caller says. Rows of SPI are good until it ends, and have the columns that were asked for.
    unsafe {
        let mut found = [pg_sys::Datum::null(); 4];
        let exists = STORE.with(|plan| first_row(plan.get(), store, &mut found));
        if !exists {
            NO_STORE.with(|plan| first_row(plan.get(), store, &mut found[1..2]));
            found[0] = 0i64.into();
        }
        let [head, backend_id, id, eventlog] = found;
        let mut rows = 0;
        if exists && max_events > 0 {
            let mut receiver = Receiver {
                base: pg_sys::DestReceiver {
                    receiveSlot: Some(receive),
                    rStartup: Some(start),
                    rShutdown: Some(end),
                    rDestroy: Some(end),
                    mydest: pg_sys::CommandDest::DestTuplestore,
                },
                result: result.rows,
                rows: 0,
                bytes: 0,
                max_bytes: max_bytes.into(),
            };
            let eventlog = pg_sys::Oid::from_datum(eventlog, false).unwrap_or(pg_sys::Oid::INVALID);
            let plan = match Eventlog::dedicated(eventlog) {
                None => EVENTS_OF_SHARED.with(|plan| plan.get()),
                Some(name) => prepare(&CString::new(format!(events!("{}"), name)).unwrap_or_default(), EVENTS),
            };
            let arguments = [id, after.into(), i64::from(max_events).into(), head, backend_id];
            execute(plan, &arguments, &mut receiver);
            rows = receiver.rows;
        }
        if rows == 0 {
            let mut values = [pg_sys::Datum::null(); COLUMNS];
            (values[0], values[1]) = (head, backend_id);
            let mut nulls = [true; COLUMNS];
            (nulls[0], nulls[1]) = (false, false);
            pg_sys::tuplestore_putvalues(result.rows, result.description, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}

/// The first row of a statement with one parameter, if it has one; its columns are not null.
///
/// # Safety
///
/// While SPI is connected; the plan has as many columns as there are values.
unsafe fn first_row(plan: pg_sys::SPIPlanPtr, parameter: pg_sys::Datum, values: &mut [pg_sys::Datum]) -> bool {
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
unsafe fn execute(plan: pg_sys::SPIPlanPtr, arguments: &[pg_sys::Datum], receiver: &mut Receiver) {
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
