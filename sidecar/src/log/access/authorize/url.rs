//! `--authorize-url`: a service of the operator.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::{Action, denied};
use crate::log::context::Context;
use crate::log::error::Denied;
use crate::log::store_id::StoreId;
use crate::postgres::DatabaseError;
use crate::webhook::{self, SendError, Sender};

/// The memory of answers that still hold, in bytes: about what was asked.
const CACHE: u64 = 16 << 20;

/// The longest time for which an answer holds.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The bytes of an answer, and the characters of the reason in it, which a client gets.
const ANSWER: usize = 64 << 10;
const REASON: usize = 1000;

/// The questions that are on their way at the same time: clients that wait ask again and again.
const CONCURRENCY: usize = 64;

/// The purpose of a message that is for no subscription: those have names.
const NO_SUBSCRIPTION: &str = "";

/// The store that `livestore-sidecar check` asks about.
const CHECK_STORE: &str = "livestore-sidecar-check";

pub struct Service {
    url: String,
    sender: Sender,
    /// Each question, as it is sent, and its answer.
    answers: Cache<Arc<str>, Answer>,
    /// Tell the messages of this process from each other and from those of others.
    process: u64,
    asked: AtomicU64,
    places: Semaphore,
}

#[derive(Serialize)]
struct Question<'a> {
    r#type: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    store_id: &'a str,
    action: &'static str,
    payload: Option<&'a RawValue>,
    headers: Option<&'a RawValue>,
    claims: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Deserialize)]
struct Answer {
    allow: bool,
    #[serde(default)]
    reason: Option<String>,
    /// In seconds.
    #[serde(default)]
    ttl: f64,
}

impl Answer {
    fn lifetime(&self) -> Duration {
        Duration::try_from_secs_f64(self.ttl).unwrap_or_default().min(LONGEST)
    }
}

/// Each answer holds for as long as it says.
struct Lifetime;

impl Expiry<Arc<str>, Answer> for Lifetime {
    fn expire_after_create(&self, _question: &Arc<str>, answer: &Answer, _now: Instant) -> Option<Duration> {
        Some(answer.lifetime())
    }
}

fn json(text: Option<&str>) -> serde_json::Result<Option<&RawValue>> {
    text.map(serde_json::from_str).transpose()
}

/// Whether the service answers, with whatever answer.
pub async fn check_authorize_url(url: String, sender: Sender) -> Result<(), String> {
    let data = Data {
        store_id: CHECK_STORE,
        action: Action::Connect.asked().name(),
        payload: None,
        headers: None,
        claims: None,
    };
    let service = Service::new(url, sender);
    let question = question(data).map_err(|error| error.to_string())?;
    service.send(question).await.map(drop).map_err(|error| error.brief())
}

fn question(data: Data) -> serde_json::Result<Arc<str>> {
    serde_json::to_string(&Question { r#type: "livestore.authorize", data }).map(Arc::from)
}

impl Service {
    pub fn new(url: String, sender: Sender) -> Self {
        let answers = Cache::builder()
            .max_capacity(CACHE)
            .weigher(|question: &Arc<str>, answer: &Answer| {
                let bytes = question.len() + answer.reason.as_ref().map_or(0, String::len) + 200;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .expire_after(Lifetime)
            .build();
        let process = RandomState::new().hash_one(std::process::id());
        Self { url, sender, answers, process, asked: AtomicU64::new(0), places: Semaphore::new(CONCURRENCY) }
    }

    pub async fn ask(
        &self,
        store: &StoreId,
        action: Action,
        context: &Context,
    ) -> Result<Result<(), Denied>, DatabaseError> {
        let problem = |problem: String| DatabaseError::AuthorizeUrl { problem };
        let question = || {
            question(Data {
                store_id: store.as_str(),
                action: action.asked().name(),
                payload: json(context.payload())?,
                headers: json(context.headers())?,
                claims: json(context.claims())?,
            })
        };
        let question = question().map_err(|error| problem(error.to_string()))?;
        // Those who ask the same at the same time wait for one answer.
        let answer = self.answers.try_get_with(Arc::clone(&question), self.send(question)).await;
        // The service may repeat what it was asked, tokens included.
        let answer = answer.map_err(|error| problem(error.brief()))?;
        if answer.allow {
            return Ok(Ok(()));
        }
        let reason = answer.reason.filter(|reason| !reason.trim().is_empty());
        Ok(Err(denied(
            reason.map_or_else(|| action.refusal().into(), |reason| reason.chars().take(REASON).collect::<String>()),
        )))
    }

    async fn send(&self, question: Arc<str>) -> Result<Answer, SendError> {
        let _place = self.places.acquire().await;
        let id = format!("auth_{:x}_{}", self.process, self.asked.fetch_add(1, Ordering::Relaxed));
        let response = self.sender.post(&self.url, NO_SUBSCRIPTION, &id, String::from(&*question).into()).await?;
        read_answer(&webhook::read(response, ANSWER).await?)
    }
}

fn read_answer(body: &[u8]) -> Result<Answer, SendError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| SendError::Answer(error.to_string()))?;
    if answer.ttl.is_nan() || answer.ttl < 0.0 {
        return Err(SendError::Answer("ttl is not a number of seconds".into()));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_is_allowed_and_for_how_long() {
        let yes = read_answer(br#"{"allow": true, "ttl": 1.5, "more": []}"#).unwrap();
        assert_eq!((yes.allow, yes.lifetime()), (true, Duration::from_millis(1500)));
        let no = read_answer(br#"{"allow": false, "reason": "not yours"}"#).unwrap();
        assert_eq!((no.allow, no.lifetime(), no.reason.as_deref()), (false, Duration::ZERO, Some("not yours")));
        assert_eq!(read_answer(br#"{"allow": true, "ttl": 1e300}"#).unwrap().lifetime(), Duration::ZERO);
        assert_eq!(read_answer(br#"{"allow": true, "ttl": 1e9}"#).unwrap().lifetime(), LONGEST);
        for bad in [
            "",
            "true",
            "{}",
            r#"{"allow": "yes"}"#,
            r#"{"allow": 1}"#,
            r#"{"allow": true, "ttl": -1}"#,
            r#"{"allow": true, "ttl": "1"}"#,
        ] {
            assert!(read_answer(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn fuzz_authorize_answer() {
        fuzzing::target!("authorize_answer", |body| {
            let Ok(answer) = read_answer(body) else { return };
            assert!(answer.lifetime() <= LONGEST);
        });
    }
}
