//! What can be set, as flags and as environment variables.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Speaks LiveStore's sync protocols in front of a Postgres with the extension livestore_sync.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Config {
    /// Address and port to serve on.
    #[arg(long, env = "LIVESTORE_LISTEN", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,

    /// The database: postgres://user:password@host:port/database. Its role needs livestore_writer and nothing else.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Who may connect. none: everybody, which takes --insecure-no-auth beyond loopback.
    #[arg(long, env = "LIVESTORE_AUTH", default_value = "none")]
    pub auth: Auth,

    /// Serve everybody who can reach the address, also beyond this machine, and browser pages of every origin.
    #[arg(long, env = "LIVESTORE_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// Connections to the database for reading; two more push and listen.
    #[arg(long, env = "LIVESTORE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub database_connections: u16,

    /// How long to wait for the database at start before giving up.
    #[arg(long, env = "LIVESTORE_DATABASE_WAIT", default_value = "60s", value_parser = humantime::parse_duration)]
    pub database_wait: Duration,

    /// How long a push waits for a database that is away before its client is told to come back.
    #[arg(long, env = "LIVESTORE_PUSH_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub push_timeout: Duration,

    /// How long a shutdown may take to finish what is being committed and to close connections.
    #[arg(long, env = "LIVESTORE_SHUTDOWN_DEADLINE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub shutdown_deadline: Duration,

    /// The largest frame that a client may send, in bytes.
    #[arg(long, env = "LIVESTORE_MAX_FRAME_BYTES", default_value_t = 16 << 20)]
    pub max_frame_bytes: usize,

    /// What to log: a level, or directives like "info,livestore_sidecar::log=debug".
    #[arg(long, env = "LIVESTORE_LOG", default_value = "info")]
    pub log: String,

    /// How log lines look.
    #[arg(long, env = "LIVESTORE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// What must not be, although each setting alone is right.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        if self.auth == Auth::None && !self.listen.ip().is_loopback() && !self.insecure_no_auth {
            return Err(format!(
                "without authentication, {} would let everybody who reaches it read and write every store: \
                 listen on 127.0.0.1, or say --insecure-no-auth if that is what you want",
                self.listen
            ));
        }
        Ok(())
    }
}
