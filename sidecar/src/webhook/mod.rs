//! Signed requests to URLs that an operator names, in the form of the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

mod addresses;
mod settings;

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};

pub use settings::WebhookSettings;

use addresses::PublicAddresses;
use settings::Secret;

use crate::telemetry::chain;
use crate::telemetry::refusals::without_input;

/// The time that a connection to a receiver may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for which an idle connection is kept.
const IDLE: Duration = Duration::from_secs(4);

/// A receiver cannot ask for a longer pause.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The bytes of an answer that describe a failure.
const EXCERPT: usize = 500;

const USER_AGENT: &str = concat!("livestore-sidecar/", env!("CARGO_PKG_VERSION"));

/// Sends messages. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    /// Made when it is first needed: it loads the certificates of this system, which takes as long as the rest of a start.
    client: Arc<OnceLock<Client>>,
    secrets: Arc<[Secret]>,
    timeout: Duration,
    reach: Reach,
}

/// The clients for the requests that the log sends.
#[derive(Clone)]
pub struct Webhooks {
    /// To the URLs of subscriptions.
    pub sender: Sender,
    /// To URLs of the settings.
    pub operators_sender: Sender,
    /// The time that the receiver of a webhook may take.
    pub timeout: Duration,
    /// Batches of one subscription that are sent at the same time.
    pub concurrency: usize,
}

/// The URLs that a [`Sender`] may send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those whose host has a public address: whoever may name a URL must not reach the services of this network by it.
    Public,
    All,
}

/// Why a receiver has not taken a message.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(
        "there is no secret to sign with: set --webhook-secret (LIVESTORE_WEBHOOK_SECRET) to whsec_ and the base64 of 24 random bytes or more"
    )]
    NoSecret,
    #[error("the URL cannot be used: {0}")]
    Url(String),
    #[error("the address of {0} is private, and --webhook-private-addresses is not set")]
    Private(String),
    #[error("this system cannot send requests: {0}")]
    System(String),
    #[error("the message cannot be signed: {0}")]
    Signature(String),
    #[error("{0}")]
    Unreachable(String),
    /// After the receiver had accepted the connection.
    #[error("{0}")]
    Broken(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the receiver answers {status}{}{excerpt}", if excerpt.is_empty() { "" } else { ": " })]
    Refused { status: StatusCode, retry_after: Option<Duration>, excerpt: String },
    #[error("the answer cannot be used: {0}")]
    Answer(String),
}

impl SendError {
    /// Whether the receiver, or the way to it, is the problem and not the message: the next message would fare no better.
    pub fn is_receiver_away(&self) -> bool {
        match self {
            Self::NoSecret | Self::Url(_) | Self::Private(_) | Self::System(_) | Self::Unreachable(_) => true,
            Self::Refused { status, .. } => matches!(status.as_u16(), 410 | 429 | 502 | 503 | 504),
            Self::Signature(_) | Self::Broken(_) | Self::Timeout | Self::Answer(_) => false,
        }
    }

    /// Whether it fails until the operator changes something, however often it is tried.
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::NoSecret | Self::Url(_) | Self::Private(_))
    }

    /// Without what the receiver says: it may repeat the URL, which may hold a secret, or the message.
    pub fn brief(&self) -> String {
        match self {
            Self::Refused { status, .. } => format!("the receiver answers {status}"),
            Self::Private(_) => "the address is private, and --webhook-private-addresses is not set".into(),
            Self::Answer(problem) => format!("the answer cannot be used: {}", without_input(problem)),
            other => other.to_string(),
        }
    }

    /// When the receiver wants to be asked again. A receiver that says a day, by mistake, would miss what it could have long before.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => retry_after.map(|after| after.min(LONGEST_RETRY_AFTER)),
            _ => None,
        }
    }
}

