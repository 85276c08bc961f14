//! The extension `livestore_sync`: what is easier to get right, or faster, in Rust than in SQL. Everything else is in `sql/`.
//!
//! - [`append`] carries out pushes, by the rules of the crate `livestore-rules`.
//! - [`hooks`] knows the triggers on event logs, [`roles`] says as whom they run, [`context`] what they may know of the request,
//!   [`session`] keeps what is the caller's, and [`hook_errors`] hands on what they raise.
//! - [`commit_log`] gives each commit its positions, and [`notify`] tells those who listen.
//! - [`read`] reads logs.
//! - [`import`] reads the log of another backend.
//! - [`bounds`] is what the database's owner has set.
//! - [`legacy`] is for databases whose SQL is of an earlier version.

mod append;
mod bounds;
mod commit_log;
mod context;
mod hook_errors;
mod hooks;
mod import;
mod legacy;
mod notify;
mod read;
mod roles;
mod session;
mod statement;

pgrx::pg_module_magic!();
