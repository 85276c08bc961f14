//! Answers: pages, and what went wrong.

use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::PREFIX;
use super::access::Visitor;
use super::pages::{self, Page};
use crate::auth::Access;
use crate::log::{ActionError, ReadError, StoreId};

/// The person who looks, as a handler gets it.
pub type Who = Extension<Arc<Visitor>>;

pub fn page(visitor: &Visitor, title: &str, path: &str, content: &maud::Markup) -> Html<String> {
    Html(Page { title, path, visitor: Some(visitor), has_plots: path == PREFIX }.around(content))
}

pub fn problem(status: StatusCode, visitor: Option<&Visitor>, title: &str, text: &str, back: &str) -> Response {
    let content = pages::message(title, text, back);
    (status, Html(Page { title, path: "", visitor, has_plots: false }.around(&content))).into_response()
}

/// A request that failed, told to the person who looks.
pub struct Failure {
    pub status: StatusCode,
    pub text: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        problem(self.status, None, "This did not work", &self.text, PREFIX)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::TooMuch => StatusCode::UNPROCESSABLE_ENTITY,
            ReadError::Refused(_) => StatusCode::BAD_REQUEST,
            ReadError::Locked | ReadError::Older | ReadError::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self { status, text: format!("{error}{source}") }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        let status = match error {
            ActionError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ActionError::Database(_) | ActionError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            ActionError::Incomplete(_) => StatusCode::BAD_REQUEST,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<(StatusCode, String)> for Failure {
    fn from((status, text): (StatusCode, String)) -> Self {
        Self { status, text }
    }
}

/// A commit takes somebody who may write.
pub fn writes(visitor: &Visitor) -> Result<(), Failure> {
    if visitor.access >= Access::Write {
        return Ok(());
    }
    Err(Failure { status: StatusCode::FORBIDDEN, text: "your token allows to read only".into() })
}

/// A change of what is in a log takes an administrator.
pub fn administers(visitor: &Visitor) -> Result<(), Failure> {
    if visitor.access == Access::Admin {
        return Ok(());
    }
    let text = "this takes the secret of the inspector, or a token that gives \"*\": \"admin\"".into();
    Err(Failure { status: StatusCode::FORBIDDEN, text })
}

pub fn bad(text: impl Into<String>) -> Failure {
    Failure { status: StatusCode::BAD_REQUEST, text: text.into() }
}

pub fn store_id(text: &str) -> Result<StoreId, Failure> {
    StoreId::parse(text).map_err(|error| bad(error.text()))
}
