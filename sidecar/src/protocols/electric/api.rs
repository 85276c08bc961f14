//! The endpoint of `@livestore/sync-electric` 0.4 (`api-schema.ts`, `index.ts`): one URL, or one for each of
//!
//! - `HEAD`, a ping.
//! - `POST`, a push: `{"_tag":"@livestore/sync-electric.Push","storeId","batch"}`, answered by `{"success":true}`.
//! - `GET ?args=<JSON>`, a pull: `{"_tag":"@livestore/sync-electric.Pull","storeId","payload","handle","live"}`, answered by
//!   messages of a shape with the headers `electric-handle` and `electric-offset`.
//!
//! The statuses of a pull, and what the client makes of them: 400 means "nothing there, start over", 409 kills it, any other failure ends
//! syncing until the page is reloaded. A push that fails in any way is tried again, while the pull brings what is missing.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::debug;

use super::messages::{self, Columns, Relation, Rows, up_to_date};
use super::offset::Position;
use super::read::{Follow, LONG_POLL, Page, Patience, ReadError, Wait, nothing, read};
use super::shape::A_MINUTE;
use super::upstream::{self, Upstream};
use crate::limits::memory::counted;
use crate::log::{Batch, Malformed, OverLimit, PushError, StoreLog};
use crate::protocols::{brief, read_json, status_of};
use crate::shutdown::Ending;

/// A pull, from the search params of its URL.
#[derive(Debug)]
pub struct Pull {
    pub store_id: String,
    pub payload: Option<Box<RawValue>>,
    pub position: Option<RawPosition>,
    pub is_live: bool,
}

/// The part of a request that came with the last page: ours, or Electric's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RawPosition {
    pub offset: String,
    pub handle: String,
}

impl Pull {
    pub fn parse(query: &str) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct SearchParams {
            args: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Args {
            #[serde(rename = "_tag")]
            tag: String,
            store_id: String,
            payload: Option<Box<RawValue>>,
            handle: Maybe,
            live: bool,
        }
        /// Effect's `Option`.
        #[derive(Deserialize)]
        #[serde(tag = "_tag")]
        enum Maybe {
            None,
            Some { value: RawPosition },
        }
        let SearchParams { args } =
            serde_urlencoded::from_str(query).map_err(|error| Malformed::because("malformed search params", error))?;
        let Args { tag, store_id, payload, handle, live } =
            serde_json::from_str(&args).map_err(|error| Malformed::because("malformed args", error))?;
        if tag != "@livestore/sync-electric.Pull" {
            return Err(Malformed::new(format!(
                "malformed args: the _tag \"{}\" is not @livestore/sync-electric.Pull",
                brief(&tag)
            )));
        }
        let position = match handle {
            Maybe::None => None,
            Maybe::Some { value } => Some(value),
        };
        Ok(Self { store_id, payload, position, is_live: live })
    }
}

/// A push, from the body of a request.
#[derive(Debug)]
pub struct Push {
    pub store_id: String,
    pub batch: Batch,
}

impl Push {
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(rename = "_tag")]
            tag: String,
            store_id: String,
            #[serde(borrow)]
            batch: &'a RawValue,
        }
        let Body { tag, store_id, batch } =
            read_json(body).map_err(|error| Malformed::because("malformed push", error))?;
        if tag != "@livestore/sync-electric.Push" {
            return Err(Malformed::new(format!(
                "malformed push: the _tag \"{}\" is not @livestore/sync-electric.Push",
                brief(&tag)
            )));
        }
        let batch = Batch::parse(batch.get()).map_err(|error| Malformed::because("malformed batch", error))?;
        // The client insists on args when it pulls. With a null in their place it would take its own event for somebody
        // else's, and push it again, without end.
        if let Some(seq_num) = batch.first_without_args() {
            return Err(Malformed::new(format!(
                "event {seq_num} has no args, which sync-electric cannot carry: give the event a schema with a value, \
                 Schema.Struct({{}}) if need be"
            )));
        }
        Ok(Self { store_id, batch })
    }
}

/// Appends a batch; the answer comes after the commit.
pub async fn push(log: StoreLog, batch: Batch) -> Response {
    debug!(store = ?log.id(), "push");
    if batch.is_empty() {
        return success();
    }
    match log.push(batch, None, OverLimit::Refuse).await {
        Ok(_) => success(),
        Err(error) => refuse_push(&error),
    }
}

fn success() -> Response {
    answer(StatusCode::OK, r#"{"success":true}"#)
}

fn refuse_push(refusal: &PushError) -> Response {
    let (status, details) = match refusal {
        PushError::ServerAhead { minimum_expected_num, provided_num } => (
            StatusCode::CONFLICT,
            json!({"_tag": "ServerAheadError", "minimumExpectedNum": minimum_expected_num, "providedNum": provided_num}),
        ),
        PushError::BackendIdMismatch { expected, received } => (
            StatusCode::CONFLICT,
            json!({"_tag": "BackendIdMismatchError", "expected": expected, "received": received}),
        ),
        PushError::Invalid(_) => (StatusCode::BAD_REQUEST, json!({"_tag": "InvalidPushError"})),
        PushError::Rejected(_) => (StatusCode::FORBIDDEN, json!({"_tag": "UnknownError"})),
        PushError::Throttled(_) => (StatusCode::TOO_MANY_REQUESTS, json!({"_tag": "UnknownError"})),
        PushError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, json!({"_tag": "IsOfflineError"})),
    };
    failure(status, &refusal.to_string(), details)
}

