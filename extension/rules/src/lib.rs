//! The rules of an event log. Pure functions: the extension applies them to what it has locked, the sidecar and the tests use them
//! to say the same.
//!
//! - [`validation`] reads a batch of events and says whether it is a chain.
//! - [`plan`] decides what becomes of each push, given the heads of the stores.
//! - [`codes`] are the SQLSTATEs of what is refused.
//! - [`notification`] is the text that tells others of new heads.

pub mod codes;
pub mod notification;
pub mod plan;
pub mod validation;
