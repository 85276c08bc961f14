//! Payloads of requests, and errors as the schemas of sync-cf write them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::log::{Batch, Context, PullError, PushError, StoreId};
use crate::protocols::brief;

/// The request of a client, and the sync payload that came with it.
#[derive(Debug)]
pub struct Request<'a> {
    pub payload: Option<&'a RawValue>,
    pub operation: Operation,
}

#[derive(Debug)]
pub enum Operation {
    Pull { live: bool, cursor: Option<Cursor> },
    Push { batch: Batch, backend_id: Option<String> },
    Ping,
}

/// The two groups of requests, `SyncWsRpc` and `SyncHttpRpc`: one can follow a log, the other needs a Ping of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Http,
}

/// The last event that a client has seen.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    pub backend_id: String,
    pub event_sequence_number: i64,
}

/// Why a request cannot be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum BadRequest {
    UnknownTag,
    Malformed(String),
}

/// An Effect `Option`.
#[derive(Deserialize)]
#[serde(tag = "_tag", content = "value")]
enum Encoded<T> {
    None,
    Some(T),
}

impl<T> From<Encoded<T>> for Option<T> {
    fn from(encoded: Encoded<T>) -> Self {
        match encoded {
            Encoded::None => None,
            Encoded::Some(value) => Some(value),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullPayload<'a> {
    #[serde(borrow)]
    store_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    live: Option<bool>,
    cursor: Encoded<Cursor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PushPayload<'a> {
    #[serde(borrow)]
    store_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    batch: &'a RawValue,
    backend_id: Encoded<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PingPayload<'a> {
    #[serde(borrow)]
    store_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// Reads a request to the store of the URL.
    pub fn parse(transport: Transport, store: &StoreId, tag: &str, payload: &'a str) -> Result<Self, BadRequest> {
        let (group, method) = tag.split_once('.').unwrap_or_default();
        let (store_id, payload, operation) = match (transport, group, method) {
            (Transport::WebSocket, "SyncWsRpc", "Pull") | (Transport::Http, "SyncHttpRpc", "Pull") => {
                let PullPayload { store_id, payload, live, cursor } = parse(payload)?;
                let live = match (transport, live) {
                    (Transport::Http, _) => false,
                    (Transport::WebSocket, Some(live)) => live,
                    (Transport::WebSocket, None) => return Err(malformed("payload", "missing field `live`")),
                };
                let cursor = Option::<Cursor>::from(cursor);
                check_backend_id(cursor.as_ref().map(|cursor| &*cursor.backend_id))?;
                (store_id, payload, Operation::Pull { live, cursor })
            }
            (Transport::WebSocket, "SyncWsRpc", "Push") | (Transport::Http, "SyncHttpRpc", "Push") => {
                let PushPayload { store_id, payload, batch, backend_id } = parse(payload)?;
                let backend_id = Option::<String>::from(backend_id);
                check_backend_id(backend_id.as_deref())?;
                let batch = Batch::parse(batch.get()).map_err(|error| malformed("batch", &error.to_string()))?;
                (store_id, payload, Operation::Push { batch, backend_id })
            }
            (Transport::Http, "SyncHttpRpc", "Ping") => {
                let PingPayload { store_id, payload } = parse(payload)?;
                (store_id, payload, Operation::Ping)
            }
            _ => return Err(BadRequest::UnknownTag),
        };
        same_store(store, &store_id)?;
        if payload.is_some_and(|payload| payload.get().len() > Context::PAYLOAD_BYTES) {
            return Err(malformed("payload", &format!("a sync payload has at most {} bytes", Context::PAYLOAD_BYTES)));
        }
        Ok(Self { payload, operation })
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a str) -> Result<T, BadRequest> {
    serde_json::from_str(payload).map_err(|error| malformed("payload", &error.to_string()))
}

fn malformed(what: &str, error: &str) -> BadRequest {
    BadRequest::Malformed(format!("malformed {what}: {error}"))
}

/// Ours have 21 characters. Postgres cannot take U+0000.
fn check_backend_id(backend_id: Option<&str>) -> Result<(), BadRequest> {
    const LONGEST: usize = 128;
    match backend_id {
        Some(id) if id.len() > LONGEST => Err(malformed("backendId", "it is longer than any")),
        Some(id) if id.contains('\0') => Err(malformed("backendId", "it contains the character U+0000")),
        _ => Ok(()),
    }
}

fn same_store(store: &StoreId, requested: &str) -> Result<(), BadRequest> {
    if requested == store.as_str() {
        return Ok(());
    }
    let message = format!("storeId {} differs from the storeId of the URL, {store:?}", Value::from(requested));
    Err(BadRequest::Malformed(message))
}

/// The error of a pull for its client; `None` for one that is ahead of the log, for which no error is right: one would
/// end its sync for good, another would make it drop what may be the only copy.
pub fn pull_failure(error: &PullError) -> Option<Value> {
    match error {
        PullError::BackendIdMismatch { expected, received } => Some(backend_id_mismatch(expected, received)),
        PullError::Denied(_) | PullError::Unreadable(_) => Some(unknown_error(&error.to_string())),
        PullError::Rewound => None,
    }
}

/// `ServerAheadError` of `@livestore/common`.
fn server_ahead(minimum_expected_num: i64, provided_num: i64) -> Value {
    json!({
        "_tag": "ServerAheadError",
        "minimumExpectedNum": minimum_expected_num,
        "providedNum": provided_num,
    })
}

/// `BackendIdMismatchError` of `@livestore/common`: the client drops its local log.
fn backend_id_mismatch(expected: &str, received: &str) -> Value {
    json!({"_tag": "BackendIdMismatchError", "expected": expected, "received": received})
}

/// `UnknownError` of `@livestore/common`: the client tries the same batch again later.
pub fn unknown_error(message: &str) -> Value {
    let message = brief(message);
    json!({
        "_tag": "UnknownError",
        "cause": {"name": "LivestoreSyncError", "message": message},
        "note": message,
    })
}

/// The error of a push for its client; `None` if the client should rather lose its connection and try again.
pub fn push_failure(error: &PushError) -> Option<Value> {
    match error {
        PushError::ServerAhead { minimum_expected_num, provided_num } => {
            Some(server_ahead(*minimum_expected_num, *provided_num))
        }
        PushError::BackendIdMismatch { expected, received } => Some(backend_id_mismatch(expected, received)),
        PushError::Invalid(_) | PushError::Rejected(_) | PushError::Throttled(_) => {
            Some(unknown_error(&error.to_string()))
        }
        PushError::Unavailable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::rpc::wire::read_frames;

    #[test]
    fn fuzz_request() {
        fuzzing::text_target!("request", |text| {
            let store = StoreId::parse("golden").unwrap();
            for frame in read_frames(text).unwrap_or_default() {
                let (Some(tag), Some(payload)) = (frame.tag, frame.payload) else { continue };
                let [by_websocket, by_http] = [Transport::WebSocket, Transport::Http]
                    .map(|transport| Request::parse(transport, &store, &tag, payload.get()));
                assert!(!matches!((&by_websocket, &by_http), (Ok(_), Ok(_))), "{tag}");
                assert!(!matches!(&by_http, Ok(Request { operation: Operation::Pull { live: true, .. }, .. })));
                for request in [by_websocket, by_http].into_iter().flatten() {
                    assert!(payload.get().contains("golden") || payload.get().contains('\\'), "of another store");
                    assert!(request.payload.is_none_or(|payload| payload.get().len() <= Context::PAYLOAD_BYTES));
                    let backend_id = match request.operation {
                        Operation::Push { batch, backend_id } => {
                            assert!(payload.get().contains(batch.json()));
                            backend_id
                        }
                        Operation::Pull { cursor, .. } => cursor.map(|cursor| cursor.backend_id),
                        Operation::Ping => None,
                    };
                    assert!(backend_id.is_none_or(|id| id.len() <= 128 && !id.contains('\0')));
                }
            }
        });
    }
}
