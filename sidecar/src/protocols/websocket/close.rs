//! The end of connections: codes that tell a client whether coming back helps. After `RESTART` (1012) and `AGAIN` (1013) it should.

use axum::extract::ws::close_code;

/// Why a connection ends, other than by the client's own close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: &'static str,
}

pub const CLOSED_BY_CLIENT: Close = Close { code: close_code::NORMAL, reason: "" };
pub const ALL_ANSWERED: Close = Close { code: close_code::NORMAL, reason: "every request is answered" };
pub const SHUTDOWN: Close = Close { code: close_code::RESTART, reason: "the server shuts down, reconnect" };
pub const UNAVAILABLE: Close =
    Close { code: close_code::AGAIN, reason: "the database is not available, try again later" };
pub const REWOUND: Close =
    Close { code: close_code::AGAIN, reason: "the log has lost events that this client has seen: ask the operator" };
pub const STRANGER: Close =
    Close { code: close_code::RESTART, reason: "unknown request, ask again on a new connection" };
/// LiveStore 0.4 reconnects after a network that stalled without asking for its live pull again, and would wait for ever.
pub const NO_PULL: Close =
    Close { code: close_code::RESTART, reason: "no pull on this connection, ask again on a new one" };
pub const SLOW: Close = Close { code: close_code::AGAIN, reason: "the client does not read, reconnect and resume" };
pub const SILENT: Close = Close { code: close_code::AWAY, reason: "the client is silent" };
pub const UNFINISHED: Close =
    Close { code: close_code::AGAIN, reason: "the message took too long to arrive, reconnect and send it again" };
pub const NO_MEMORY: Close =
    Close { code: close_code::AGAIN, reason: "the server has no memory for the message, reconnect and send it again" };
pub const BUG: Close = Close { code: close_code::ERROR, reason: "internal error, reconnect" };
/// Codes of our own, for clients to tell apart.
pub const EXPIRED: Close = Close { code: 4401, reason: "the token has expired, reconnect with a new one" };
pub const REPLACED: Close = Close { code: 4409, reason: "this device has connected again" };
pub const MISSED: Close = Close {
    code: close_code::RESTART,
    reason: "messages of other devices may have been lost, reconnect and ask for them",
};
pub const TOO_LARGE: Close = Close { code: close_code::SIZE, reason: "the frame is too large" };
