//! The extension `livestore_sync`: the part of the event log that is easier to get right, and to prove right, in Rust
//! than in SQL. Everything else of the extension is SQL, in `sql/`.
//!
//! - [`validation`] reads a batch of events and says whether it is a chain.
//! - [`plan`] decides what becomes of each push, given the heads of the locked stores.
//! - [`notification`] is what live streams are told.
//! - [`bounds`] is what the database's owner has set.
//! - [`append`] carries out the usual push.
//! - [`sql`] lets SQL ask for a plan, and carry out what is not usual.
//! - [`hooks`] writes to event logs where hooks run, and [`roles`] says as whom.
//! - [`source`] reads what is imported.
//!
//! The first three know nothing of Postgres, so they are tested without one.

mod append;
mod bounds;
mod hooks;
pub mod notification;
pub mod plan;
mod roles;
mod source;
mod sql;
pub mod validation;

pgrx::pg_module_magic!();
