//! Reading logs: page by page from Postgres, and live from tails.
//!
//! `sidecar/model` is a model of this and of `log/write`, which is checked in every order of its steps. If you change a rule, change it there, too.

pub mod claims;
pub mod clients;
pub mod contention;
pub mod events;
pub mod listener;
pub mod page;
pub mod pages;
mod poll;
pub mod prefetch;
pub mod registry;
pub mod scan;
mod stored;
pub mod subscription;
pub mod tail;
pub mod tails;
mod texts;
pub mod window;