impl Sender {
    /// A request may take `timeout` in all.
    pub fn new(secrets: Arc<[Secret]>, timeout: Duration, reach: Reach) -> Self {
        Self { client: Arc::default(), secrets, timeout, reach }
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT.min(self.timeout / 2))
            .timeout(self.timeout)
            // Receivers made with Node close connections that were idle for five seconds.
            .pool_idle_timeout(IDLE)
            // It could lead to a private address, and another server would get the message.
            .redirect(redirect::Policy::none());
        let client = match self.reach {
            // A proxy would look the name up itself.
            Reach::Public => client.dns_resolver(Arc::new(PublicAddresses)).no_proxy(),
            Reach::All => client,
        };
        let client = client.build()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Posts a JSON text with the signatures of the secrets of `purpose`, the name of a subscription. `id` says which message it is,
    /// however often it is sent: visible ASCII without a dot. Returns a successful answer.
    pub async fn post(&self, url: &str, purpose: &str, id: &str, body: Bytes) -> Result<Response, SendError> {
        let url: Url = url.parse().map_err(|error| SendError::Url(format!("{error}")))?;
        if self.reach == Reach::Public && addresses::is_private_literal(&url) {
            return Err(SendError::Private(url.host_str().unwrap_or_default().to_owned()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signatures = self.sign(purpose, id, now, &body)?;
        let request = self
            .client()
            .map_err(|error| SendError::System(chain(&error).to_string()))?
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signatures)
            .body(body);
        let response = request.send().await.map_err(failure)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let excerpt = read(response, EXCERPT).await.unwrap_or_default();
        // It goes to logs, and to Postgres, which takes no NUL.
        let excerpt = String::from_utf8_lossy(&excerpt).replace(char::is_control, " ").trim().to_owned();
        Err(SendError::Refused { status, retry_after: retry_after.map(Duration::from_secs), excerpt })
    }

    fn sign(&self, purpose: &str, id: &str, time: u64, body: &[u8]) -> Result<String, SendError> {
        let has_own = self.secrets.iter().any(|secret| secret.is_for(purpose));
        let secrets =
            self.secrets.iter().filter(|secret| if has_own { secret.is_for(purpose) } else { secret.is_general() });
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        let signatures: Result<Vec<_>, _> = secrets.map(|secret| secret.sign(id, time, body)).collect();
        let signatures = signatures.map_err(|error| SendError::Signature(error.to_string()))?;
        if signatures.is_empty() { Err(SendError::NoSecret) } else { Ok(signatures.join(" ")) }
    }
}

/// The answer, or its first bytes if there are more than `most`.
pub async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, SendError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        let rest = most - body.len();
        if chunk.len() >= rest {
            body.extend_from_slice(&chunk[..rest]);
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn failure(error: reqwest::Error) -> SendError {
    // That nobody accepts a connection in time is no fault of the message.
    let is_unreachable = error.is_connect();
    if error.is_timeout() && !is_unreachable {
        return SendError::Timeout;
    }
    // The address is in the settings or in the database already.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if is_unreachable { SendError::Unreachable(text) } else { SendError::Broken(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(secrets: &[&str]) -> Sender {
        let secrets: Vec<Secret> = secrets.iter().map(|text| text.parse().unwrap()).collect();
        Sender::new(secrets.into(), Duration::from_secs(1), Reach::Public)
    }

    /// The example of the specification's libraries.
    #[test]
    fn a_message_has_the_signature_of_each_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let one =
            sender(&[secret]).sign("orders", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(one.unwrap(), signature);
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let own = format!("orders={other}");
        let sign = |secrets: &[&str], purpose| {
            sender(secrets).sign(purpose, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#)
        };
        let both = sign(&[secret, other], "orders").unwrap();
        assert!(both.starts_with(signature) && both.split(' ').count() == 2, "{both}");
        // A subscription with a secret of its own is signed with that alone.
        assert!(!sign(&[secret, &own], "orders").unwrap().contains(signature));
        assert_eq!(sign(&[secret, &own], "mails").unwrap(), signature);
        assert!(matches!(sign(&[&own], "mails"), Err(SendError::NoSecret)));
    }

    #[tokio::test]
    async fn private_addresses_are_not_reached() {
        let sender = sender(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
        for url in [
            "http://127.0.0.1:1/",
            "http://[::1]:1/",
            "http://localhost:1/",
            "https://169.254.169.254/",
            "http://2130706433:1/",
        ] {
            let error = sender.post(url, "s", "id", Bytes::new()).await.unwrap_err();
            assert!(error.to_string().contains("private"), "{url}: {error}");
            assert!(error.is_receiver_away());
        }
        assert!(matches!(sender.post("nowhere", "s", "id", Bytes::new()).await, Err(SendError::Url(_))));
    }
}
