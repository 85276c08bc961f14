//! The public keys of an identity provider, at a URL (JSON Web Key Set).

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::verifier::Key;

/// How often the keys are asked for at most, also when a token names one that is not there.
const PAUSE: Duration = Duration::from_secs(30);

/// How old they may get: a key that is withdrawn is believed for that long.
const AGE: Duration = Duration::from_secs(300);

/// How long an answer may take, and be.
const TIMEOUT: Duration = Duration::from_secs(5);
const BYTES: usize = 64 << 10;

/// Keys, and where they come from. Cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<Provider>);

struct Provider {
    url: Url,
    client: Client,
    known: Mutex<Known>,
    /// Counts the answers, and the requests that got none.
    settled: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    keys: Arc<[Key]>,
    /// When they were last asked for, and last told.
    asked: Option<Instant>,
    told: Option<Instant>,
    is_asking: bool,
}

/// Why there are no keys. For the log.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request failed")]
    Request(#[from] reqwest::Error),
    #[error("the answer has more than {BYTES} bytes")]
    TooLong,
    #[error("the answer is not a JSON Web Key Set")]
    Malformed(#[from] serde_json::Error),
    #[error("there is no key in it that tokens are signed with")]
    Empty,
}

/// Whether there are keys at a URL now.
///
/// # Errors
/// Why not.
pub async fn check_jwks(url: &str) -> Result<(), String> {
    let fetched = Jwks::new(url)?.0.fetch().await;
    fetched.map(drop).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

impl Jwks {
    /// Asks for nothing yet.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(url: &str) -> Result<Self, String> {
        let url: Url = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match url.scheme() {
            "https" => {}
            "http" if is_local => {}
            _ => return Err("keys have to come over https: whoever is in between could make tokens".into()),
        }
        let client = Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| error.to_string())?;
        let (known, settled) = (Mutex::default(), watch::Sender::new(0));
        Ok(Self(Arc::new(Provider { url, client, known, settled })))
    }

    /// The keys: those that are known, if one has this name (`kid`), and otherwise those that the provider has now. While it is
    /// away, those that are known.
    pub async fn keys(&self, name: Option<&str>) -> Arc<[Key]> {
        let mut settled = self.0.settled.subscribe();
        {
            let mut known = self.0.known.lock();
            let is_young = known.told.is_some_and(|told| told.elapsed() < AGE);
            let has_it =
                !known.keys.is_empty() && name.is_none_or(|name| known.keys.iter().any(|key| key.has_name(name)));
            let may_ask = known.asked.is_none_or(|asked| asked.elapsed() >= PAUSE);
            if !(is_young && has_it) && may_ask && !known.is_asking {
                known.asked = Some(Instant::now());
                known.is_asking = true;
                // On its own: whoever made it necessary may be gone before the answer.
                tokio::spawn(self.clone().ask());
            }
            if has_it || !known.is_asking {
                return Arc::clone(&known.keys);
            }
        }
        let _ = settled.changed().await;
        Arc::clone(&self.0.known.lock().keys)
    }

    async fn ask(self) {
        let fetched = self.0.fetch().await;
        let mut known = self.0.known.lock();
        known.is_asking = false;
        match fetched {
            Ok(keys) => {
                known.keys = keys.into();
                known.told = Some(Instant::now());
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the keys of --jwks-url cannot be fetched"),
        }
        drop(known);
        self.0.settled.send_modify(|count| *count += 1);
    }
}

impl Provider {
    async fn fetch(&self) -> Result<Vec<Key>, Failure> {
        let mut response = self.client.get(self.url.clone()).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > BYTES {
                return Err(Failure::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        let keys: Vec<_> = read(&body)?;
        if keys.is_empty() { Err(Failure::Empty) } else { Ok(keys) }
    }
}

/// The keys of a set that are public, and for signatures. Those that nobody here knows are left out.
fn read(body: &[u8]) -> Result<Vec<Key>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let Set { keys } = serde_json::from_slice(body)?;
    let set = JwkSet { keys: keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()).collect() };
    Ok(set.keys.iter().filter_map(|jwk| Key::of_jwk(jwk).ok()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_come_safely() {
        for url in ["https://id.example/keys", "http://localhost:3000/keys", "http://127.0.0.1/"] {
            assert!(Jwks::new(url).is_ok(), "{url}");
        }
        for url in ["http://id.example/keys", "http://localhost.example/", "file:///etc/keys", "keys", ""] {
            assert!(Jwks::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_public_keys_for_signatures_count() {
        let rsa = r#"{"kty":"RSA","kid":"a","use":"sig","n":"AQAB","e":"AQAB"}"#;
        let encryption = r#"{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}"#;
        let secret = r#"{"kty":"oct","k":"c2VjcmV0"}"#;
        let set = format!(r#"{{"keys":[{rsa},{encryption},{secret},{{"kty":"new"}},7]}}"#);
        assert_eq!(read(set.as_bytes()).unwrap().len(), 1);
        assert!(read(b"{}").is_err() && read(b"[]").is_err() && read(b"").is_err());
    }

    #[test]
    fn fuzz_jwks() {
        fuzzing::target!("jwks", |body| {
            let Ok(keys) = read(body) else { return };
            let Ok(set) = serde_json::from_slice::<serde_json::Value>(body) else { return };
            let is_public = |key: &&serde_json::Value| key["kty"] != "oct" && key["use"] != "enc";
            let public = set
                .get("keys")
                .or(set.get(0))
                .and_then(|keys| keys.as_array())
                .into_iter()
                .flatten()
                .filter(is_public)
                .count();
            assert!(keys.len() <= public);
        });
    }
}
