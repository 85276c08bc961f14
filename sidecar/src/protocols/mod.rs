//! One module for each protocol that LiveStore clients speak. Each translates between its wire and [`crate::log`], or
//! [`crate::relay`]; none knows of another.

mod body;
pub mod cf_0_3;
mod chunks;
pub mod electric;
pub mod relay;
pub mod rpc;
pub mod s2;
pub mod websocket;

use std::borrow::Cow;

/// The most of a client's own text that an error repeats.
const BRIEF: usize = 500;

/// The beginning of a message: what it says of a client's input may be as long as the input.
pub fn brief(message: &str) -> Cow<'_, str> {
    match message.char_indices().nth(BRIEF) {
        Some((end, _)) => format!("{}…", &message[..end]).into(),
        None => message.into(),
    }
}
