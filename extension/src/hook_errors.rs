//! Errors of hooks, and of functions in SQL, arrive as they were raised. pgrx turns an error of Postgres into a panic and raises it anew, without what it
//! does not know: the SQLSTATEs of applications, the context, and the names of constraint, table and column. With `RUST_BACKTRACE`
//! it appends a backtrace to the detail. [`Watch`] notes these when the error is raised, and [`repairing`] gives them back when pgrx
//! raises it anew.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use pgrx::prelude::*;

// pgrx keeps these to itself, so that nobody raises errors past it. They change an error that is being raised.
unsafe extern "C-unwind" {
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errcontext_msg(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
}

/// The parts of an error that pgrx would lose, or change.
struct Raised {
    message: CString,
    detail: Option<CString>,
    sqlstate: c_int,
    context: Option<CString>,
    /// `PG_DIAG_…` and the text.
    names: Vec<(u8, CString)>,
}

impl Raised {
    /// The error that is being raised; `None` for a warning or a notice.
    ///
    /// # Safety
    ///
    /// Only in an error context callback.
    unsafe fn current() -> Option<Self> {
        // SAFETY: Postgres calls such a callback in ErrorContext, out of which nothing can be copied into itself. What it copies is
        // good until it is freed, and each of its texts is null or ends with a NUL.
        unsafe {
            let former = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let error = pg_sys::CopyErrorData();
            let text = |text: *mut c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_owned());
            let raised = ((*error).elevel >= PgLogLevel::ERROR as c_int).then(|| Self {
                message: text((*error).message).unwrap_or_default(),
                detail: text((*error).detail),
                sqlstate: (*error).sqlerrcode,
                context: text((*error).context),
                names: [
                    (pg_sys::PG_DIAG_SCHEMA_NAME, (*error).schema_name),
                    (pg_sys::PG_DIAG_TABLE_NAME, (*error).table_name),
                    (pg_sys::PG_DIAG_COLUMN_NAME, (*error).column_name),
                    (pg_sys::PG_DIAG_DATATYPE_NAME, (*error).datatype_name),
                    (pg_sys::PG_DIAG_CONSTRAINT_NAME, (*error).constraint_name),
                ]
                .into_iter()
                .filter_map(|(field, name)| Some((field, text(name)?)))
                .collect(),
            });
            pg_sys::FreeErrorData(error);
            pg_sys::MemoryContextSwitchTo(former);
            raised
        }
    }
}

thread_local! {
    /// The error that was raised last below a [`Watch`], and how many of them there were. Hooks that append nest.
    static RAISED: RefCell<Option<(Raised, usize)>> = const { RefCell::new(None) };
    static WATCHES: Cell<usize> = const { Cell::new(0) };
}

/// While this lives, the errors of statements are noted.
pub struct Watch {
    callback: Box<pg_sys::ErrorContextCallback>,
}

impl Watch {
    pub fn new() -> Self {
        let depth = WATCHES.get() + 1;
        WATCHES.set(depth);
        let mut callback = Box::new(pg_sys::ErrorContextCallback {
            // SAFETY: it reads a variable.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(note),
            arg: ptr::without_provenance_mut(depth),
        });
        // SAFETY: the callback stays where it is for as long as it is on the stack: `drop` takes it off.
        unsafe { pg_sys::error_context_stack = &raw mut *callback };
        Self { callback }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: callbacks nest, and whoever catches an error takes off those that came later.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
        WATCHES.set(WATCHES.get() - 1);
        if !std::thread::panicking() {
            RAISED.take();
        }
    }
}

unsafe extern "C-unwind" fn note(depth: *mut c_void) {
    let depth = depth.addr();
    // A nested [`Watch`] has noted this error already, and its details have not been restored yet.
    if RAISED.with_borrow(|noted| noted.as_ref().is_some_and(|(_, noted)| *noted > depth)) {
        return;
    }
    // SAFETY: it is an error context callback.
    if let Some(raised) = unsafe { Raised::current() } {
        RAISED.set(Some((raised, depth)));
    }
}

unsafe extern "C-unwind" fn repair(_: *mut c_void) {
    // While the [`Watch`] that noted the error still exists, the error is still unwinding towards pgrx, which will raise it
    // anew.
    let is_raised_anew = |noted: &mut (Raised, usize)| noted.1 > WATCHES.get();
    let Some((noted, _)) = RAISED.with_borrow_mut(|noted| noted.take_if(is_raised_anew)) else { return };
    // SAFETY: it is an error context callback, in which an error may be changed.
    unsafe {
        let Some(anew) = Raised::current().filter(|anew| anew.message == noted.message) else { return };
        errcode(noted.sqlstate);
        if anew.detail != noted.detail {
            errdetail_internal(c"%s".as_ptr(), noted.detail.unwrap_or_default().as_ptr());
        }
        for (field, name) in &noted.names {
            pg_sys::err_generic_string((*field).into(), name.as_ptr());
        }
        if let Some(context) = &noted.context {
            errcontext_msg(c"%s".as_ptr(), context.as_ptr());
        }
    }
}

/// Calls a function of pgrx's such that errors which were noted under it leave it as they were raised.
///
/// # Safety
///
/// `function` and `info` are what Postgres calls a function of version 1 with. No value that needs to be dropped is on the caller's
/// stack: an error jumps over it.
pub unsafe fn repairing(
    function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    info: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the callback is on the stack of callbacks only as long as it is on this one. An error jumps to a place that takes it
    // off. There is nothing to drop here.
    unsafe {
        let mut callback = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(repair),
            arg: ptr::null_mut(),
        };
        pg_sys::error_context_stack = &raw mut callback;
        let result = function(info);
        pg_sys::error_context_stack = callback.previous;
        result
    }
}

/// Defines an exported function (of calling convention 1) that calls a wrapper generated by pgrx through [`repairing`].
macro_rules! repaired {
    ($name:ident, $wrapper:ident, $finfo:ident) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }

        /// # Safety
        ///
        /// Postgres calls it, as a function of version 1.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(info: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: `info` is what Postgres calls a function of version 1 with, and there is nothing to drop here.
            unsafe { $crate::hook_errors::repairing($wrapper, info) }
        }
    };
}

pub(crate) use repaired;
