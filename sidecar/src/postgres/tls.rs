//! TLS with Postgres. Where it is asked for, the server has to prove who it is: without that, whoever is in between is asked
//! for the password.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::Roots;

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

/// Prepares connections to a server whose certificate one of these authorities has signed.
pub fn connector(trusted: &Roots) -> Result<MakeRustlsConnect, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match trusted {
        Roots::File(file) => builder.with_root_certificates(roots(file)?),
        Roots::System => builder.with_platform_verifier()?,
        Roots::Nobody => builder.with_root_certificates(RootCertStore::empty()),
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
