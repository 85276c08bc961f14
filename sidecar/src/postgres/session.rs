//! The state of a session: the settings that each connection begins with, and what makes a session as good as new after it has run code
//! that is not the sidecar's, such as hooks, handlers and an authorize function.

use std::time::Duration;

/// Names mean Postgres' own objects: with a path of the role's, whoever may create functions in `public`, say, could have one called
/// instead, with the rights of the sidecar.
const SEARCH_PATH: &str = "set search_path = pg_catalog, pg_temp";

/// A server ends what a connection leaves behind that was lost: otherwise a transaction would keep its snapshot and its locks for hours. The
/// operator's own setting stays if it is stricter.
///
/// `client_connection_check_interval` ends statements that run or wait for a lock, but no commit that waits for a standby. It exists since
/// PostgreSQL 14, and some systems other than Linux refuse it.
const NOTICE_LOSS: &str = "\
    set tcp_keepalives_idle = 15; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3;
    select set_config('client_connection_check_interval', '10s', false)
    where current_setting('client_connection_check_interval', true)::interval not between interval '1 ms' and interval '10 s'
        and version() like '%linux%'";

/// Not for commands: an export may be written to a pipe whose reader pauses.
const END_UNREAD: &str = "set tcp_user_timeout = '30s'";

/// No transaction of a sidecar waits for anybody but Postgres.
const END_IDLE_TRANSACTIONS: &str = "\
    select set_config('idle_in_transaction_session_timeout', '60s', false)
    where current_setting('idle_in_transaction_session_timeout')::interval not between interval '1 ms' and interval '60 s'";

/// The time after which Postgres cancels a statement: 30 seconds, unless the operator's own setting is stricter. It does not count the time
/// for which a commit waits for a standby.
pub const LIMIT_STATEMENTS: &str = "\
    select set_config('statement_timeout', '30s', false)
    where current_setting('statement_timeout')::interval not between interval '1 ms' and interval '30 s'";

/// If a statement is not answered for this long, its connection counts as dead: its server may hang, and another one may have
/// taken its place. This is longer than the time after which Postgres cancels a statement.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// All that `discard all` forgets but the plans of functions, and it may be one of several statements. The value of `role` is not reset by
/// `reset all`.
const FORGET: &str = "\
    close all; set session authorization default; reset all; deallocate all; unlisten *; discard sequences; discard temp;
    select pg_catalog.pg_advisory_unlock_all()";

/// The settings of a connection of a command.
pub fn settings_of_commands() -> String {
    format!("{SEARCH_PATH}; {NOTICE_LOSS}")
}

/// The settings of a connection that serves clients.
pub fn settings() -> String {
    format!("{}; {END_UNREAD}; {END_IDLE_TRANSACTIONS}", settings_of_commands())
}

/// Makes a session as good as new, with these settings beside those of [`settings`].
pub fn renew(own: &str) -> String {
    format!("{FORGET}; {}; {own}", settings())
}
