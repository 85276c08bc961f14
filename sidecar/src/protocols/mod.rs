//! One module for each protocol that LiveStore clients speak. Each translates between its wire and [`crate::log`], or
//! [`crate::relay`]; none knows of another.

mod body;
pub mod cf_0_3;
mod chunks;
pub mod electric;
pub mod relay;
pub mod rpc;
pub mod s2;
pub mod sync_cf;
pub mod websocket;

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Deserialize;

use crate::log::Denied;

/// The most of a client's own text that an error repeats.
const BRIEF: usize = 500;

/// Reads a body. It must be UTF-8 from end to end (RFC 8259, section 8.1): `serde_json` itself does not look at what it skips.
///
/// # Errors
/// What is wrong with it.
pub fn read_json<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The status of a refusal.
pub fn status_of(denied: &Denied) -> StatusCode {
    if denied.may_pass() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN }
}

/// The beginning of a message: what it says of a client's input may be as long as the input.
pub fn brief(message: &str) -> Cow<'_, str> {
    match message.char_indices().nth(BRIEF) {
        Some((end, _)) => format!("{}…", &message[..end]).into(),
        None => message.into(),
    }
}
