//! What settings mean together, and which of them make no sense.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Auth, Config};
use crate::auth::{Authentication, Jwt, Verifier};
use crate::gate::hosts::Hosts;
use crate::gate::origins::Origins;
use crate::limits::quota::Quota;
use crate::limits::rate_limit::Rate;
use crate::log::{PushBounds, StoreId};
use crate::postgres::{Database, tls};
use crate::protocols::electric::Upstream;

/// An HMAC is worth no more than its secret: as many bytes as SHA-256 has (RFC 7518, section 3.2).
const SECRET_BYTES: usize = 32;

/// How many requests of a subject may wait for a place among its connections, but no more than it has places.
const QUEUE: usize = 32;

/// By how much clocks may be said to be wrong.
const LONGEST_LEEWAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// What must not be, although each setting alone is right.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        let secrets = [
            ("--admin-secret", &self.admin_secret),
            ("--electric-secret", &self.electric_secret),
            ("--jwt-secret", &self.jwt_secret),
        ];
        for (option, secret) in secrets {
            if secret.as_deref() == Some("") {
                return Err(format!("{option} is empty: give it one that nobody guesses, or leave it out"));
            }
        }
        let texts = [
            ("--jwt-audience", &self.jwt_audience),
            ("--jwt-issuer", &self.jwt_issuer),
            ("--access-claim", &Some(self.access_claim.clone())),
            ("--authorize-function", &self.authorize_function),
            ("--electric-url", &self.electric_url),
            ("--otlp-endpoint", &self.otlp_endpoint),
        ];
        if let Some((option, _)) =
            texts.into_iter().find(|(_, text)| text.as_deref().is_some_and(|text| text.trim().is_empty()))
        {
            return Err(format!("{option} is empty: say what it is, or leave it out"));
        }
        if let Some(store) = &self.relay_store {
            // As for a user with a short name.
            StoreId::parse(&store.replace("{user}", "u")).map_err(|error| format!("--relay-store: {error}"))?;
        }
        if self.health_listen == Some(self.listen) && self.listen.port() != 0 {
            return Err("--health-listen is the address of --listen: give it a port of its own".into());
        }
        if self.max_buffer_bytes < self.max_buffer_bytes_per_client
            || self.max_buffer_bytes_per_client < self.max_frame_bytes
        {
            return Err(
                "--max-buffer-bytes must not be less than --max-buffer-bytes-per-client, nor that than --max-frame-bytes: \
                 a frame that may be sent could not be taken"
                    .into(),
            );
        }
        if self.auth == Auth::Jwt && self.relay_store.as_deref().is_some_and(|store| !store.contains("{user}")) {
            return Err(
                "--relay-store without {user} would let users read each other's events: say relay-{user}".into()
            );
        }
        Ok(())
    }

    /// How clients prove who they are.
    ///
    /// # Errors
    /// What to change.
    pub fn authentication(&self) -> Result<Authentication, String> {
        if self.auth == Auth::None {
            let is_given = [
                ("--jwt-secret", self.jwt_secret.is_some()),
                ("--jwt-public-key", self.jwt_public_key.is_some()),
                ("--jwks-url", self.jwks_url.is_some()),
                ("--allow", !self.allow.is_empty()),
            ];
            return match is_given.into_iter().find(|(_, is_given)| *is_given) {
                Some((option, _)) => Err(format!("{option} without --auth jwt would protect nothing: say that, too")),
                None => Ok(Authentication::None),
            };
        }
        if self.jwt_leeway > LONGEST_LEEWAY {
            return Err("--jwt-leeway is more than a day: tokens would hardly end".into());
        }
        let mut verifier = Verifier::new(self.jwt_leeway);
        if self.jwt_secret.is_none() && self.jwt_public_key.is_none() && self.jwks_url.is_none() {
            return Err(
                "--auth jwt needs --jwt-secret, --jwt-public-key or --jwks-url (LIVESTORE_JWT_SECRET, LIVESTORE_JWT_PUBLIC_KEY, LIVESTORE_JWKS_URL)"
                    .into(),
            );
        }
        if let Some(secret) = &self.jwt_secret {
            if self.has_short_secret() && !self.insecure_short_secret {
                return Err(format!(
                    "--jwt-secret has less than {SECRET_BYTES} bytes: who guesses it makes tokens. openssl rand -base64 32 \
                     makes one that nobody does; --insecure-short-secret takes it, for development"
                ));
            }
            verifier = verifier.with_secret(secret);
        }
        if let Some(key) = &self.jwt_public_key {
            let wrong = |error: String| format!("--jwt-public-key: {error}");
            let is_key = key.trim_start().starts_with(['-', '{']);
            let file = || std::fs::read_to_string(key).map_err(|error| wrong(format!("cannot read the file: {error}")));
            let key = if is_key { key.clone() } else { file()? };
            verifier = verifier.with_public_key(&key).map_err(wrong)?;
        }
        if let Some(url) = &self.jwks_url {
            verifier = verifier.with_jwks(url).map_err(|error| format!("--jwks-url: {error}"))?;
        }
        if let Some(audience) = &self.jwt_audience {
            verifier = verifier.with_audience(audience);
        }
        if let Some(issuer) = &self.jwt_issuer {
            verifier = verifier.with_issuer(issuer);
        }
        Ok(Authentication::Jwt(Box::new(Jwt {
            verifier,
            access_claim: self.access_claim.clone(),
            allow: self.allow.clone(),
            connections: Quota::new(self.max_connections_per_subject),
            queue: Quota::new(self.max_connections_per_subject.min(QUEUE)),
        })))
    }

    /// Whether the secret that signs tokens could be guessed.
    pub fn has_short_secret(&self) -> bool {
        self.jwt_secret.as_ref().is_some_and(|secret| secret.len() < SECRET_BYTES)
    }

    /// Whether it may serve on this address: that of --listen, or of a socket that it was given.
    ///
    /// # Errors
    /// What to change.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), String> {
        if self.auth == Auth::None && !address.ip().is_loopback() && !self.insecure_no_auth {
            return Err(format!(
                "without authentication, {address} would let everybody who reaches it read and write every store: \
                 listen on 127.0.0.1, or say --insecure-no-auth if that is what you want"
            ));
        }
        Ok(())
    }

    /// How much may be pushed.
    pub fn push_bounds(&self) -> PushBounds {
        PushBounds {
            batch_events: self.max_batch_events,
            event_bytes: self.max_event_bytes,
            per_subject: Rate { things: self.pushes_per_second, bytes: self.push_bytes_per_second },
            per_store: Rate { things: self.store_pushes_per_second, bytes: self.store_bytes_per_second },
            new_stores_per_hour: self.new_stores_per_hour,
        }
    }

    /// # Errors
    /// Which of --allowed-hosts is no host.
    pub fn hosts(&self) -> Result<Hosts, String> {
        let any = self.auth == Auth::Jwt || self.insecure_no_auth;
        Hosts::parse(&self.allowed_hosts, any).map_err(|error| format!("--allowed-hosts: {error}"))
    }

    /// # Errors
    /// Which of --cors-origins is no origin, or of --allowed-hosts no host.
    pub fn origins(&self) -> Result<Origins, String> {
        match self.cors_origins.as_slice() {
            [] if self.insecure_no_auth => Ok(Origins::Any),
            [] => Ok(Origins::Local(self.hosts()?)),
            origins => Origins::parse(origins, self.hosts()?).map_err(|error| format!("--cors-origins: {error}")),
        }
    }

    /// The Electric server behind this sidecar, if there is one.
    ///
    /// # Errors
    /// What to change.
    pub fn electric(&self) -> Result<Option<Upstream>, String> {
        let electric = self.electric_url.as_deref().map(|url| Upstream::new(url, self.electric_secret.clone()));
        electric.transpose().map_err(|error| format!("--electric-url: {error}"))
    }

    /// Where the database is; makes no connection yet.
    ///
    /// # Errors
    /// What to change.
    pub fn database(&self) -> Result<Database, String> {
        let url = self.database_url.as_deref().unwrap_or_default();
        let url = tls::parse(url).map_err(|error| format!("--database-url: {error}"))?;
        let tls = tls::connector(self.database_root_certificate.as_deref())
            .map_err(|error| format!("--database-root-certificate: {error}"))?;
        Database::new(url, tls, self.database_connections.into())
            .map_err(|error| format!("--database-connections: {error}"))
    }
}
