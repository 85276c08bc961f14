//! HTTP: which request goes to which protocol, and what a load balancer asks.

use std::net::IpAddr;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::log::StoreId;
use crate::protocols::rpc::{Session, SessionConfig};

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    pub session: SessionConfig,
    /// Connections outlive their handlers; a shutdown waits for them here.
    pub connections: TaskTracker,
    pub max_frame_bytes: usize,
    /// Serve pages of every origin. Without, only those that this machine serves: everybody's browser can reach loopback.
    pub any_origin: bool,
}

const INFO: &str = concat!(
    "livestore-sidecar ",
    env!("CARGO_PKG_VERSION"),
    "\n
A LiveStore sync backend on Postgres. Endpoints:

  ws://<this host>/?storeId=<store>&transport=ws   @livestore/sync-cf 0.4 and later: makeWsSync({ url })
  /healthz                                         200 while the process lives
  /readyz                                          200 when it can serve, else 503 with the reason
"
);

impl Server {
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .fallback(any_path)
            .with_state(self)
    }
}

async fn readyz(State(server): State<Server>) -> Response {
    match server.session.log.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}

/// The search params by which sync-cf's own worker tells its requests, on any path (`SearchParamsSchema`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SearchParams {
    store_id: String,
    transport: Transport,
    payload: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Ws,
}

async fn any_path(State(server): State<Server>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    match serde_urlencoded::from_str::<SearchParams>(query) {
        Ok(SearchParams { store_id, transport: Transport::Ws, payload }) => {
            server.websocket(&store_id, payload.as_deref(), request).await
        }
        Err(_) if request.method() == Method::GET && request.uri().path() == "/" && query.is_empty() => {
            INFO.into_response()
        }
        Err(error) => bad_request(&format!("no such endpoint, see / for those there are ({error})")),
    }
}

impl Server {
    async fn websocket(self, store_id: &str, payload: Option<&str>, request: Request) -> Response {
        let store = match StoreId::parse(store_id) {
            Ok(store) => store,
            Err(error) => return bad_request(&error),
        };
        if let Some(Err(error)) = payload.map(decode_payload) {
            return bad_request(&error);
        }
        if !self.any_origin && !is_local(request.headers()) {
            return (StatusCode::FORBIDDEN, FOREIGN_ORIGIN).into_response();
        }
        let (mut parts, _) = request.into_parts();
        let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
            let headers = [(header::UPGRADE, "websocket")];
            return (StatusCode::UPGRADE_REQUIRED, headers, "this endpoint speaks WebSocket\n").into_response();
        };
        let Self { session, connections, max_frame_bytes, .. } = self;
        upgrade
            .max_message_size(max_frame_bytes)
            .max_frame_size(max_frame_bytes)
            .on_upgrade(move |socket| connections.track_future(Session::serve(session, store, socket)))
    }
}

const FOREIGN_ORIGIN: &str =
    "without authentication, only pages from this machine are served; --insecure-no-auth allows all\n";

/// Whether a request comes from no page at all, or from one that this machine serves.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The sync payload of a URL: JSON, percent-encoded once more than the search params are.
fn decode_payload(encoded: &str) -> Result<serde_json::Value, String> {
    let json = percent_decode_str(encoded).decode_utf8().map_err(|error| format!("malformed payload: {error}"))?;
    serde_json::from_str(&json).map_err(|error| format!("malformed payload: {error}"))
}

fn bad_request(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response()
}
