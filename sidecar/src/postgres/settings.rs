//! The settings of the database.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_postgres::config::SslMode;

use super::hosts::elsewhere;
use super::servers::Address;
use super::url::{self, DatabaseUrl, Roots};
use super::{Database, DatabaseError, Demand, tls};
use crate::settings::SettingsError;
use crate::settings::values::{at_least, duration, lasting};

#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// The database: postgres://user:password@host:port/database. Its role needs livestore_writer and nothing else. With
    /// ?sslmode=verify-full over TLS; with several hosts (host:port,host:port) the one of them that allows writes. A pooler has to
    /// be in session mode. See docs/managed.md.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, required = true)]
    database_url: Option<String>,

    /// A direct connection to the same database, for LISTEN: only needed if notifications do not arrive at --database-url.
    #[arg(long, env = "LIVESTORE_LISTEN_URL", hide_env_values = true)]
    listen_url: Option<String>,

    /// Standbys of the same database, to read the histories of logs from: one URL with all of their hosts. They are used in turn, as far as
    /// they follow the primary. Live events and the end of each log come from --database-url.
    #[arg(long, env = "LIVESTORE_READ_DATABASE_URL", hide_env_values = true)]
    read_database_url: Option<String>,

    /// Only read: --database-url may lead to a standby, for clients far away from the primary. Live events arrive by polling, and
    /// pushes wait or are told to come back. See docs/scale.md.
    #[arg(long, env = "LIVESTORE_READ_ONLY")]
    pub read_only: bool,

    /// Serve the stores of several databases, the shards. --database-url leads to the front database, which knows where each store is
    /// and was made by livestore-sidecar shards init; its user, password and other parameters are those for all shards. See
    /// docs/scale.md.
    #[arg(long, env = "LIVESTORE_SHARDS")]
    pub shards: bool,

    /// PEM file of the authority that signs the certificate of the database. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,

    /// Connections to the database, or to each shard, for reading; up to eight more push (two), listen, relay, ask for
    /// /readyz, run handlers and change what the inspector changes (two). As many again call --authorize-function.
    #[arg(long, env = "LIVESTORE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = at_least(1_u16))]
    pub database_connections: u16,

    /// The time to wait for the database at start before giving up.
    #[arg(long, env = "LIVESTORE_DATABASE_WAIT", default_value = "5m", value_parser = duration)]
    pub database_wait: Duration,

    /// Close all connections to the database once no client has needed it for this time, so that a serverless database can be
    /// suspended. The next client opens them again; until then, webhooks and handlers do not get what SQL and other sidecars commit.
    /// By default they stay open.
    #[arg(long, env = "LIVESTORE_DATABASE_IDLE_CLOSE", value_name = "DURATION", value_parser = lasting(Duration::from_secs(1)))]
    database_idle_close: Option<Duration>,
}

impl DatabaseSettings {
    /// Whether they go together. Not `conflicts_with` of clap, for which `false` in the environment is also a value.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (listen, standbys) = (self.listen_url.is_some(), self.read_database_url.is_some());
        let contradictions = [
            (self.read_only && listen, "--read-only", "--listen-url"),
            (self.read_only && standbys, "--read-only", "--read-database-url"),
            (self.shards && self.read_only, "--shards", "--read-only"),
            (self.shards && listen, "--shards", "--listen-url"),
            (self.shards && standbys, "--shards", "--read-database-url"),
            (self.shards && self.database_idle_close.is_some(), "--shards", "--database-idle-close"),
        ];
        match contradictions.into_iter().find(|(is_one, ..)| *is_one) {
            Some((_, one, other)) => Err(format!("{one} and {other} do not go together: leave one out").into()),
            None => Ok(()),
        }
    }

    /// Whether webhooks and handlers rest while nobody is connected.
    pub fn closes_when_idle(&self) -> bool {
        self.database_idle_close.is_some()
    }

    /// The database that is named, if one is.
    pub fn url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// Names the database.
    pub fn set_url(&mut self, url: String) {
        self.database_url = Some(url);
    }

    /// [`unencrypted`] for the options that have URLs.
    pub fn unencrypted(&self) -> impl Iterator<Item = String> {
        let urls = [
            ("--database-url", &self.database_url),
            ("--listen-url", &self.listen_url),
            ("--read-database-url", &self.read_database_url),
        ];
        let root_certificate = self.database_root_certificate.as_deref();
        urls.into_iter().filter_map(move |(option, url)| unencrypted(option, url.as_deref()?, root_certificate))
    }

    /// The database of these settings; makes no connection yet.
    pub fn database(&self) -> Result<Database, SettingsError> {
        let url = self.database_url.as_deref().unwrap_or_default();
        let root_certificate = self.database_root_certificate.as_deref();
        let address_of = |option, url| address(option, url, root_certificate);
        let listen = self.listen_url.as_deref().map(|url| address_of("--listen-url", url)).transpose()?;
        let standbys = self.read_database_url.as_deref();
        let standbys = standbys.map(|url| address_of("--read-database-url", url)).transpose()?;
        let address = address_of("--database-url", url)?;
        if self.read_only && address.config.get_hosts().len() > 1 {
            return Err(
                "--read-only: --database-url has to name one host, because standbys differ in how far they follow"
                    .into(),
            );
        }
        let demand = Demand::new(self.database_idle_close);
        Database::new(address, listen, standbys, self.read_only, self.database_connections.into(), demand)
            .map_err(SettingsError::of("--database-connections"))
    }
}