/// Answers with a page, after at most [`LONG_POLL`] if the client is live or has a position.
pub async fn pull(log: StoreLog, pull: Pull, upstream: Option<&Upstream>, ending: &Ending) -> Response {
    let Pull { position, is_live, .. } = pull;
    debug!(store = ?log.id(), ?position, is_live, "pull");
    let wait = Wait { is_live, has_position: position.is_some() };
    // A page that others follow can only change by a rewrite. The first one tells which log the store has now, and is never kept: a client
    // that begins with a log that was reset meanwhile would end its sync.
    let may_be_kept = !is_live && upstream.is_none() && log.is_public();
    let page = match upstream {
        Some(upstream) => {
            let mut patience = Patience::new(wait, LONG_POLL + 2 * upstream::GRACE, ending);
            upstream::pull(upstream, &log, position, is_live, &mut patience).await
        }
        None => {
            let mut patience = Patience::new(wait, LONG_POLL, ending);
            pull_ourselves(&log, position, is_live, &mut patience).await
        }
    };
    match page {
        Ok(Answer { page: read, position: RawPosition { offset, handle } }) => {
            let relation = Relation::new("livestore", "eventlog_1");
            let end = read.is_up_to_date.then(|| up_to_date(read.position.offset.seq_num));
            let body = messages::page(&read.events, &Rows::new(&relation, Columns::ALL), end);
            let is_later = read.events.first().is_some_and(|first| first.parent_seq_num > 0);
            let is_kept = may_be_kept && is_later && !read.is_up_to_date;
            let caching = if is_kept { A_MINUTE } else { "no-store" };
            let headers = [("electric-offset", &*offset), ("electric-handle", &*handle), ("cache-control", caching)];
            let json = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::OK, headers, json, Body::from(counted(body, read.share))).into_response()
        }
        Err(refusal) => refuse_pull(&refusal),
    }
}

/// A page, and where the client is behind it in the words of whoever it reads from.
pub struct Answer {
    pub page: Page,
    pub position: RawPosition,
}

impl From<Page> for Answer {
    fn from(page: Page) -> Self {
        let Position { offset, handle } = &page.position;
        let position = RawPosition { offset: offset.to_string(), handle: (&**handle).into() };
        Self { page, position }
    }
}

async fn pull_ourselves(
    log: &StoreLog,
    position: Option<RawPosition>,
    is_live: bool,
    patience: &mut Patience,
) -> Result<Answer, ReadError> {
    let position = position.as_ref().map(upstream::own_position).transpose()?;
    let follow = if is_live && position.is_some() { Follow::TellFirst } else { Follow::No };
    let page = match patience.wait_for(log.reader()).await.transpose()? {
        Some(reader) => read(&reader, position.as_ref(), follow, patience).await,
        None => nothing(position.as_ref(), follow),
    };
    page.map(Answer::from)
}

fn refuse_pull(refusal: &ReadError) -> Response {
    let status = match refusal {
        ReadError::Denied(denied) => status_of(denied),
        ReadError::Reset { .. } | ReadError::Foreign => StatusCode::GONE,
        ReadError::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        // The client takes the log for empty and asks again, live, instead of giving up for good.
        ReadError::Away => StatusCode::BAD_REQUEST,
    };
    failure(status, &refusal.to_string(), Value::Null)
}

/// An answer that says what is wrong; the client shows the text of a pull's.
pub fn failure(status: StatusCode, message: &str, error: Value) -> Response {
    answer(status, json!({"success": false, "message": message, "error": error}).to_string())
}

fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    // Pages of a client depend on what it may see.
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.into())
        .into_response()
}

/// Answers a ping. It does not wait for anything: the client gives up its pings at the first that fails.
pub fn ping() -> Response {
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(query: String, body: Vec<u8>) {
            let _ = (Pull::parse(&query), Pull::parse(&format!("args={query}")), Push::parse(&body));
        }
    }

    #[test]
    fn fuzz_pull() {
        fuzzing::text_target!("pull", |query| {
            let Ok(Pull { store_id, payload, position, is_live }) = Pull::parse(query) else { return };
            let handle = match &position {
                Some(RawPosition { offset, handle }) => {
                    json!({"_tag": "Some", "value": {"offset": offset, "handle": handle}})
                }
                None => json!({"_tag": "None"}),
            };
            let text = payload.as_ref().map_or("null", |payload| payload.get());
            let args = format!(
                r#"{{"_tag":"@livestore/sync-electric.Pull","storeId":{},"payload":{text},"handle":{handle},"live":{is_live}}}"#,
                json!(store_id)
            );
            let again = Pull::parse(&serde_urlencoded::to_string([("args", args)]).unwrap()).unwrap();
            assert_eq!((again.store_id, again.position, again.is_live), (store_id, position, is_live));
            assert_eq!(again.payload.map(|payload| payload.to_string()), payload.map(|payload| payload.to_string()));
        });
    }

    #[test]
    fn fuzz_push() {
        fuzzing::target!("push", |body| {
            let Ok(Push { batch, .. }) = Push::parse(body) else { return };
            assert!(std::str::from_utf8(body).unwrap().contains(batch.json()));
            for event in batch.into_last_appended(usize::MAX, chrono::DateTime::UNIX_EPOCH) {
                assert!(event.fields().unwrap().args.is_some());
            }
        });
    }
}
