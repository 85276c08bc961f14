//! TLS with Postgres. Where it is asked for, the server has to prove who it is: without that, whoever is in between is asked
//! for the password.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The modes of libpq that tokio-postgres has no name for. Both verify; here every mode with TLS does.
const VERIFYING: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}", .0.display())]
    File(PathBuf, #[source] pem::Error),
    #[error("{}", .0.display())]
    Certificate(PathBuf, #[source] rustls::Error),
    #[error("{}: there is no certificate in it", .0.display())]
    Empty(PathBuf),
    #[error(transparent)]
    System(#[from] rustls::Error),
}

/// Reads a database URL, or libpq's `key=value` form. `sslmode`: `require`, `verify-ca` and `verify-full` mean TLS with a server
/// that proves who it is; everything else, none.
pub fn parse(url: &str) -> Result<Config, tokio_postgres::Error> {
    let url = VERIFYING.iter().fold(url.to_string(), |url, mode| url.replace(mode, "sslmode=require"));
    let mut config: Config = url.parse()?;
    if config.get_ssl_mode() != SslMode::Require {
        config.ssl_mode(SslMode::Disable);
    }
    Ok(config)
}

/// Prepares connections. `root_certificate`: a PEM file of those that sign the server's certificate; without, those that
/// the operating system trusts.
pub fn connector(root_certificate: Option<&Path>) -> Result<MakeRustlsConnect, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match root_certificate {
        Some(file) => builder.with_root_certificates(roots(file)?),
        None => builder.with_platform_verifier()?,
    };
    Ok(MakeRustlsConnect::new(builder.with_no_client_auth()))
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let unreadable = |error| TlsError::File(file.into(), error);
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|error| TlsError::Certificate(file.into(), error))?;
    }
    if roots.is_empty() { Err(TlsError::Empty(file.into())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_used_where_it_is_asked_for() {
        for (url, mode) in [
            ("postgres://u@h/d", SslMode::Disable),
            ("postgres://u@h/d?sslmode=prefer", SslMode::Disable),
            ("postgres://u@h/d?sslmode=disable", SslMode::Disable),
            ("postgres://u@h/d?sslmode=require", SslMode::Require),
            ("postgres://u@h/d?sslmode=verify-ca&application_name=a", SslMode::Require),
            ("host=h user=u sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(parse(url).unwrap().get_ssl_mode(), mode, "{url}");
        }
        let error = parse("postgres://u@h/d?sslmode=maybe").unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("sslmode"));
    }
}
