//! The rules of an event log, as pure functions. The extension applies them to stores whose rows it has locked. The sidecar
//! uses the same events, SQLSTATEs and digests, so that both sides agree.
//!
//! - [`validation`] reads a batch of events and says whether it is a chain.
//! - [`plan`] decides what becomes of each push, given the heads of the stores.
//! - [`codes`] are the SQLSTATEs of what is refused.
//! - [`notification`] is the text that tells others of new heads.

pub mod codes;
pub mod notification;
pub mod plan;
pub mod validation;
