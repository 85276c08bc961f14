//! The sidecar: serves LiveStore clients from a Postgres with `livestore_sync`.

// Some of it is for `livestore-sidecar dev` alone.
#![cfg_attr(not(feature = "dev"), allow(dead_code))]

mod auth;
mod check;
mod cli;
mod config;
mod demo;
#[cfg(feature = "dev")]
mod dev;
mod gate;
mod health;
mod inspector;
mod install;
mod limits;
mod log;
mod postgres;
mod process;
mod program;
mod protocols;
mod relay;
mod server;
mod settings;
#[cfg(feature = "sharding")]
mod sharding;
mod shutdown;
mod telemetry;
mod time;
mod token;
mod webhook;

pub use program::Program;
