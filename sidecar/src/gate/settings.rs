//! The settings of the gate: from where requests may come, and how much they may send.

use axum::http::HeaderName;
use clap::Args;

use super::hosts::Hosts;
use super::origins::Origins;
use crate::auth::AuthSettings;
use crate::settings::SettingsError;
use crate::settings::values::{LEAST_BUFFER_BYTES, LEAST_FRAME_BYTES, MOST_BUFFER_BYTES, at_least, between};

#[derive(Debug, Clone, Args)]
pub struct GateSettings {
    /// Request headers that hooks and the authorize function get, e.g. cookie,authorization.
    #[arg(long, env = "LIVESTORE_FORWARD_HEADERS", value_name = "NAMES", value_delimiter = ',')]
    pub forward_headers: Vec<HeaderName>,

    /// Origins of the web pages that are served, e.g. https://app.example.com, or * for all, or local for those of this machine.
    /// By default local; with --insecure-no-auth, all.
    #[arg(long, env = "LIVESTORE_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,

    /// Host names that are served (header Host), in addition to those of this machine (localhost, 127.0.0.1) and to names
    /// without a dot. For example sync.example.com for a proxy in front, or * for all. Pages of these hosts are served, too,
    /// unless --cors-origins says otherwise. By default all names with --auth jwt or --insecure-no-auth, else none.
    #[arg(long, env = "LIVESTORE_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// The largest frame that a client may send, in bytes.
    #[arg(long, env = "LIVESTORE_MAX_FRAME_BYTES", default_value_t = 16 << 20, value_parser = at_least(LEAST_FRAME_BYTES))]
    pub max_frame_bytes: usize,

    /// Memory for data in transit, in bytes: bodies and messages that arrive, pages that are read, and data that waits for a
    /// client to read it. A request that finds no room waits. At most 4294967295.
    #[arg(long, env = "LIVESTORE_MAX_BUFFER_BYTES", default_value_t = 256 << 20, value_parser = between(LEAST_BUFFER_BYTES, MOST_BUFFER_BYTES))]
    pub max_buffer_bytes: usize,

    /// The part of --max-buffer-bytes for each subject of tokens, for all clients without a token that send something
    /// together, and for each connection without a token that reads.
    #[arg(long, env = "LIVESTORE_MAX_BUFFER_BYTES_PER_CLIENT", default_value_t = 32 << 20, value_parser = between(LEAST_BUFFER_BYTES, MOST_BUFFER_BYTES))]
    pub max_buffer_bytes_per_client: usize,
}

impl GateSettings {
    pub fn check(&self, auth: &AuthSettings) -> Result<(), SettingsError> {
        if self.max_buffer_bytes < self.max_buffer_bytes_per_client
            || self.max_buffer_bytes_per_client < self.max_frame_bytes
        {
            return Err(
                "--max-buffer-bytes must not be less than --max-buffer-bytes-per-client, nor that than --max-frame-bytes: \
                 a frame that may be sent could not be taken"
                    .into(),
            );
        }
        self.origins(auth).map(drop)
    }

    pub fn hosts(&self, auth: &AuthSettings) -> Result<Hosts, SettingsError> {
        Hosts::parse(&self.allowed_hosts, auth.is_decided()).map_err(SettingsError::of("--allowed-hosts"))
    }

    pub fn origins(&self, auth: &AuthSettings) -> Result<Origins, SettingsError> {
        let hosts = self.hosts(auth)?;
        match self.cors_origins.as_slice() {
            [] if auth.insecure_no_auth => Ok(Origins::Any),
            [] => Ok(Origins::Local(hosts)),
            origins => Origins::parse(origins, hosts).map_err(SettingsError::of("--cors-origins")),
        }
    }
}
