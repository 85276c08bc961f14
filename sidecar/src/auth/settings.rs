//! The settings of authentication.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Authentication, Jwt, Template, Verifier};
use crate::limits::quota::Quota;
use crate::settings::values::{at_least, duration};
use crate::settings::{SettingsError, check_secret, check_text};

/// An HMAC is worth no more than its secret: as many bytes as SHA-256 has (RFC 7518, section 3.2).
const SECRET_BYTES: usize = 32;

const JWT_SECRET: &str = "--jwt-secret";

/// The number of requests of a subject that may wait for one of its connections to end, but no more than it may have connections.
const QUEUE: usize = 32;

/// The most by which clocks may differ.
const LONGEST_LEEWAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Args)]
pub struct AuthSettings {
    /// Authentication. none: everybody may connect, beyond loopback only with --insecure-no-auth. jwt: clients need a valid token.
    #[arg(long, env = "LIVESTORE_AUTH", default_value = "none")]
    pub auth: Auth,

    /// The secret that signs tokens (HS256, HS384, HS512): at least 32 bytes.
    #[arg(long, env = "LIVESTORE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Option<String>,

    /// Accept a --jwt-secret of less than 32 bytes, for development. It can be guessed, and then anybody can make tokens.
    #[arg(long, env = "LIVESTORE_INSECURE_SHORT_SECRET")]
    insecure_short_secret: bool,

    /// The public key that verifies tokens: RSA, EC or Ed25519, as PEM or JWK, or a file that holds it.
    #[arg(long, env = "LIVESTORE_JWT_PUBLIC_KEY", value_name = "KEY", allow_hyphen_values = true)]
    jwt_public_key: Option<String>,

    /// URL of the public keys of an identity provider (JWKS), e.g. https://id.example.com/.well-known/jwks.json. They are
    /// asked for at most every 5 s, and kept while the provider is away.
    #[arg(long, env = "LIVESTORE_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,

    /// The audience (aud) that tokens must be for. Not checked by default.
    #[arg(long, env = "LIVESTORE_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,

    /// The issuer (iss) that tokens must come from. Not checked by default.
    #[arg(long, env = "LIVESTORE_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,

    /// The claim that says what a token allows: an object that maps stores, by name or by a prefix with * at the end, to
    /// read, write or admin, e.g. {"todos": "write", "public-*": "read"}.
    #[arg(long, env = "LIVESTORE_ACCESS_CLAIM", default_value = "livestore", value_name = "CLAIM")]
    access_claim: String,

    /// Access that every token gives in addition to its claim. {sub} stands for the subject of the token, e.g.
    /// user-{sub}=write. *=write allows to read and write all stores.
    #[arg(long, env = "LIVESTORE_ALLOW", value_name = "STORE=ACCESS", value_delimiter = ',')]
    allow: Vec<Template>,

    /// The difference between clocks that is tolerated when the times of a token (exp, nbf) are checked.
    #[arg(long, env = "LIVESTORE_JWT_LEEWAY", default_value = "0s", value_parser = duration)]
    jwt_leeway: Duration,

    /// Connections that all clients with tokens of one subject (sub) may have together: WebSockets, and requests that are
    /// being answered.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS_PER_SUBJECT", default_value_t = 1000, value_parser = at_least(1_usize))]
    max_connections_per_subject: usize,

    /// Serve everybody who can reach the address, without authentication, even if it is not a loopback address. Without
    /// --cors-origins, web pages of every origin are served, too.
    #[arg(long, env = "LIVESTORE_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    None,
    Jwt,
}

impl AuthSettings {
    /// Whether an operator has decided who is served: by tokens, or that everybody is.
    pub fn is_decided(&self) -> bool {
        self.auth == Auth::Jwt || self.insecure_no_auth
    }

    /// Whether the secret that signs tokens could be guessed, and is taken all the same.
    pub fn takes_short_secret(&self) -> bool {
        self.has_short_secret() && self.insecure_short_secret
    }

    /// Whether the secret that signs tokens has a line break or another white space at an end, as one that comes from a file may have.
    pub fn has_blank_end(&self) -> bool {
        self.jwt_secret.as_deref().is_some_and(|secret| secret.trim() != secret)
    }

    fn has_short_secret(&self) -> bool {
        self.jwt_secret.as_ref().is_some_and(|secret| secret.len() < SECRET_BYTES)
    }

