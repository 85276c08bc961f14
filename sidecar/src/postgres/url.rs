//! Database URLs as people and providers write them: those of libpq, with parameters of other drivers in them.

use std::borrow::Cow;
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// The modes of libpq that tokio-postgres has no name for. Both verify; here every mode with TLS does.
const VERIFYING: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

/// Parameters of a URL that say what is so anyway.
const TRUE_ANYWAY: [&str; 4] = ["sslsni=1", "gssencmode=disable", "gssencmode=prefer", "uselibpqcompat=true"];

/// Remedies for parameters that have no meaning here.
const REMEDIES: [(&str, &str); 13] = [
    ("pgbouncer", TRANSACTION_MODE),
    ("statement_cache_size", TRANSACTION_MODE),
    ("connection_limit", "remove it: --database-connections limits the connections"),
    ("pool_timeout", "remove it: --database-connections limits the connections"),
    ("schema", "remove it: the objects of livestore_sync are in the schema livestore"),
    ("sslrootcert", "remove it, and name the file with --database-root-certificate"),
    ("sslcert", NO_CLIENT_CERTIFICATES),
    ("sslkey", NO_CLIENT_CERTIFICATES),
    ("passfile", "remove it, and put the password into the URL"),
    ("service", "remove it, and put host, database, user and password into the URL"),
    ("require_auth", "remove it: channel_binding=require asks for SCRAM over TLS"),
    ("sslsni", "remove it: the server is always told which host is meant"),
    ("gssencmode", "remove it: GSSAPI encryption is not supported; sslmode=verify-full encrypts with TLS"),
];
const TRANSACTION_MODE: &str = "it is for poolers in transaction mode, which the sidecar cannot use: remove it, and use the URL of a \
     direct connection or of a pooler in session mode";
const NO_CLIENT_CERTIFICATES: &str = "client certificates are not supported: remove it, and give the role a password";
// Without a misspelled sslmode, there would be no TLS.
const UNKNOWN: &str = "the sidecar does not know it: if it is misspelled, correct it (sslmode, sslrootcert, channel_binding, \
     target_session_attrs, options, …), else remove it";

/// A database URL that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("its parameter {parameter}: {remedy}")]
    Parameter { parameter: String, remedy: &'static str },
    #[error("it is no URL of a Postgres database: write it as postgres://user:password@host:5432/database")]
    Form,
    #[error(
        "it names no host: write it as postgres://user:password@host:5432/database; for a Unix socket, postgres://user@%2Frun%2Fpostgresql/database"
    )]
    NoHost,
    #[error(transparent)]
    Malformed(#[from] tokio_postgres::Error),
}

/// The authorities that may sign the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those that the operating system trusts, or those in the file that `SSL_CERT_FILE` names.
    System,
    /// Those in a PEM file.
    File(PathBuf),
    /// None: there is no TLS.
    Nobody,
}

/// A database URL, read.
#[derive(Debug)]
pub struct DatabaseUrl {
    pub config: Config,
    /// The `sslrootcert` of the URL.
    pub roots: Option<Roots>,
    /// Whether the URL has an `sslmode`.
    has_mode: bool,
}

impl DatabaseUrl {
    /// The same beside an authority that was named: who names one wants TLS, unless `sslmode` says otherwise. Sockets of this machine have none.
    pub fn with_authority(mut self) -> Self {
        let is_tcp = |host: &Host| matches!(host, Host::Tcp(_));
        let is_remote = self.config.get_hosts().iter().any(is_tcp) || !self.config.get_hostaddrs().is_empty();
        if !self.has_mode && is_remote {
            self.config.ssl_mode(SslMode::Require);
        }
        self
    }

    /// Whether it leads to another machine without TLS.
    pub fn is_unencrypted(&self) -> bool {
        let is_remote = |host: &Host| match host {
            Host::Tcp(name) => !is_this_machine(name),
            Host::Unix(_) => false,
        };
        self.config.get_ssl_mode() != SslMode::Require && self.config.get_hosts().iter().any(is_remote)
    }
}

/// Whether a host is reached without a network.
pub fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Reads a database URL, or libpq's `key=value` form. `sslmode`: `require`, `verify-ca` and `verify-full` mean TLS with a server
/// that proves who it is; everything else, none. Without `sslmode`, an `sslrootcert` means `verify-full`.
pub fn parse(url: &str) -> Result<DatabaseUrl, UrlError> {
    // A password may have a question mark in it.
    let host = url.find('@').unwrap_or_default();
    let is_mode = |parameter: &str| parameter.starts_with("sslmode");
    let has_mode = match url[host..].split_once('?') {
        Some((_, parameters)) if url.contains("://") => parameters.split('&').any(is_mode),
        _ => url.split_whitespace().any(is_mode),
    };
    let (url, roots) = match url[host..].find('?').map(|parameters| url.split_at(host + parameters)) {
        Some((address, parameters)) if url.contains("://") => own_parameters(address, &parameters[1..]),
        _ => (Cow::Borrowed(url), None),
    };
    let url = VERIFYING.iter().fold(url.into_owned(), |url, mode| url.replace(mode, "sslmode=require"));
    let mut config: Config = url.parse().map_err(with_remedy)?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(UrlError::NoHost);
    }
    if config.get_ssl_mode() != SslMode::Require {
        config.ssl_mode(SslMode::Disable);
    }
    let has_roots = roots.is_some();
    let url = DatabaseUrl { config, roots, has_mode };
    Ok(if has_roots { url.with_authority() } else { url })
}

