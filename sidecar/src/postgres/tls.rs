//! TLS with Postgres. Where it is asked for, the server has to prove who it is: without that, whoever is in between is asked
//! for the password.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The modes of libpq that tokio-postgres has no name for. Both verify; here every mode with TLS does.
const VERIFYING: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

/// Reads a database URL, or libpq's `key=value` form. `sslmode`: `require`, `verify-ca` and `verify-full` mean TLS with a server
/// that proves who it is; everything else, none.
pub fn parse(url: &str) -> Result<Config, String> {
    let url = VERIFYING.iter().fold(url.to_string(), |url, mode| url.replace(mode, "sslmode=require"));
    let mut config: Config =
        url.parse().map_err(|error: tokio_postgres::Error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
    if config.get_ssl_mode() != SslMode::Require {
        config.ssl_mode(SslMode::Disable);
    }
    Ok(config)
}

/// How connections are made. `root_certificate`: a PEM file of those that sign the server's certificate; without, those that
/// the operating system trusts.
///
/// # Errors
/// The file, or what the system trusts, cannot be read.
pub fn connector(root_certificate: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match root_certificate {
        Some(file) => builder.with_root_certificates(roots(file)?),
        None => builder.with_platform_verifier().map_err(|error| error.to_string())?,
    };
    Ok(MakeRustlsConnect::new(builder.with_no_client_auth()))
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| format!("{}: {error}", file.display()))?;
    for certificate in certificates {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if roots.is_empty() { Err(format!("{}: there is no certificate in it", file.display())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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
        assert!(parse("postgres://u@h/d?sslmode=maybe").unwrap_err().contains("sslmode"));
    }
}
