//! The public keys of an identity provider, at a URL (JSON Web Key Set).

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use super::verifier::Key;

use crate::telemetry::chain;

/// The shortest interval at which the keys are fetched, also when a token names one that is not there.
const PAUSE: Duration = Duration::from_secs(5);

/// The number of tokens of unknown keys that may wait for the next fetch. Those beyond are told to try again.
const WAITERS: usize = 1000;

/// The age at which the keys are fetched again. A key that the provider withdraws is accepted for about that long.
const AGE: Duration = Duration::from_secs(300);

/// The limits of an answer, in time and bytes.
const TIMEOUT: Duration = Duration::from_secs(5);
const BYTES: usize = 64 << 10;

/// Keys, and where they come from. Cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<Provider>);

struct Provider {
    url: Url,
    client: Client,
    known: Mutex<Known>,
    /// Incremented whenever a request has ended, with an answer or without one, to wake those that wait.
    settled: watch::Sender<u64>,
    /// Places for those that wait.
    waiters: Semaphore,
}

/// The provider's last answer.
#[derive(Clone, Default)]
pub struct Keys {
    pub keys: Arc<[Key]>,
    /// The number of this answer, counted from 1; 0 before the first.
    number: u64,
}

#[derive(Default)]
struct Known {
    keys: Keys,
    /// When they were last asked for, and last told.
    asked: Option<Instant>,
    told: Option<Instant>,
    is_asking: bool,
    /// The last request got no answer.
    is_failing: bool,
}

impl Known {
    /// The keys, if there are any, unless the last request failed: then they may be outdated.
    fn latest(&self) -> Option<Keys> {
        (!self.is_failing && !self.keys.keys.is_empty()).then(|| self.keys.clone())
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("it is no URL: begin it with https://")]
    NotUrl(#[source] <Url as FromStr>::Err),
    #[error("it must begin with https://: otherwise somebody on the network could replace the keys")]
    NotHttps,
    #[error("the client for requests cannot be made")]
    Client(#[source] reqwest::Error),
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer has more than {BYTES} bytes")]
    TooLong,
    #[error("the answer is not a JSON Web Key Set")]
    Malformed(#[from] serde_json::Error),
    #[error("it has no public key for signatures")]
    Empty,
}

/// Without the URL, whose query may hold a secret.
impl From<reqwest::Error> for JwksError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

/// Whether there are keys at a URL now.
pub async fn check_jwks(url: &str) -> Result<(), JwksError> {
    let keys = Jwks::new(url)?.0.fetch().await?;
    if keys.is_empty() { Err(JwksError::Empty) } else { Ok(()) }
}

impl Jwks {
    /// Asks for nothing yet.
    pub fn new(url: &str) -> Result<Self, JwksError> {
        let url: Url = url.parse().map_err(JwksError::NotUrl)?;
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match url.scheme() {
            "https" => {}
            "http" if is_local => {}
            _ => return Err(JwksError::NotHttps),
        }
        let client = Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none()).build();
        let client = client.map_err(JwksError::Client)?;
        let (known, settled) = (Mutex::default(), watch::Sender::new(0));
        let waiters = Semaphore::new(WAITERS);
        Ok(Self(Arc::new(Provider { url, client, known, settled, waiters })))
    }

    /// The known keys, if one of them has this name (`kid`). Otherwise waits for the next answer of the provider, because the
    /// key may be new. `None` if the keys cannot be had now.
    pub async fn keys(&self, name: Option<&str>) -> Option<Keys> {
        self.fetched(|known| name.is_none_or(|name| known.keys.iter().any(|key| key.has_name(name)))).await
    }

    /// Waits for an answer of the provider that is newer than the one with these keys. `None` as above.
    pub async fn newer(&self, than: &Keys) -> Option<Keys> {
        self.fetched(|known| known.number > than.number).await
    }

    async fn fetched(&self, is_enough: impl Fn(&Keys) -> bool) -> Option<Keys> {
        let mut settled = self.0.settled.subscribe();
        let mut place = None;
        loop {
            let (is_asking, next) = {
                let mut known = self.0.known.lock();
                let is_young = known.told.is_some_and(|told| told.elapsed() < AGE);
                let has_it = !known.keys.keys.is_empty() && is_enough(&known.keys);
                let next = known.asked.map_or_else(Instant::now, |asked| asked + PAUSE);
                if !(is_young && has_it) && next <= Instant::now() && !known.is_asking {
                    known.asked = Some(Instant::now());
                    known.is_asking = true;
                    // In a task of its own, because the client whose token caused the request may disconnect before the
                    // answer.
                    tokio::spawn(self.clone().ask());
                }
                if has_it {
                    return Some(known.keys.clone());
                }
                (known.is_asking, next)
            };
            if place.is_none() {
                place = Some(self.0.waiters.try_acquire().ok()?);
            }
            tokio::select! {
                _ = settled.changed() => return self.0.known.lock().latest(),
                () = sleep_until(next), if !is_asking => {}
            }
        }
    }

    async fn ask(self) {
        let fetched = self.0.fetch().await;
        let mut known = self.0.known.lock();
        known.is_asking = false;
        match fetched {
            // A set without a key is an answer, too: the provider may have withdrawn the last one.
            Ok(keys) => {
                // Once: tokens that wait have it fetched again and again.
                if keys.is_empty() && (known.told.is_none() || !known.keys.keys.is_empty()) {
                    error!(
                        "the keys of --jwks-url: the set has no public key for signatures, so no token of this provider is accepted"
                    );
                }
                known.keys = Keys { keys: keys.into(), number: known.keys.number + 1 };
                known.told = Some(Instant::now());
                known.is_failing = false;
            }
            Err(error) => {
                known.is_failing = true;
                warn!(error = %chain(&error), "the keys of --jwks-url cannot be fetched");
            }
        }
        drop(known);
        self.0.settled.send_modify(|count| *count += 1);
    }
}

impl Provider {
    async fn fetch(&self) -> Result<Vec<Key>, JwksError> {
        let mut response = self.client.get(self.url.clone()).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > BYTES {
                return Err(JwksError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(read(&body)?)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request with this body.
    async fn provider(body: Arc<Mutex<String>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 4096]).await;
                let body = body.lock().clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = socket.write_all((head + &body).as_bytes()).await;
            }
        });
        url
    }