/// Takes out the parameters that tokio-postgres does not read.
fn own_parameters<'a>(address: &'a str, parameters: &str) -> (Cow<'a, str>, Option<Roots>) {
    let mut roots = None;
    let mut others = Vec::new();
    for parameter in parameters.split('&') {
        match parameter.split_once('=') {
            Some(("sslrootcert", "system")) => roots = Some(Roots::System),
            Some(("sslrootcert", file)) => {
                roots = Some(Roots::File(PathBuf::from(&*percent_decode_str(file).decode_utf8_lossy())));
            }
            _ if TRUE_ANYWAY.contains(&parameter) => {}
            _ => others.push(parameter),
        }
    }
    let url = if others.is_empty() { Cow::Borrowed(address) } else { format!("{address}?{}", others.join("&")).into() };
    (url, roots)
}

/// tokio-postgres names an unknown parameter in a text only. It reads what does not begin with `postgres://` as `key=value`.
fn with_remedy(error: tokio_postgres::Error) -> UrlError {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    let Some(parameter) = text.strip_prefix("unknown option `").and_then(|rest| rest.strip_suffix('`')) else {
        return if text.starts_with("unexpected") { UrlError::Form } else { error.into() };
    };
    // The beginning of another URL, with its password.
    if !parameter.chars().all(|character| character.is_ascii_alphanumeric() || character == '_') {
        return UrlError::Form;
    }
    let remedy = REMEDIES.iter().find(|(name, _)| *name == parameter);
    let remedy = remedy.map_or(UNKNOWN, |(_, remedy)| remedy);
    UrlError::Parameter { parameter: parameter.into(), remedy }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::ChannelBinding;

    use super::*;

    #[test]
    fn tls_is_used_where_it_is_asked_for() {
        for (url, mode) in [
            ("postgres://u@h/d", SslMode::Disable),
            ("postgres://u@h/d?sslmode=prefer", SslMode::Disable),
            ("postgres://u@h/d?sslmode=disable", SslMode::Disable),
            ("postgres://u@h/d?sslmode=require", SslMode::Require),
            ("postgres://u@h/d?sslmode=verify-ca&application_name=a", SslMode::Require),
            ("postgres://u:p?w@h/d?sslmode=require&sslsni=1", SslMode::Require),
            ("host=h user=u sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(parse(url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
        let error = parse("postgres://u@h/d?sslmode=maybe").unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("sslmode"));
    }

    #[test]
    fn who_names_an_authority_has_tls_unless_the_url_says_otherwise() {
        for (url, mode) in [
            ("postgres://u@h/d", SslMode::Require),
            ("postgres://u:p?sslmode=w@h/d?application_name=a", SslMode::Require),
            ("postgres://u@localhost,10.0.0.2/d", SslMode::Require),
            ("host=h user=u", SslMode::Require),
            ("hostaddr=10.0.0.1 user=u", SslMode::Require),
            ("postgres://u@h/d?sslmode=prefer", SslMode::Disable),
            ("postgres://u@h/d?application_name=a&sslmode=disable", SslMode::Disable),
            ("host=h user=u sslmode = disable", SslMode::Disable),
            ("postgres://u@%2Frun%2Fpostgresql/d", SslMode::Disable),
            ("host=/run/postgresql user=u", SslMode::Disable),
        ] {
            assert_eq!(parse(url).unwrap().with_authority().config.get_ssl_mode(), mode, "{url}");
        }
        for (parameters, mode) in [
            ("sslrootcert=system", SslMode::Require),
            ("sslrootcert=/ca.crt", SslMode::Require),
            ("sslrootcert=/ca.crt&sslmode=disable", SslMode::Disable),
        ] {
            let url = format!("postgres://u@h/d?{parameters}");
            assert_eq!(parse(&url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_answered_with_its_form() {
        for (url, advice) in [
            ("postgres:///app", "it names no host"),
            ("postgres:///app", "postgres://user@%2Frun%2Fpostgresql/database"),
            ("dbname=app user=u", "it names no host"),
            ("", "it names no host"),
            ("mysql://u:secret@h/d", "write it as postgres://user:password@host:5432/database"),
            ("mysql://u:secret@h/d?sslmode=require", "write it as postgres://"),
            ("u:secret@h/d?sslmode=require", "write it as postgres://"),
            ("localhost:5432/app", "write it as postgres://"),
            ("h", "write it as postgres://"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(advice) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(parse("postgres://u@%2Frun%2Fpostgresql/app").is_ok() && parse("hostaddr=10.0.0.1 user=u").is_ok());
    }

    #[test]
    fn a_url_without_tls_is_unencrypted_unless_it_stays_on_this_machine() {
        for (url, is_unencrypted) in [
            ("postgres://u@db.example/d", true),
            ("postgres://u@localhost,10.0.0.2/d", true),
            ("postgres://u@db.example/d?sslmode=prefer", true),
            ("postgres://u@db.example/d?sslmode=require", false),
            ("postgres://u@db.example/d?sslmode=verify-full", false),
            ("postgres://u@localhost/d", false),
            ("postgres://u@127.0.0.2,[::1]/d", false),
            ("host=/run/postgresql user=u", false),
        ] {
            assert_eq!(parse(url).unwrap().is_unencrypted(), is_unencrypted, "{url}");
        }
    }

    #[test]
    fn urls_of_providers_are_read() {
        for (provider, url, host, user) in [
            (
                "Neon",
                "postgresql://alex:pw@ep-cool-1.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
                "ep-cool-1.eu-central-1.aws.neon.tech",
                "alex",
            ),
            (
                "Neon without SNI",
                "postgres://alex:pw@ep-cool-1.aws.neon.tech/neondb?options=endpoint%3Dep-cool-1&sslmode=verify-full&sslrootcert=system",
                "ep-cool-1.aws.neon.tech",
                "alex",
            ),
            (
                "Supabase, direct",
                "postgresql://postgres:pw@db.abc.supabase.co:5432/postgres?sslmode=verify-full&sslrootcert=%2Fca%2Fprod-ca-2021.crt",
                "db.abc.supabase.co",
                "postgres",
            ),
            (
                "Supabase, session pooler",
                "postgres://postgres.abc:pw@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
                "aws-0-eu-central-1.pooler.supabase.com",
                "postgres.abc",
            ),
            (
                "RDS",
                "postgres://app:p%40w@db.abc.eu-central-1.rds.amazonaws.com:5432/app?sslmode=verify-full&sslrootcert=/certs/global-bundle.pem",
                "db.abc.eu-central-1.rds.amazonaws.com",
                "app",
            ),
            (
                "Azure",
                "host=db.postgres.database.azure.com port=5432 dbname=app user=app password=pw sslmode=require",
                "db.postgres.database.azure.com",
                "app",
            ),
            (
                "Render",
                "postgresql://app:pw@dpg-abc-a.frankfurt-postgres.render.com/app?sslmode=require&gssencmode=disable",
                "dpg-abc-a.frankfurt-postgres.render.com",
                "app",
            ),
        ] {
            let DatabaseUrl { config, roots, .. } = parse(url).unwrap_or_else(|error| panic!("{provider}: {error}"));
            assert_eq!(config.get_hosts(), [Host::Tcp(host.into())], "{provider}");
            assert_eq!(config.get_user(), Some(user), "{provider}");
            let given = url.split_once("sslrootcert=").map(|(_, file)| match file {
                "system" => Roots::System,
                file => Roots::File(file.replace("%2F", "/").into()),
            });
            assert_eq!(roots, given, "{provider}");
            let binds = url.contains("channel_binding=require");
            assert_eq!(config.get_channel_binding() == ChannelBinding::Require, binds, "{provider}");
            assert_eq!(config.get_options(), url.contains("options=").then_some("endpoint=ep-cool-1"), "{provider}");
        }
    }

    #[test]
    fn a_parameter_that_means_nothing_here_is_named_with_what_to_do() {
        for (parameter, remedy) in [
            ("pgbouncer=true", "session mode"),
            ("connection_limit=1", "--database-connections"),
            ("sslcert=client.crt", "password"),
            ("schema=public", "remove it"),
            ("frobnicate=1", "remove it"),
            ("sslmod=require", "if it is misspelled, correct it (sslmode, "),
        ] {
            for url in [format!("postgres://u@h/d?sslmode=require&{parameter}"), format!("host=h user=u {parameter}")] {
                let error = parse(&url).unwrap_err().to_string();
                let name = parameter.split('=').next().unwrap();
                assert!(error.contains(&format!("parameter {name}:")) && error.contains(remedy), "{url}: {error}");
            }
        }
        let error = parse("host=h user=u sslrootcert=system").unwrap_err().to_string();
        assert!(error.contains("--database-root-certificate"), "{error}");
    }
}
