//! Bodies of requests, within bounds.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use http_body_util::LengthLimitError;
use tokio::time::timeout;

use crate::limits::memory::{Account, FREE, counted};
use crate::telemetry::metrics::Limit;

/// The time that the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that it may wait for memory.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(20);

/// The size of a body that does not say how large it is.
const UNANNOUNCED: u64 = 4 << 20;

/// Reads a body of `most` bytes at most, once there is memory for as much as it announces. The memory is given back with the body.
pub async fn read(body: Body, account: &Account, most: usize) -> Result<Bytes, (StatusCode, String)> {
    let hint = body.size_hint();
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let announced = hint.upper().map_or_else(|| bytes(hint.lower().max(UNANNOUNCED)).min(most), bytes);
    if announced > most {
        return Err(too_large(most));
    }
    let share = match announced {
        0..=FREE => None,
        _ => match timeout(MEMORY_TIMEOUT, account.take(announced)).await {
            Ok(share) => share.map(Arc::new),
            Err(_) => {
                return Err((
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the server has no memory for this request at the moment, try again later".into(),
                ));
            }
        },
    };
    // A body without a Content-Length may be as large as the memory that was reserved for it.
    match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, most.min(announced))).await {
        Ok(Ok(body)) => Ok(counted(body, share)),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive".into())),
        Ok(Err(error)) if !error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
            Err((StatusCode::BAD_REQUEST, "the request broke off".into()))
        }
        Ok(Err(_)) => Err(too_large(most.min(announced))),
    }
}

fn too_large(most: usize) -> (StatusCode, String) {
    Limit::FrameBytes.hit();
    (StatusCode::PAYLOAD_TOO_LARGE, format!("length limit exceeded: a request has at most {most} bytes"))
}
