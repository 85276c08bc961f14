//! What an operator meets: settings, tokens, limits, updates, what is watched.

mod auth;
mod auth_keys;
mod authorize;
mod browsers;
mod check;
mod connections;
mod dependencies;
mod docs;
mod failover;
mod limits;
mod logs;
mod make_run;
mod memory;
mod metrics;
mod namesakes;
mod overload;
mod postgres_tls;
mod proxies;
mod refusals;
mod restore;
mod rolling_update;
mod row_security;
mod scripts;
mod sidecar;
mod snippets;
mod traces;