    pub fn check(&self) -> Result<(), SettingsError> {
        check_secret(JWT_SECRET, self.jwt_secret.as_deref())?;
        check_text("--jwt-audience", self.jwt_audience.as_deref())?;
        check_text("--jwt-issuer", self.jwt_issuer.as_deref())?;
        check_access_claim(&self.access_claim)?;
        self.authentication().map(drop)
    }

    /// Whether the sidecar may serve on this address: that of --listen, or of a socket that it was given.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), SettingsError> {
        if self.auth == Auth::None && !address.ip().is_loopback() && !self.insecure_no_auth {
            let text = format!(
                "without authentication, {address} would let everybody who reaches it read and write every store: \
                 listen on 127.0.0.1, or say --insecure-no-auth if that is what you want"
            );
            return Err(text.into());
        }
        Ok(())
    }

    /// The way in which clients prove their identity.
    pub fn authentication(&self) -> Result<Authentication, SettingsError> {
        if self.auth == Auth::None {
            let is_given = [
                ("--jwt-secret", self.jwt_secret.is_some()),
                ("--jwt-public-key", self.jwt_public_key.is_some()),
                ("--jwks-url", self.jwks_url.is_some()),
                ("--jwt-audience", self.jwt_audience.is_some()),
                ("--jwt-issuer", self.jwt_issuer.is_some()),
                ("--allow", !self.allow.is_empty()),
            ];
            return match is_given.into_iter().find(|(_, is_given)| *is_given) {
                Some((option, _)) => Err(format!("{option} has no effect without --auth jwt: add that option").into()),
                None => Ok(Authentication::None),
            };
        }
        let most = self.max_connections_per_subject;
        Ok(Authentication::Jwt(Box::new(Jwt {
            verifier: self.verifier()?,
            access_claim: self.access_claim.clone(),
            allow: self.allow.clone(),
            connections: Quota::new(most),
            queue: Quota::new(most.min(QUEUE)),
        })))
    }

    fn verifier(&self) -> Result<Verifier, SettingsError> {
        if self.jwt_leeway > LONGEST_LEEWAY {
            return Err("--jwt-leeway is more than a day: tokens would hardly end".into());
        }
        if self.jwt_secret.is_none() && self.jwt_public_key.is_none() && self.jwks_url.is_none() {
            return Err(
                "--auth jwt needs --jwt-secret, --jwt-public-key or --jwks-url (LIVESTORE_JWT_SECRET, LIVESTORE_JWT_PUBLIC_KEY, LIVESTORE_JWKS_URL)"
                    .into(),
            );
        }
        let mut verifier = Verifier::new(self.jwt_leeway);
        if let Some(secret) = &self.jwt_secret {
            check_jwt_secret(secret, self.insecure_short_secret)?;
            verifier = verifier.with_secret(secret);
        }
        if let Some(key) = &self.jwt_public_key {
            const OPTION: &str = "--jwt-public-key";
            let is_key = key.trim_start().starts_with(['-', '{']);
            let unreadable = |error| SettingsError::of(OPTION)(format!("cannot read the file: {error}"));
            let file = || std::fs::read_to_string(key).map_err(unreadable);
            let key = if is_key { key.clone() } else { file()? };
            verifier = verifier.with_public_key(&key).map_err(SettingsError::of(OPTION))?;
        }
        if let Some(url) = &self.jwks_url {
            verifier = verifier.with_jwks(url).map_err(SettingsError::of("--jwks-url"))?;
        }
        if let Some(audience) = &self.jwt_audience {
            verifier = verifier.with_audience(audience);
        }
        if let Some(issuer) = &self.jwt_issuer {
            verifier = verifier.with_issuer(issuer);
        }
        Ok(verifier)
    }
}

/// The claim that lists the stores has no other meaning.
pub fn check_access_claim(claim: &str) -> Result<(), SettingsError> {
    check_text("--access-claim", Some(claim))?;
    if ["sub", "exp", "nbf"].contains(&claim) {
        return Err(format!("--access-claim: a token needs the claim {claim} for something else").into());
    }
    Ok(())
}

/// A secret of tokens cannot be guessed, unless the operator takes one that can.
pub fn check_jwt_secret(secret: &str, takes_short: bool) -> Result<(), SettingsError> {
    check_secret(JWT_SECRET, Some(secret))?;
    if secret.len() < SECRET_BYTES && !takes_short {
        let text = format!(
            "{JWT_SECRET} has less than {SECRET_BYTES} bytes: whoever guesses it can make tokens. openssl rand -base64 32 makes one that nobody \
             does; --insecure-short-secret takes it, for development"
        );
        return Err(text.into());
    }
    Ok(())
}
