//! Authentication: the token that a client brings, and what the token allows.
//!
//! - [`credentials`] finds the tokens of a request.
//! - [`verifier`] says whether one is good.
//! - [`jwks`] fetches the keys of an identity provider.
//! - [`access`] says which stores it gives.
//! - [`secret`] keeps secrets from being guessed.

mod access;
mod credentials;
mod jwks;
mod secret;
mod settings;
mod verifier;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use self::access::Access;
pub use self::credentials::{Credentials, only};
pub use self::jwks::check_jwks;
pub use self::secret::{Guess, Secret, penalty};
pub use self::settings::{Auth, AuthSettings, check_access_claim, check_jwt_secret};
pub use self::verifier::{SUBJECT_BYTES, TokenError};

use self::access::{Rule, Template, most, named, of_all_stores};
use self::verifier::{Claims, Verifier};
use crate::limits::quota::{Permit, Quota};
use crate::telemetry::metrics::Limit;

/// The way in which clients prove their identity.
pub enum Authentication {
    /// Clients prove nothing: they count as one client, which may do everything.
    None,
    Jwt(Box<Jwt>),
}

/// By JSON Web Tokens.
pub struct Jwt {
    pub verifier: Verifier,
    /// The claim that says what a token allows.
    pub access_claim: String,
    /// The access that every token gives.
    pub allow: Vec<Template>,
    /// Connections of each subject.
    pub connections: Arc<Quota<Arc<str>>>,
    /// Requests of each subject that wait for one of those.
    pub queue: Arc<Quota<Arc<str>>>,
}

/// The client that sends a request.
#[derive(Debug)]
pub struct Identity {
    /// The `sub` of the token; empty without authentication.
    pub subject: Arc<str>,
    /// When the token ends.
    pub until: Option<Instant>,
    /// All that the token says, as JSON.
    pub claims: Option<Box<str>>,
    /// `None`: everything.
    rules: Option<Vec<Rule>>,
    /// The access to every store that the claim of the token itself gives, and not a rule for all tokens.
    pub over_all_stores: Option<Access>,
    /// Among the connections of this subject.
    _permit: Option<Permit<Arc<str>>>,
}

impl Authentication {
    /// Identifies the client that sends a request with these credentials.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Identity, TokenError> {
        match self {
            Self::None => Ok(Identity {
                subject: "".into(),
                until: None,
                claims: None,
                rules: None,
                over_all_stores: None,
                _permit: None,
            }),
            Self::Jwt(jwt) => jwt.identify(credentials.token().ok_or(TokenError::Missing)?).await,
        }
    }

    /// Takes a place in the queue of a subject: one of its requests that wait for a connection, if there may be another.
    pub fn queue(&self, subject: Arc<str>) -> Option<Permit<Arc<str>>> {
        match self {
            Self::None => None,
            Self::Jwt(jwt) => jwt.queue.take(subject),
        }
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Jwt {
    async fn identify(&self, token: &str) -> Result<Identity, TokenError> {
        let claims = self.verifier.verify(token).await?;
        let permit = self.connections.take(Arc::clone(&claims.subject)).ok_or_else(|| {
            Limit::ConnectionsPerSubject.hit();
            TokenError::TooMany { subject: Arc::clone(&claims.subject), most: self.connections.each() }
        })?;
        let of_token = match claims.all.get(&self.access_claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(claim) => Rule::of_claim(claim).map_err(|_| TokenError::Access)?,
        };
        let over_all_stores = of_all_stores(&of_token);
        let of_all = self.allow.iter().map(|template| template.of(&claims.subject));
        let rules = of_token.into_iter().chain(of_all).collect();
        let until = claims.until();
        let Claims { subject, all, .. } = claims;
        Ok(Identity {
            subject,
            until,
            claims: Some(Value::Object(all).to_string().into()),
            rules: Some(rules),
            over_all_stores,
            _permit: Some(permit),
        })
    }
}

/// A token that a secret signs, for trying.
pub fn mint(
    secret: &str,
    subject: &str,
    lasts: Duration,
    access_claim: &str,
    stores: &[String],
    access: Access,
) -> Result<String, jsonwebtoken::errors::Error> {
    let ends = (SystemTime::now() + lasts).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let allowed: Map<String, Value> = stores.iter().map(|store| (store.clone(), access.name().into())).collect();
    let claims = json!({"sub": subject, "exp": ends, access_claim: allowed});
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key)
}

impl Identity {
    /// Whether this much may be done with a store.
    pub fn may(&self, store: &str, access: Access) -> bool {
        self.rules.as_ref().is_none_or(|rules| most(rules, store) >= Some(access))
    }

    /// The names of stores, and the beginnings of names, that the token allows something with. `None`: all.
    pub fn stores(&self) -> Option<(Vec<&str>, Vec<&str>)> {
        self.rules.as_ref().map(named)
    }

    /// Whether the token has ended.
    pub fn has_ended(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A good token allows what its claims say, whatever else they say.
    #[test]
    fn fuzz_claims() {
        fuzzing::text_target!("claims", |text| {
            let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else { return };
            let key = EncodingKey::from_secret(b"a secret");
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
            let verifier = Verifier::new(Duration::ZERO).with_secret("a secret");
            let (connections, queue) = (Quota::new(1), Quota::new(1));
            let jwt = Jwt { verifier, access_claim: "livestore".into(), allow: Vec::new(), connections, queue };
            let credentials = Credentials::default().with_payload(Some(&json!({"authToken": token}).to_string()));
            let identified = Authentication::Jwt(Box::new(jwt)).identify(&credentials).now_or_never().unwrap();
            let Ok(identity) = identified else { return };
            assert!(claims["sub"] == *identity.subject && claims["exp"].as_f64() > Some(1.7e9));
            assert_eq!(
                serde_json::from_str::<Map<String, Value>>(identity.claims.as_deref().unwrap()).unwrap(),
                claims
            );
            let access = claims.get("livestore").and_then(Value::as_object);
            for store in ["", "todos", "public-1", "*"] {
                assert!(!identity.may(store, Access::Read) || access.is_some_and(|access| !access.is_empty()));
                assert!(!identity.may(store, Access::Admin) || identity.may(store, Access::Write));
            }
        });
    }
}
