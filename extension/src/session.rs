//! The session of the caller, while code of the application runs in it. That code must not replace the statements that the caller has
//! prepared, which would then run with the rights of the caller, nor change the channels that it listens to, nor leave a cursor that is
//! read at the commit. `SECURITY_RESTRICTED_OPERATION`
//! of Postgres forbids this, too, but also every constraint that is deferred to the commit, and temporary tables.

use std::cell::Cell;
use std::ffi::c_char;

use pgrx::prelude::*;

// pgrx would turn an error of the statement into a panic, and lose parts of it.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        is_read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

thread_local! {
    /// How many [`Kept`] there are. Hooks that append nest.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static NEXT: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// While this lives, no statement changes what belongs to the session.
pub struct Kept;

impl Kept {
    pub fn new() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Postgres calls it when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: Postgres runs one thread, and this is what a library may do when it is loaded.
    unsafe {
        NEXT.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process);
    }
}

/// # Safety
///
/// Postgres calls it for each statement that is not a query. No value that needs to be dropped is here: errors jump over it.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    is_read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are those that Postgres has given, and a statement that is not a query has a node that says which it is.
    unsafe {
        if DEPTH.get() > 0 && changes_session((*statement).utilityStmt) {
            refuse();
        }
        let next = NEXT.get().unwrap_or(standard_ProcessUtility);
        next(statement, text, is_read_only, context, parameters, environment, destination, completion);
    }
}

/// A cursor WITH HOLD is read to its end at the commit, with the rights of the role that commits.
///
/// # Safety
///
/// The statement is a good pointer.
unsafe fn changes_session(statement: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::{
        T_DeallocateStmt, T_DeclareCursorStmt, T_DiscardStmt, T_ListenStmt, T_PrepareStmt, T_UnlistenStmt,
    };
    // SAFETY: as the caller says, and a node is what its tag says.
    unsafe {
        match (*statement).type_ {
            T_PrepareStmt | T_DeallocateStmt | T_DiscardStmt | T_ListenStmt | T_UnlistenStmt => true,
            T_DeclareCursorStmt => {
                (*statement.cast::<pg_sys::DeclareCursorStmt>()).options as u32 & pg_sys::CURSOR_OPT_HOLD != 0
            }
            _ => false,
        }
    }
}

#[pg_guard]
extern "C-unwind" fn refuse() {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "a hook cannot run PREPARE, DEALLOCATE, DISCARD, LISTEN, UNLISTEN or DECLARE … WITH HOLD: the session is not its own"
    );
}