    #[tokio::test]
    async fn a_set_without_a_usable_key_withdraws_the_keys_and_a_failure_keeps_them() {
        const KEY: &str =
            r#"{"kty":"OKP","crv":"Ed25519","x":"1mBZmEOlBDDXCfUKo1VnAYffIwo6lmSzmJuUTp0nrs0","kid":"a"}"#;
        let (good, long) = (format!(r#"{{"keys":[{KEY}]}}"#), format!(r#"{{"keys":[],"a":"{}"}}"#, "a".repeat(BYTES)));
        let body = Arc::<Mutex<String>>::default();
        let jwks = Jwks::new(&provider(Arc::clone(&body)).await).unwrap();
        for (answer, known) in [
            ("", 0),
            (&*good, 1),
            ("", 1),
            ("{}", 1),
            (&*long, 1),
            (r#"{"keys":[]}"#, 0),
            (&*good, 1),
            (r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"new"}]}"#, 0),
        ] {
            *body.lock() = answer.into();
            jwks.clone().ask().await;
            assert_eq!(jwks.0.known.lock().keys.keys.len(), known, "{answer:.80}");
        }
        assert!(jwks.0.known.lock().latest().is_none(), "the token has to wait");
    }

    #[test]
    fn keys_come_safely() {
        for url in ["https://id.example/keys", "http://localhost:3000/keys", "http://127.0.0.1/"] {
            assert!(Jwks::new(url).is_ok(), "{url}");
        }
        for url in ["http://id.example/keys", "http://localhost.example/", "file:///etc/keys", "keys", ""] {
            assert!(Jwks::new(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn errors_do_not_show_the_query() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys?key=hunter2", listener.local_addr().unwrap());
        drop(listener);
        let error = check_jwks(&url).await.unwrap_err();
        let text = format!("{} {error:?}", chain(&error));
        assert!(text.contains("the request failed") && !text.contains("hunter2"), "{text}");
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