impl DatabaseSettings {
    /// A shard, at this address; makes no connection yet.
    ///
    /// # Errors
    /// The front database has an address that cannot be used.
    pub fn shard(&self, name: Arc<str>, connection: &str) -> Result<Database, DatabaseError> {
        let unusable = |problem: &dyn Display| DatabaseError::Map(format!("shard {name}: {problem}"));
        let url = self.database_url.as_deref().unwrap_or_default();
        let front = address("--database-url", url, self.database_root_certificate.as_deref());
        let front = front.map_err(|error| unusable(&error))?;
        let config = elsewhere(&front.config, connection).map_err(|error| unusable(&error))?;
        let address = Address { config, shard: Some(Arc::clone(&name)), ..front };
        Database::new(address, None, None, false, self.database_connections.into(), Demand::new(None))
            .map_err(|error| unusable(&error))
    }
}

/// Advice, if a URL leads over a network without TLS. An authority that is named is then of no effect.
pub fn unencrypted(option: &str, url: &str, root_certificate: Option<&Path>) -> Option<String> {
    let url = url::parse(url).ok()?;
    let url = if root_certificate.is_some() { url.with_authority() } else { url };
    let has_authority = root_certificate.is_some() || url.roots.is_some();
    let unused = if has_authority { ", and the root certificate is not used" } else { "" };
    url.is_unencrypted().then(|| {
        format!(
            "{option}: passwords and events cross the network unencrypted{unused}; add ?sslmode=verify-full, unless nobody else is on that network"
        )
    })
}

/// [`unencrypted`], for the person who runs a command.
pub fn warn_if_unencrypted(option: &str, url: &str, root_certificate: Option<&Path>) {
    if let Some(advice) = unencrypted(option, url, root_certificate) {
        eprintln!("livestore-sidecar: {advice}");
    }
}

/// The server that a URL names, with the authorities of its certificate.
pub fn address(option: &'static str, url: &str, root_certificate: Option<&Path>) -> Result<Address, SettingsError> {
    let url = url::parse(url).map_err(SettingsError::of(option))?;
    let DatabaseUrl { config, roots, .. } = if root_certificate.is_some() { url.with_authority() } else { url };
    let (named_by, trusted) = match (root_certificate, roots) {
        (Some(file), _) => ("--database-root-certificate", Roots::File(file.to_owned())),
        (None, Some(roots)) => (option, roots),
        // To load them takes as long as the rest of a start.
        (None, None) if config.get_ssl_mode() != SslMode::Require => (option, Roots::Nobody),
        (None, None) => (option, Roots::System),
    };
    let tls = tls::connector(&trusted).map_err(SettingsError::of(named_by))?;
    Ok(Address { option, config, tls, shard: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leads_over_a_network_without_tls_is_told() {
        let advice = |url: &str, file: Option<&str>| unencrypted("--database-url", url, file.map(Path::new));
        let told = advice("postgres://owner:secret@db.example.com/app", None).expect("no TLS");
        assert!(told.starts_with("--database-url: ") && told.contains("?sslmode=verify-full"), "{told}");
        assert!(!told.contains("secret") && !told.contains("certificate"), "{told}");
        let told = advice("postgres://owner@db.example.com/app?sslmode=disable", Some("ca.crt")).expect("no TLS");
        assert!(told.contains("the root certificate is not used"), "{told}");
        for (url, file) in [
            ("postgres://owner@db.example.com/app?sslmode=require", None),
            ("postgres://owner@db.example.com/app", Some("ca.crt")),
            ("postgres://owner@127.0.0.1/app", None),
            ("nonsense", None),
        ] {
            assert_eq!(advice(url, file), None, "{url}");
        }
    }
}
