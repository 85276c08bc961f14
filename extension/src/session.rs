//! The session of the caller, while code of the application runs in it. That code must not replace the statements that the caller has
//! prepared, which would then run with the rights of the caller, nor change the channels that it listens to. `SECURITY_RESTRICTED_OPERATION`
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
        if DEPTH.get() > 0 && changes_session((*(*statement).utilityStmt).type_) {
            refuse();
        }
        let next = NEXT.get().unwrap_or(standard_ProcessUtility);
        next(statement, text, is_read_only, context, parameters, environment, destination, completion);
    }
}

fn changes_session(statement: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::{T_DeallocateStmt, T_DiscardStmt, T_ListenStmt, T_PrepareStmt, T_UnlistenStmt};
    matches!(statement, T_PrepareStmt | T_DeallocateStmt | T_DiscardStmt | T_ListenStmt | T_UnlistenStmt)
}

#[pg_guard]
extern "C-unwind" fn refuse() {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "a hook cannot run PREPARE, DEALLOCATE, DISCARD, LISTEN or UNLISTEN: the session is not its own"
    );
}
