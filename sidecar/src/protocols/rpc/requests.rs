//! Payloads of requests, and errors as the schemas of sync-cf write them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::wire::brief;
use crate::log::{Batch, PushError, StoreId};

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    Pull { live: bool, cursor: Option<Cursor> },
    Push { batch: Batch, backend_id: Option<String> },
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
    live: bool,
    cursor: Encoded<Cursor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PushPayload<'a> {
    #[serde(borrow)]
    store_id: Cow<'a, str>,
    #[serde(borrow)]
    batch: &'a RawValue,
    backend_id: Encoded<String>,
}

impl Request {
    /// Reads a request to the store of the connection.
    ///
    /// # Errors
    /// The tag is none of ours, the payload has not the form of its schema, or names another store.
    pub fn parse(store: &StoreId, tag: &str, payload: &str) -> Result<Self, BadRequest> {
        match tag {
            "SyncWsRpc.Pull" => {
                let PullPayload { store_id, live, cursor } = parse(payload)?;
                same_store(store, &store_id)?;
                let cursor = Option::<Cursor>::from(cursor);
                check_backend_id(cursor.as_ref().map(|cursor| &*cursor.backend_id))?;
                Ok(Self::Pull { live, cursor })
            }
            "SyncWsRpc.Push" => {
                let PushPayload { store_id, batch, backend_id } = parse(payload)?;
                same_store(store, &store_id)?;
                let backend_id = Option::<String>::from(backend_id);
                check_backend_id(backend_id.as_deref())?;
                let batch = Batch::parse(batch.get()).map_err(|error| malformed("batch", &error))?;
                Ok(Self::Push { batch, backend_id })
            }
            _ => Err(BadRequest::UnknownTag),
        }
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

/// `ServerAheadError` of `@livestore/common`.
pub fn server_ahead(minimum_expected_num: i64, provided_num: i64) -> Value {
    json!({
        "_tag": "ServerAheadError",
        "minimumExpectedNum": minimum_expected_num,
        "providedNum": provided_num,
    })
}

/// `BackendIdMismatchError` of `@livestore/common`: the client drops its local log.
pub fn backend_id_mismatch(expected: &str, received: &str) -> Value {
    json!({"_tag": "BackendIdMismatchError", "expected": expected, "received": received})
}

/// `UnknownError` of `@livestore/common`: the client tries the same batch again later.
fn unknown_error(message: &str) -> Value {
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
        PushError::Invalid(_) | PushError::Rejected(_) => Some(unknown_error(&error.to_string())),
        PushError::Unavailable => None,
    }
}
