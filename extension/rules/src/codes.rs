//! SQLSTATEs of the extension. Each comes with a DETAIL in JSON.

/// The batch does not build on the head: `{"minimumExpectedNum","providedNum"}`.
pub const SERVER_AHEAD: &str = "LS001";

/// The client names another backend id than the log has: the log was reset or replaced since the client last pulled.
/// `{"expected","received"}`.
pub const BACKEND_ID_MISMATCH: &str = "LS002";

/// The batch is not a chain of events, or the log cannot take it: `{"index","reason"}`.
pub const INVALID: &str = "LS003";

/// There is no such store: `{"storeId"}`.
pub const NO_STORE: &str = "LS004";
