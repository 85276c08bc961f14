//! The peer relay: devices of one user exchange events over WebSocket, in JSON. What a message is, and what it is answered.
//!
//! A device says who it is with its first message. What it pushes goes to the others as it came; what it asks them, too, and
//! their answers come back to it alone.

mod history;
mod messages;
pub mod routes;
mod session;

pub use self::session::{Guest, serve};
