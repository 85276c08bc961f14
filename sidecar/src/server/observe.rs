//! One line in the log for each request, and its place in the metrics.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument, info, info_span};

use crate::gate::answers::Because;
use crate::telemetry::metrics;
use crate::telemetry::refusals::without_input;
use crate::telemetry::traces::Parent;

/// Paths that are asked for every few seconds, and tell nothing of clients.
pub const UNLOGGED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The most of a path that a line has, in bytes.
const PATH_BYTES: usize = 300;

fn shortened(path: &str) -> &str {
    &path[..path.floor_char_boundary(PATH_BYTES)]
}

/// Logs a request when its answer begins. The line has no search params: tokens may be in there.
pub async fn observe(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if UNLOGGED.contains(&path) {
        return next.run(request).await;
    }
    let path = shortened(path);
    let method = request.method();
    let parent = request.headers().get("traceparent").and_then(|header| Parent::parse(header.to_str().ok()?));
    let span = info_span!(
        "request",
        %method,
        path,
        trace_id = parent.map(|parent| parent.trace_id),
        dialect = Empty,
        store = Empty
    );
    if let Some(parent) = parent {
        parent.adopt(&span);
    }
    let start = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    metrics::answered(status);
    let because = response.extensions().get().map(|Because(because)| without_input(because));
    let because = because.as_deref();
    let milliseconds = (start.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    info!(parent: &span, status, because, milliseconds, "answered");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_makes_no_long_line() {
        let path = format!("/{}", "a".repeat(60_000));
        assert_eq!((shortened(&path).len(), shortened("/api/s2")), (PATH_BYTES, "/api/s2"));
        let path = format!("/{}", "é".repeat(30_000));
        assert_eq!(shortened(&path).len(), PATH_BYTES - 1);
    }
}
