//! The settings of webhooks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use standardwebhooks::{Webhook, WebhookError};

use super::{Reach, Sender, Webhooks};
use crate::settings::SettingsError;
use crate::settings::values::{at_least, lasting};

/// The least length of a secret's base64: that of the 24 bytes that the specification asks for.
const SECRET_LENGTH: usize = 32;

/// The time that an operator's service has to say whether something is allowed: a client waits for it.
const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub struct WebhookSettings {
    /// The secret that signs what is sent to the URLs of subscriptions and to --authorize-url, in the form of Standard Webhooks:
    /// whsec_ and the base64 of 24 random bytes or more. Several, separated by commas: a message has the signature of each, so that
    /// a secret can be replaced. NAME=whsec_… is for the subscription NAME alone. See docs/reactions.md.
    #[arg(
        long,
        env = "LIVESTORE_WEBHOOK_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        value_delimiter = ','
    )]
    webhook_secret: Vec<String>,

    /// The time that the receiver of a webhook has to answer.
    #[arg(long, env = "LIVESTORE_WEBHOOK_TIMEOUT", default_value = "15s", value_parser = lasting(Duration::from_millis(100)))]
    pub webhook_timeout: Duration,

    /// Batches of one subscription that are on their way to its receiver at the same time, if it has as many partitions.
    #[arg(long, env = "LIVESTORE_WEBHOOK_CONCURRENCY", default_value_t = 4, value_parser = at_least(1_usize))]
    pub webhook_concurrency: usize,

    /// Send webhooks to private addresses, too: of this machine, and of networks like 10.0.0.0/8. Everybody who may make a
    /// subscription can then reach the services there. Without it, such addresses are refused.
    #[arg(long, env = "LIVESTORE_WEBHOOK_PRIVATE_ADDRESSES")]
    pub webhook_private_addresses: bool,
}

impl WebhookSettings {
    pub fn check(&self) -> Result<(), SettingsError> {
        self.webhooks().map(drop)
    }

    pub fn webhooks(&self) -> Result<Webhooks, SettingsError> {
        let reach = if self.webhook_private_addresses { Reach::All } else { Reach::Public };
        Ok(Webhooks {
            sender: self.sender_to(reach, self.webhook_timeout)?,
            operators_sender: self.sender_to(Reach::All, AUTHORIZE_TIMEOUT)?,
            timeout: self.webhook_timeout,
            concurrency: self.webhook_concurrency,
        })
    }

    fn sender_to(&self, reach: Reach, timeout: Duration) -> Result<Sender, SettingsError> {
        Ok(Sender::new(self.secrets()?, timeout, reach))
    }

    /// Not read by clap, which would repeat one that is malformed.
    fn secrets(&self) -> Result<Arc<[Secret]>, SettingsError> {
        let secrets = self.webhook_secret.iter().map(|text| text.parse());
        secrets.collect::<Result<_, String>>().map_err(SettingsError::of("--webhook-secret"))
    }

    /// For a developer's machine: services on it are reached, and this secret signs if no other is given. Returns whether it does.
    #[cfg(feature = "dev")]
    pub fn serve_development(&mut self, secret: &str) -> bool {
        self.webhook_private_addresses = true;
        let is_needed = self.webhook_secret.is_empty();
        if is_needed {
            self.webhook_secret.push(secret.into());
        }
        is_needed
    }

    /// Whether there is a secret that is not for one subscription alone.
    pub fn has_general_secret(&self) -> bool {
        self.secrets().is_ok_and(|secrets| secrets.iter().any(Secret::is_general))
    }
}

/// A secret, and what it is for.
#[derive(Clone)]
pub struct Secret {
    /// The subscription that it is for alone.
    subscription: Option<String>,
    webhook: Arc<Webhook>,
}

impl Secret {
    pub fn is_for(&self, subscription: &str) -> bool {
        self.subscription.as_deref() == Some(subscription)
    }

    pub fn is_general(&self) -> bool {
        self.subscription.is_none()
    }

    pub fn sign(&self, id: &str, time: i64, body: &[u8]) -> Result<String, WebhookError> {
        self.webhook.sign(id, time, body)
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "it must be whsec_ and the base64 of 24 random bytes or more: echo whsec_$(openssl rand -base64 32) makes one";
        let text = text.trim();
        let (subscription, secret) = match text.split_once("=whsec_") {
            Some((subscription, secret)) => (Some(subscription.to_owned()), secret),
            None => (None, text.strip_prefix("whsec_").ok_or(FORM)?),
        };
        if secret.len() < SECRET_LENGTH {
            return Err(FORM.into());
        }
        let webhook = Webhook::new(secret).map_err(|_| FORM)?;
        Ok(Self { subscription, webhook: Arc::new(webhook) })
    }
}

/// Secrets stay out of every log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_may_be_one_subscriptions() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert!(secret.parse::<Secret>().unwrap().is_general());
        assert!(format!("my orders={secret}").parse::<Secret>().unwrap().is_for("my orders"));
        for bad in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_????????????????????????????????",
            "a=whsec_",
        ] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }
}
