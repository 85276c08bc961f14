//! JSON Web Tokens: whether one is good, by keys that pin the algorithms.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::jwks::{Jwks, JwksError};

/// The longest `sub`, in bytes: it is in an index.
pub const SUBJECT_BYTES: usize = 256;

/// Says whether a token is good.
pub struct Verifier {
    keys: Vec<Key>,
    provider: Option<Jwks>,
    validation: Validation,
}

/// Keys that verify signatures.
pub struct Key {
    key: DecodingKey,
    /// `kid`
    name: Option<String>,
    /// The algorithm that it is for, if it says so.
    algorithm: Option<String>,
}

impl From<DecodingKey> for Key {
    fn from(key: DecodingKey) -> Self {
        Self { key, name: None, algorithm: None }
    }
}

/// Why a key cannot verify tokens.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a secret is not a public key")]
    Secret,
    #[error("it is not for signatures")]
    NotForSignatures,
    #[error("not a key to verify tokens with")]
    Unusable(#[source] jsonwebtoken::errors::Error),
    #[error("not a JWK")]
    NotJwk(#[source] serde_json::Error),
    #[error("not a public key of RSA, EC or Ed25519, as PEM (-----BEGIN PUBLIC KEY-----) or JWK")]
    NotPublic,
}

impl Key {
    pub fn of_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Err(KeyError::Secret);
        }
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return Err(KeyError::NotForSignatures);
        }
        let key = DecodingKey::from_jwk(jwk).map_err(KeyError::Unusable)?;
        let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        Ok(Self { key, name: jwk.common.key_id.clone(), algorithm })
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// Whether this key may have signed a token with this header. The type of the key decides which algorithms are accepted.
    /// The header of the token can only choose among these.
    fn fits(&self, header: &Header) -> bool {
        let is_meant = match (&self.name, &header.kid) {
            (Some(name), Some(kid)) => name == kid,
            _ => true,
        };
        is_meant && self.takes(header.alg)
    }

    fn takes(&self, algorithm: Algorithm) -> bool {
        let is_kind = self.key.family().algorithms().contains(&algorithm);
        is_kind && self.algorithm.as_ref().is_none_or(|of_key| *of_key == format!("{algorithm:?}"))
    }
}

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: who it is.
    pub subject: Arc<str>,
    pub all: Map<String, Value>,
    /// `exp`, and the leeway: when the token ends.
    ends: SystemTime,
}

/// Why a client is not let in. The text is for the client, and holds nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "this server requires a token: send one in the header authorization, as authToken of the sync payload, as ?token= or in the cookie auth_token"
    )]
    Missing,
    #[error("the token is not a JSON Web Token")]
    Malformed,
    #[error("the token is signed with an algorithm that this server does not take")]
    Algorithm,
    #[error("the token is signed with a key (kid) that this server does not have: is it from another issuer?")]
    UnknownKey,
    #[error("the token says that a part of its header is critical (crit), which this server does not know")]
    Critical,
    #[error("the keys that tokens are signed with cannot be fetched at the moment: try again")]
    NoKeys,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token has expired: get a new one")]
    Expired,
    #[error("the token is not valid yet")]
    Immature,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token lacks the claim {0}")]
    Claim(&'static str),
    #[error("the claim of the token that says what it allows is malformed: it maps stores to read, write or admin")]
    Access,
    #[error("this subject has too many connections, {most}: close some, or try later")]
    TooMany { subject: Arc<str>, most: usize },
}

impl TokenError {
    /// Whether the same token may be taken later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoKeys | Self::TooMany { .. })
    }

    /// Whether another key may verify the token.
    fn is_of_keys(&self) -> bool {
        matches!(self, Self::Algorithm | Self::UnknownKey | Self::Signature)
    }
}

impl Verifier {
    /// One that takes no token yet. `leeway`: by how much the clocks of others may be wrong.
    pub fn new(leeway: Duration) -> Self {
        // Without an expectation, the audience of a token is not looked at.
        let validation = Validation {
            leeway: leeway.as_secs() + u64::from(leeway.subsec_nanos() > 0),
            validate_nbf: true,
            validate_aud: false,
            ..Validation::default()
        };
        Self { keys: Vec::new(), provider: None, validation }
    }

    /// Takes tokens of this audience only.
    pub fn with_audience(mut self, audience: &str) -> Self {
        self.validation.validate_aud = true;
        self.validation.set_audience(&[audience]);
        self.validation.required_spec_claims.insert("aud".into());
        self
    }

