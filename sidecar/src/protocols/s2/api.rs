//! The endpoint of `@livestore/sync-s2` 0.4 (`api-schema.ts`, `sync-provider.ts`): one URL, or one for each of
//!
//! - `HEAD`, a ping.
//! - `POST`, a push: `{"storeId","batch"}`, answered by `{"success":true}`.
//! - `GET ?args=<JSON>`, a pull: `{"storeId","s2SeqNum","live","payload"}`, answered by Server-Sent Events: `batch`, `ping`,
//!   `error`, and `[DONE]` at the end of what is not live. `s2SeqNum` is the record that the client has seen last.
//!
//! The client does not look at the status of a pull: what is no stream of events is an empty one to it, and a live pull asks
//! again at once. So errors are events. One ends syncing until the page is reloaded, after two more attempts.

use std::future::ready;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::limits::Limits;
use super::stream::{Follow, Writer, error_event};
use crate::log::{Batch, Malformed, OverLimit, PushError, StoreLog};
use crate::protocols::{body, read_json, status_of};
use crate::shutdown::Ending;

/// The time that the answer to a client that may not pull waits for the database, to have the right status.
const AWAY: Duration = Duration::from_secs(5);

/// The last number that a record can have: that of the event with the largest `seqNum`, less one.
const MAX_SEQ_NUM: i64 = (1 << 53) - 2;

/// A pull, from the search params of its URL.
#[derive(Debug)]
pub struct Pull {
    pub store_id: String,
    pub payload: Option<Box<RawValue>>,
    /// The event that the client has seen last, 0 before the first.
    pub after: i64,
    pub is_live: bool,
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
            store_id: String,
            s2_seq_num: Cursor,
            live: bool,
            payload: Option<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Cursor {
            Record(i64),
            Start(String),
        }
        let SearchParams { args } =
            serde_urlencoded::from_str(query).map_err(|error| Malformed::because("malformed search params", error))?;
        let Args { store_id, s2_seq_num, live, payload } =
            serde_json::from_str(&args).map_err(|error| Malformed::because("malformed args", error))?;
        let after = match s2_seq_num {
            Cursor::Record(seen) if (0..=MAX_SEQ_NUM).contains(&seen) => seen + 1,
            Cursor::Start(start) if start == "from-start" => 0,
            _ => {
                return Err(Malformed::new(
                    "malformed args: s2SeqNum is neither the number of a record nor \"from-start\"",
                ));
            }
        };
        Ok(Self { store_id, payload, after, is_live: live })
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
            store_id: String,
            #[serde(borrow)]
            batch: &'a RawValue,
        }
        let Body { store_id, batch } = read_json(body).map_err(|error| Malformed::because("malformed push", error))?;
        let batch = Batch::parse(batch.get()).map_err(|error| Malformed::because("malformed batch", error))?;
        Ok(Self { store_id, batch })
    }
}

/// Answers a ping, without waiting for anything.
pub fn ping() -> Response {
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response()
}

/// Appends a batch; the answer comes after the commit.
pub async fn push(log: StoreLog, batch: Batch) -> Response {
    debug!(store = ?log.id(), "push");
    let pushed = if batch.is_empty() { Ok(()) } else { log.push(batch, None, OverLimit::Refuse).await.map(drop) };
    match pushed {
        Ok(()) => answer(StatusCode::OK, json!({"success": true})),
        Err(error) => {
            let status = match &error {
                PushError::ServerAhead { .. } | PushError::BackendIdMismatch { .. } => StatusCode::CONFLICT,
                PushError::Invalid(_) => StatusCode::BAD_REQUEST,
                PushError::Rejected(_) => StatusCode::FORBIDDEN,
                PushError::Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
                PushError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            };
            failure(status, &error.to_string())
        }
    }
}

/// Answers with a stream; a task on `tasks` writes it.
pub async fn pull(log: StoreLog, pull: Pull, tasks: &TaskTracker, ending: &Ending) -> Response {
    let Pull { after, is_live, .. } = pull;
    debug!(store = ?log.id(), after, is_live, "pull");
    let reader = match timeout(AWAY, log.reader()).await {
        Ok(Ok(reader)) => Either::Left(ready(Ok(reader))),
        Ok(Err(denied)) => return refuse_pull(status_of(&denied), &denied.to_string()),
        Err(_) => Either::Right(async move { log.reader().await }),
    };
    let (pieces, body) = body::written();
    let writer = Writer::new(pieces, Limits::NONE);
    if is_live {
        tasks.spawn(writer.live(reader, after, Follow::WithPauses, ending.begun.clone()));
    } else {
        tasks.spawn(writer.history(reader, after, ending.clone()));
    }
    events(StatusCode::OK, body)
}

/// An error that the client of a pull reads.
pub fn refuse_pull(status: StatusCode, message: &str) -> Response {
    events(status, error_event(message))
}

/// A stream of events.
pub fn events(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Neither kept, nor compressed and thereby held back.
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (status, headers, body.into()).into_response()
}

/// An error that the client of a push reads.
pub fn failure(status: StatusCode, message: &str) -> Response {
    answer(status, json!({"success": false, "error": message}))
}

fn answer(status: StatusCode, body: serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
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
            let Ok(Pull { store_id, payload, after, is_live }) = Pull::parse(query) else { return };
            assert!((0..1 << 53).contains(&after));
            let seen = if after == 0 { json!("from-start") } else { json!(after - 1) };
            let text = payload.as_ref().map_or("null", |payload| payload.get());
            let args =
                format!(r#"{{"storeId":{},"s2SeqNum":{seen},"live":{is_live},"payload":{text}}}"#, json!(store_id));
            let again = Pull::parse(&serde_urlencoded::to_string([("args", args)]).unwrap()).unwrap();
            assert_eq!((again.store_id, again.after, again.is_live), (store_id, after, is_live));
            assert_eq!(again.payload.map(|payload| payload.to_string()), payload.map(|payload| payload.to_string()));
        });
    }

    #[test]
    fn fuzz_push() {
        fuzzing::target!("push", |body| {
            if let Ok(Push { batch, .. }) = Push::parse(body) {
                assert!(std::str::from_utf8(body).unwrap().contains(batch.json()));
            }
        });
    }
}
