//! ElectricSQL, as LiveStore uses it: `@livestore/sync-electric` 0.4 asks an endpoint of its own form ([`api`]), which
//! servers built from LiveStore's example make of Electric's shape API ([`shape`]), which `@electric-sql/client` speaks too.
//!
//! A client is at an *offset* of a shape with a *handle*. Here the offset is the sequence number of the last event, and the
//! handle is the backend id: a log that was reset is another shape. Before the first event every handle is right, so that a
//! store may come into being while its clients wait for it.

pub mod api;
mod messages;
mod names;
mod offset;
mod read;
pub mod shape;
mod upstream;

pub use upstream::{GRACE, Upstream};
