//! The settings of the database.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Database, tls};
use crate::settings::SettingsError;
use crate::settings::values::{at_least, duration};

#[derive(Debug, Args)]
pub struct DatabaseSettings {
    /// The database: postgres://user:password@host:port/database. Its role needs livestore_writer and nothing else. With
    /// ?sslmode=verify-full over TLS; with several hosts (host:port,host:port) the one of them that allows writes.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, required = true)]
    database_url: Option<String>,

    /// PEM file of the authority that signs the certificate of the database. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,

    /// Connections to the database for reading; up to five more push (two), listen, relay and ask for /readyz.
    #[arg(long, env = "LIVESTORE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = at_least(1_u16))]
    pub database_connections: u16,

    /// The time to wait for the database at start before giving up.
    #[arg(long, env = "LIVESTORE_DATABASE_WAIT", default_value = "5m", value_parser = duration)]
    pub database_wait: Duration,
}

impl DatabaseSettings {
    /// The database of these settings; makes no connection yet.
    pub fn database(&self) -> Result<Database, SettingsError> {
        let url = self.database_url.as_deref().unwrap_or_default();
        let url = tls::parse(url).map_err(SettingsError::of("--database-url"))?;
        let tls = tls::connector(self.database_root_certificate.as_deref())
            .map_err(SettingsError::of("--database-root-certificate"))?;
        Database::new(url, tls, self.database_connections.into()).map_err(SettingsError::of("--database-connections"))
    }
}
