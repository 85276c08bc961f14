//! The context of a request: hooks and the operator's authorize function get it beside the events.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::auth::{Authentication, Credentials, Identity, TokenError};
use crate::limits::memory::{Account, Memory};
use crate::limits::quota::Permit;

/// The time that a request waits for a place among the connections of its subject.
const QUEUE_TIME: Duration = Duration::from_secs(60);

/// The sync payload of a client, the headers of its request that the operator forwards, and who it is.
#[derive(Debug, Default)]
pub struct Context {
    payload: Option<Box<str>>,
    headers: Option<Box<str>>,
    dialect: &'static str,
    /// `user-agent` of the request, the beginning.
    user_agent: Option<Box<str>>,
    credentials: Credentials,
    /// Also a refusal, unless it may pass: the next look at the token must not wait for the keys again.
    identity: OnceCell<Result<Arc<Identity>, TokenError>>,
    /// Its place in the queue of its subject, and until when it may keep that.
    waiting: Mutex<Option<(Permit<Arc<str>>, Instant)>>,
    /// The memory of a client without a token, for all requests of its connection.
    account: Arc<OnceLock<Account>>,
    json: OnceLock<Box<str>>,
}

impl Context {
    /// The largest payload, in bytes: each push carries it into the database.
    pub const PAYLOAD_BYTES: usize = 64 << 10;

    /// The most of `user-agent` that is kept.
    const USER_AGENT_CHARACTERS: usize = 120;

    /// `dialect`: the name of the protocol that the request is in. `headers`: names in lower case. `credentials`: those beside the
    /// payload.
    pub fn new(
        dialect: &'static str,
        payload: Option<&RawValue>,
        headers: &BTreeMap<String, String>,
        credentials: Credentials,
    ) -> Self {
        let headers = (!headers.is_empty()).then(|| serde_json::json!(headers).to_string().into());
        let payload = payload.map(RawValue::get);
        let credentials = credentials.with_payload(payload);
        Self { payload: payload.map(Box::from), headers, dialect, credentials, ..Self::default() }
    }

    /// The same with the program that the client names itself.
    pub fn with_user_agent(self, user_agent: Option<&str>) -> Self {
        let beginning = |text: &str| text.chars().take(Self::USER_AGENT_CHARACTERS).collect::<String>().into();
        Self { user_agent: user_agent.map(beginning), ..self }
    }

    /// The program, as the client names itself.
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// The same for a client that is known already.
    pub fn of(self, identity: Arc<Identity>) -> Self {
        Self { identity: OnceCell::new_with(Some(Ok(identity))), ..self }
    }

    /// The same with the payload of a single request, if that one has its own.
    pub fn with_payload(self: &Arc<Self>, payload: Option<&RawValue>) -> Arc<Self> {
        match payload.map(RawValue::get) {
            Some(payload) if self.payload() != Some(payload) => Arc::new(Self {
                payload: Some(payload.into()),
                headers: self.headers.clone(),
                dialect: self.dialect,
                user_agent: self.user_agent.clone(),
                credentials: self.credentials.clone().with_payload(Some(payload)),
                identity: OnceCell::new(),
                waiting: Mutex::default(),
                account: Arc::clone(&self.account),
                json: OnceLock::new(),
            }),
            _ => Arc::clone(self),
        }
    }

    /// The protocol that the request is in.
    pub fn dialect(&self) -> &'static str {
        self.dialect
    }

    /// The sync payload, as JSON.
    pub fn payload(&self) -> Option<&str> {
        self.payload.as_deref()
    }

    /// The forwarded headers, as a JSON object.
    pub fn headers(&self) -> Option<&str> {
        self.headers.as_deref()
    }

    /// The client that sends the request.
    pub async fn identity(&self, authentication: &Authentication) -> Result<&Identity, TokenError> {
        let identify = async || match authentication.identify(&self.credentials).await {
            Err(refused) if refused.may_pass() => Err(refused),
            decided => Ok(decided.map(Arc::new)),
        };
        match self.identity.get_or_try_init(identify).await? {
            Ok(identity) => Ok(identity),
            Err(refused) => Err(refused.clone()),
        }
    }

    fn identified(&self) -> Option<&Arc<Identity>> {
        self.identity.get()?.as_ref().ok()
    }

    /// Whether the request may wait, or go on waiting, for a place among the connections of its subject. The first call
    /// queues it.
    pub fn may_wait(&self, authentication: &Authentication, subject: &Arc<str>) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.is_none() {
            let place = authentication.queue(Arc::clone(subject));
            *waiting = place.map(|place| (place, Instant::now() + QUEUE_TIME));
        }
        waiting.as_ref().is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// Leaves the queue.
    pub fn waits_no_more(&self) {
        self.waiting.lock().take();
    }

    /// The subject of the token, once it was checked.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.identified().filter(|identity| identity.claims.is_some()).map(|identity| &identity.subject)
    }

    /// The memory for what the client is sent.
    pub fn account(&self, budget: &Arc<Memory>) -> Account {
        match self.subject() {
            Some(subject) => budget.subject(subject),
            None => self.account.get_or_init(|| budget.connection()).clone(),
        }
    }

    /// The claims of the token, as a JSON object, once it was checked.
    pub fn claims(&self) -> Option<&str> {
        self.identified()?.claims.as_deref()
    }

    /// The context that hooks may read: the keys dialect, subject, payload, headers and claims, as far as there are any. Once it is known who
    /// sends the request.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let subject = self.subject().map(|subject| serde_json::Value::from(&**subject).to_string());
            // Names of dialects need no escaping.
            let mut json = format!(r#"{{"dialect":"{}""#, self.dialect);
            let values = [
                ("subject", subject.as_deref()),
                ("payload", self.payload()),
                ("headers", self.headers()),
                ("claims", self.claims()),
            ];
            for (name, value) in values {
                if let Some(value) = value {
                    json.extend([",\"", name, "\":", value]);
                }
            }
            json.push('}');
            json.into()
        })
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        [self.payload(), self.headers(), self.claims()].into_iter().flatten().map(str::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jsonwebtoken::{EncodingKey, Header};

    use super::*;
    use crate::auth::AuthSettings;

    #[derive(Parser)]
    struct Given {
        #[command(flatten)]
        auth: AuthSettings,
    }

    /// Another look could fetch the keys of tokens again, and wait for them.
    #[tokio::test]
    async fn a_token_that_is_refused_is_looked_at_once() {
        const SECRET: &str = "a secret that has 32 bytes or more";
        let given = Given::try_parse_from(["sidecar", "--auth", "jwt", "--jwt-secret", SECRET]);
        let authentication = given.unwrap_or_else(|error| panic!("{error}")).auth.authentication().unwrap();
        let begins = chrono::Utc::now().timestamp() + 2;
        let claims = serde_json::json!({"sub": "ann", "exp": begins + 60, "nbf": begins});
        let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
        let credentials = Credentials::of_token(&token.unwrap());
        let context = Context { credentials: credentials.clone(), ..Context::default() };
        assert_eq!(context.identity(&authentication).await.err(), Some(TokenError::Immature));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(context.identity(&authentication).await.err(), Some(TokenError::Immature));
        let later = Context { credentials, ..Context::default() };
        assert!(later.identity(&authentication).await.is_ok(), "another request is looked at anew");
    }
}