    /// Takes tokens of this issuer only.
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        self.validation.set_issuer(&[issuer]);
        self.validation.required_spec_claims.insert("iss".into());
        self
    }

    /// Takes tokens that this secret signs.
    pub fn with_secret(mut self, secret: &str) -> Self {
        self.keys.push(DecodingKey::from_secret(secret.as_bytes()).into());
        self
    }

    /// Takes tokens whose signature this public key verifies: RSA, EC or Ed25519, as PEM or JWK.
    pub fn with_public_key(mut self, key: &str) -> Result<Self, KeyError> {
        self.keys.push(public_key(key.trim())?);
        Ok(self)
    }

    /// Takes tokens whose signature a key at this URL verifies.
    pub fn with_jwks(self, url: &str) -> Result<Self, JwksError> {
        Ok(Self { provider: Some(Jwks::new(url)?), ..self })
    }

    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = decode_header(token).map_err(|error| match error.kind() {
            // `none`, for one.
            ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
            ErrorKind::Json(error) if error.is_data() => TokenError::Algorithm,
            _ => TokenError::Malformed,
        })?;
        // A verifier that does not know such a part must not take the token (RFC 7515, section 4.1.11), and none is known here.
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let refused = match self.verify_by(&self.keys, token, &header) {
            Err(refused) if refused.is_of_keys() => refused,
            decided => return decided,
        };
        let Some(provider) = &self.provider else {
            return Err(refused);
        };
        let known = provider.keys(header.kid.as_deref()).await.ok_or(TokenError::NoKeys)?;
        match self.verify_by(&known.keys, token, &header) {
            // The token does not name its key (`kid`), so it may be signed with a key that is not known yet.
            Err(refused) if refused.is_of_keys() && header.kid.is_none() => {
                let newer = provider.newer(&known).await.ok_or(TokenError::NoKeys)?;
                self.verify_by(&newer.keys, token, &header)
            }
            decided => decided,
        }
    }

    fn verify_by(&self, keys: &[Key], token: &str, header: &Header) -> Result<Claims, TokenError> {
        let is_taken = keys.iter().any(|key| key.takes(header.alg));
        let mut refused = if is_taken { TokenError::UnknownKey } else { TokenError::Algorithm };
        for key in keys.iter().filter(|key| key.fits(header)) {
            let algorithms = key.key.family().algorithms().to_vec();
            let validation = Validation { algorithms, ..self.validation.clone() };
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(token) => return self.claims(token.claims),
                Err(error) => refused = reason(&error),
            }
            if refused != TokenError::Signature {
                break;
            }
        }
        Err(refused)
    }

    fn claims(&self, all: Map<String, Value>) -> Result<Claims, TokenError> {
        let subject = all.get("sub").and_then(Value::as_str);
        let subject = subject.filter(|sub| !sub.is_empty() && sub.len() <= SUBJECT_BYTES && !sub.contains('\0'));
        let subject = subject.ok_or(TokenError::Claim("sub (1 to 256 bytes)"))?.into();
        let ends = all
            .get("exp")
            .and_then(Value::as_f64)
            .and_then(|exp| Duration::try_from_secs_f64(exp).ok())
            .and_then(|exp| UNIX_EPOCH.checked_add(exp)?.checked_add(Duration::from_secs(self.validation.leeway)));
        Ok(Claims { subject, all, ends: ends.ok_or(TokenError::Claim("exp (seconds since 1970)"))? })
    }
}

impl Claims {
    /// When the token ends; `None` if nobody alive will see it.
    pub fn until(&self) -> Option<Instant> {
        let left = self.ends.duration_since(SystemTime::now()).unwrap_or_default();
        Instant::now().checked_add(left)
    }
}

fn public_key(key: &str) -> Result<Key, KeyError> {
    if key.starts_with('{') {
        let jwk: Jwk = serde_json::from_str(key).map_err(KeyError::NotJwk)?;
        return Key::of_jwk(&jwk);
    }
    // As environment variables often hold it.
    let pem = key.replace("\\n", "\n");
    let kinds = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    let known = kinds.iter().find_map(|read| read(pem.as_bytes()).ok());
    let known = known.filter(|_| !pem.contains("PRIVATE KEY"));
    known.map(Into::into).ok_or(KeyError::NotPublic)
}

fn reason(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::Immature,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
            "exp" => TokenError::Claim("exp (seconds since 1970)"),
            "nbf" => TokenError::Claim("nbf (seconds since 1970)"),
            "aud" => TokenError::Claim("aud"),
            "iss" => TokenError::Claim("iss"),
            _ => TokenError::Malformed,
        },
        ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => {
            TokenError::Malformed
        }
        // The key is not for this algorithm, as with another curve.
        _ => TokenError::Signature,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1mBZmEOlBDDXCfUKo1VnAYffIwo6lmSzmJuUTp0nrs0=\n-----END PUBLIC KEY-----";

    /// A token is good to one key at most, and never to a public one, whose private one is thrown away: not even if it is signed
    /// with the text of the public one as a secret.
    #[test]
    fn fuzz_token() {
        fuzzing::text_target!("token", |token| {
            let verifier = || Verifier::new(Duration::ZERO);
            let verify = |verifier: Verifier| verifier.verify(token).now_or_never().unwrap();
            if let Ok(claims) = verify(verifier().with_secret("a secret")) {
                assert!((1..=SUBJECT_BYTES).contains(&claims.subject.len()) && !claims.subject.contains('\0'));
                let _ = claims.until();
                assert!(verify(verifier().with_secret("another")).is_err());
            }
            assert!(verify(verifier().with_public_key(PUBLIC_KEY).unwrap()).is_err());
        });
    }

    #[test]
    fn a_token_of_an_unknown_key_is_told_so() {
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"1mBZmEOlBDDXCfUKo1VnAYffIwo6lmSzmJuUTp0nrs0","kid":"a"}"#;
        let verifier = Verifier::new(Duration::ZERO).with_public_key(jwk).unwrap();
        for (header, refused) in [
            // {"alg":"EdDSA","kid":"a"}, the same with "b", {"alg":"EdDSA"} and {"alg":"ES256","kid":"b"}
            ("eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ", TokenError::Signature),
            ("eyJhbGciOiJFZERTQSIsImtpZCI6ImIifQ", TokenError::UnknownKey),
            ("eyJhbGciOiJFZERTQSJ9", TokenError::Signature),
            ("eyJhbGciOiJFUzI1NiIsImtpZCI6ImIifQ", TokenError::Algorithm),
        ] {
            let token = format!("{header}.e30.AAAA");
            assert_eq!(verifier.verify(&token).now_or_never().unwrap(), Err(refused), "{header}");
        }
    }

    #[test]
    fn fuzz_public_key() {
        fuzzing::text_target!("public_key", |text| {
            if let Ok(Key { key, .. }) = public_key(text) {
                assert!(!key.family().algorithms().contains(&Algorithm::HS256) && !text.contains("PRIVATE KEY"));
            }
        });
    }
}
