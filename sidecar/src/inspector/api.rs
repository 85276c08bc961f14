//! The same for programs: the commands of `cli`.
//!
//! - `GET /inspector/api/list?of=…&id=…&after=…&limit=…`: a JSON object a line ([`List`])
//! - `POST /inspector/api/commit`: `{"id", "name", "args"}`, answered by `{"seq_num"}`; without `args`, the event has none
//! - `GET /inspector/api/export?id=…`: the lines of `livestore.export_store`
//! - `POST /inspector/api/import?store=…`: these lines, answered by `{"imported", "already_there", "head"}`
//!
//! Failures are text.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Inspector;
use super::answers::{Failure, Who, administers, store_id, writes};
use super::reads::IdQuery;
use crate::log::{ActionError, List};

/// The largest event, with room for what is around it.
const COMMIT_BYTES: usize = 16 << 20;

/// An import whose next bytes do not come for so long is given up.
const PAUSE: Duration = Duration::from_secs(30);

/// A failure, as text.
pub struct PlainFailure(Failure);

impl<F: Into<Failure>> From<F> for PlainFailure {
    fn from(failure: F) -> Self {
        Self(failure.into())
    }
}

impl IntoResponse for PlainFailure {
    fn into_response(self) -> Response {
        (self.0.status, self.0.text).into_response()
    }
}

pub async fn list(State(inspector): State<Arc<Inspector>>, Query(list): Query<List>) -> Result<Response, PlainFailure> {
    if list.id.contains('\0') {
        return Err(super::answers::bad("U+0000 is in no id").into());
    }
    let mut lines = inspector.inspection.list(&list).await?.join("\n");
    if !lines.is_empty() {
        lines.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// An event to commit.
#[derive(Debug, Deserialize)]
pub struct Commit {
    pub id: String,
    pub name: String,
    #[serde(default, deserialize_with = "present")]
    pub args: Option<Box<RawValue>>,
}

/// Without this, serde would read a `null` as an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

pub async fn commit(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Response, PlainFailure> {
    // Before the body, which takes memory and time.
    writes(&visitor)?;
    let body = inspector.gate.body_of_at_most(body, &inspector.gate.memory.strangers(), COMMIT_BYTES).await?;
    let Commit { id, name, args } = serde_json::from_slice(&body)
        .map_err(|error| super::answers::bad(format!("the request is not JSON: {error}")))?;
    let args = args.as_ref().map(|args| args.get());
    let seq_num = inspector.commit(&visitor, store_id(&id)?, &name, args).await?;
    Ok(axum::Json(json!({"seq_num": seq_num})).into_response())
}

pub async fn export(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<IdQuery>,
) -> Result<Response, PlainFailure> {
    Ok(inspector.lines(visitor, &query.id).await?.into_response())
}

#[derive(Deserialize)]
pub struct ImportQuery {
    /// The store to import into, if not the one that the lines name.
    store: Option<String>,
}

pub async fn import(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Result<Response, PlainFailure> {
    administers(&visitor)?;
    if let Some(store) = &query.store {
        store_id(store)?;
    }
    let pieces = unfold(body.into_data_stream(), async |mut pieces| {
        let piece = match timeout(PAUSE, pieces.next()).await {
            Ok(piece) => piece?.map_err(|error| ActionError::Incomplete(error.to_string())),
            Err(_) => Err(ActionError::Incomplete("nothing more came for 30 seconds".into())),
        };
        Some((piece, pieces))
    });
    Ok(axum::Json(inspector.inspection.import(query.store, pieces).await?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_another_value_than_no_args() {
        let args = |json: &str| {
            let commit: Commit = serde_json::from_str(json).unwrap();
            commit.args.map(|args| args.get().to_owned())
        };
        assert_eq!(args(r#"{"id": "a", "name": "e"}"#), None);
        assert_eq!(args(r#"{"id": "a", "name": "e", "args": null}"#).as_deref(), Some("null"));
        assert_eq!(args(r#"{"id": "a", "name": "e", "args": "\ud800"}"#).as_deref(), Some(r#""\ud800""#));
    }
}
