//! Answers to requests that are refused before their protocol reads them.

use axum::Extension;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a request is refused, as an extension of its answer: for the log.
#[derive(Clone)]
pub struct Because(pub String);

/// In plain text.
pub fn refuse((status, message): (StatusCode, String)) -> Response {
    let text = format!("{message}\n");
    (status, Extension(Because(message)), text).into_response()
}

pub fn bad_request(message: &str) -> Response {
    refuse((StatusCode::BAD_REQUEST, message.into()))
}

/// To a request without the headers of a WebSocket.
pub fn upgrade_required() -> Response {
    let headers = [(header::UPGRADE, "websocket")];
    (StatusCode::UPGRADE_REQUIRED, headers, "this endpoint speaks WebSocket\n").into_response()
}
