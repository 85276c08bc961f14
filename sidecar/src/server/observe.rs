//! One line in the log for each request, and its place in the metrics.

use std::time::Instant;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span, info, info_span};

use crate::config::Dialect;
use crate::log::StoreId;
use crate::metrics;

/// What is asked every few seconds, and says nothing of clients.
const UNLOGGED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Logs a request when its answer begins. The line has no search params: tokens may be in there.
pub async fn observe(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if UNLOGGED.contains(&path) {
        return next.run(request).await;
    }
    let trace_id = trace_id(request.headers());
    let span = info_span!("request", method = %request.method(), path, trace_id, dialect = Empty, store = Empty);
    let start = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    metrics::answered(status);
    info!(parent: &span, status, milliseconds = start.elapsed().as_secs_f64() * 1000.0, "answered");
    response
}

/// What a request turned out to ask for.
pub fn is_for(dialect: Dialect, store: &StoreId) {
    let span = Span::current();
    span.record("dialect", display(dialect));
    span.record("store", store.as_str());
}

/// The trace that the client's request belongs to, as W3C's Trace Context has it.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let (_version, trace_id) = (parts.next()?, parts.next()?);
    let is_id = trace_id.len() == 32 && trace_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(trace_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_trace_id_is_32_hexadecimal_digits() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([("traceparent".parse().unwrap(), value.parse().unwrap())]);
            trace_id(&headers).map(String::from)
        };
        let id = "0b962dc3b22602d47c7abf3a2605b715";
        assert_eq!(of(&format!("00-{id}-ab01972282fc3020-01")).as_deref(), Some(id));
        for other in ["", "00", "00-", &format!("00-{id}0-ab01972282fc3020-01"), "00-token-ab01972282fc3020-01"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
