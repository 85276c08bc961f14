//! Endpoints for load balancers, service managers and Prometheus.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::warn;

use super::Server;
use crate::log::NotReady;
use crate::relay::Relay;
use crate::telemetry::chain;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::{GaugeValues, render};

/// The interval at which the same reason is mentioned in the log: everybody may ask as often as they like.
const MENTION_EVERY: Duration = Duration::from_secs(10);

/// The number of reasons that are told apart.
const REASONS: usize = 20;

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
        Ok(away) => {
            let away: String = away.iter().map(|why| format!("{}\n", mentioned(why))).collect();
            format!("ready\n{away}").into_response()
        }
        Err(error) => not_ready(&mentioned(&error)),
    }
}

/// The text for whoever asks, of what is told to the operator, too.
fn mentioned(error: &NotReady) -> String {
    static SAID: LazyLock<LogThrottle<String>> = LazyLock::new(|| LogThrottle::new(MENTION_EVERY, REASONS));
    let text = error.to_strangers();
    if let Some(suppressed) = SAID.suppressed(text.clone()) {
        warn!(error = %chain(error), suppressed, "not ready");
    }
    text
}

fn not_ready(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}
