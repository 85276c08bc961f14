//! Endpoints for load balancers, service managers and Prometheus.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::warn;

use super::Server;
use crate::relay::Relay;
use crate::telemetry::metrics::{GaugeValues, render};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// For Prometheus.
async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let relay_devices = server.services.relay.as_ref().map_or(0, Relay::devices);
    let gauges = GaugeValues { relay_devices, ..server.gate().log.gauges() };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render(&server.metrics, gauges)).into_response()
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    if server.gate().ending.announced.is_cancelled() {
        return not_ready("this process is about to end");
    }
    if !server.is_open.load(Ordering::Relaxed) {
        return not_ready("others listen here, and this process will when its database answers");
    }
    match server.gate().log.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "not ready");
            not_ready(&error.to_strangers())
        }
    }
}

fn not_ready(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}
