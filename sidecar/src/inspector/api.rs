//! The same for programs: `livestore-sidecar stores`, `events`, `tail`, `commit` and `subscriptions`.
//!
//! - `GET /inspector/api/list?of=…&id=…&after=…&limit=…`: a JSON object a line ([`List`])
//! - `POST /inspector/api/commit`: `{"id", "name", "args"}`, answered by `{"seq_num"}`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::Inspector;
use super::answers::{Failure, Who, store_id};
use crate::log::List;

/// The largest event, with room for what is around it.
const COMMIT_BYTES: usize = 16 << 20;

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
#[derive(Debug, Serialize, Deserialize)]
pub struct Commit {
    pub id: String,
    pub name: String,
    pub args: Option<Box<RawValue>>,
}

pub async fn commit(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Response, PlainFailure> {
    let body = inspector.gate.body_of_at_most(body, &inspector.gate.memory.strangers(), COMMIT_BYTES).await?;
    let Commit { id, name, args } = serde_json::from_slice(&body)
        .map_err(|error| super::answers::bad(format!("the request is not JSON: {error}")))?;
    let args = args.as_ref().map(|args| args.get());
    let seq_num = inspector.commit(&visitor, store_id(&id)?, &name, args).await?;
    Ok(axum::Json(json!({"seq_num": seq_num})).into_response())
}
