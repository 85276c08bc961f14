//! HTTP: which request goes to which protocol, and what a load balancer asks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;
use tracing::{info, warn};

use crate::config::Dialect;
use crate::log::{Context, Log, StoreId, StoreLog};
use crate::origins::Origins;
use crate::protocols::{cf_0_3, rpc};

/// How long a WebSocket waits for a database that is away before its client is told to come back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    pub log: Log,
    pub settings: Arc<Settings>,
    /// Connections outlive their handlers; a shutdown waits for them here.
    pub connections: TaskTracker,
    pub shutdown: CancellationToken,
}

/// What an operator sets.
pub struct Settings {
    pub dialects: HashSet<Dialect>,
    pub origins: Origins,
    /// The request headers that hooks and the authorize function get.
    pub forward_headers: Vec<HeaderName>,
    pub admin_secret: Option<String>,
    pub max_frame_bytes: usize,
}

const INFO: &str = concat!(
    "livestore-sidecar ",
    env!("CARGO_PKG_VERSION"),
    "\n
A LiveStore sync backend on Postgres. Endpoints:

  ws://<this host>/?storeId=<store>&transport=ws     @livestore/sync-cf 0.4 and later: makeWsSync({ url })
  http://<this host>/?storeId=<store>&transport=http @livestore/sync-cf 0.4 and later: makeHttpSync({ url })
  ws://<this host>/websocket?storeId=<store>         @livestore/sync-cf 0.3: makeCfSync({ url })
  /healthz                                           200 while the process lives
  /readyz                                            200 when it can serve, else 503 with the reason
"
);

impl Server {
    pub fn router(self) -> Router {
        let sync = Router::new()
            .fallback(any_path)
            .layer(CompressionLayer::new())
            .layer(self.settings.origins.cors())
            .layer(from_fn(no_content_for_options));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .fallback_service(sync.with_state(self.clone()))
            .with_state(self)
    }
}

async fn readyz(State(server): State<Server>) -> Response {
    match server.log.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}

/// As sync-cf's worker answers a preflight.
async fn no_content_for_options(request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_options {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// The search params by which sync-cf's own worker tells its requests, on any path (`SearchParamsSchema`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SearchParams {
    store_id: String,
    transport: Option<String>,
    payload: Option<String>,
}

async fn any_path(State(server): State<Server>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let (path, is_get) = (request.uri().path(), request.method() == Method::GET);
    match serde_urlencoded::from_str(query) {
        Ok(SearchParams { store_id, transport, payload }) => {
            // Effect 4's HTTP client ends the URL that it was given with a slash.
            let dialect = match transport.as_deref().map(|transport| transport.trim_end_matches('/')) {
                Some("ws") => Dialect::CfWs,
                Some("http") => Dialect::CfHttp,
                None if path.ends_with("/websocket") => Dialect::Cf03,
                None => return bad_request("no such endpoint, see / for those there are (missing field `transport`)"),
                Some(_) => return bad_request("no such endpoint, see / for those there are (unknown `transport`)"),
            };
            server.sync(dialect, &store_id, payload.as_deref(), request).await
        }
        Err(_) if is_get && path == "/" && query.is_empty() => INFO.into_response(),
        Err(error) => bad_request(&format!("no such endpoint, see / for those there are ({error})")),
    }
}

impl Server {
    async fn sync(self, dialect: Dialect, store_id: &str, payload: Option<&str>, request: Request) -> Response {
        if !self.settings.dialects.contains(&dialect) {
            let message = format!("{dialect} is switched off on this server: --dialects switches it on\n");
            return (StatusCode::NOT_FOUND, message).into_response();
        }
        if !self.settings.origins.allow(request.headers()) {
            return (StatusCode::FORBIDDEN, FOREIGN_ORIGIN).into_response();
        }
        let store = match StoreId::parse(store_id) {
            Ok(store) => store,
            Err(error) => return bad_request(&error),
        };
        let payload = match payload.map(decode_payload).transpose() {
            Ok(payload) => payload,
            Err(error) => return bad_request(&error),
        };
        let mut headers = forwarded(&self.settings.forward_headers, request.headers());
        if !self.settings.origins.trust(request.headers()) {
            headers.remove(header::COOKIE.as_str());
        }
        let log = self.log.store(store, Context::new(payload.as_deref(), &headers));
        match dialect {
            Dialect::CfWs | Dialect::Cf03 => self.websocket(dialect, log, request).await,
            Dialect::CfHttp => self.http(log, request).await,
        }
    }

    async fn websocket(self, dialect: Dialect, log: StoreLog, request: Request) -> Response {
        let (mut parts, _) = request.into_parts();
        let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
            let headers = [(header::UPGRADE, "websocket")];
            return (StatusCode::UPGRADE_REQUIRED, headers, "this endpoint speaks WebSocket\n").into_response();
        };
        match timeout(CONNECT_TIMEOUT, log.connect()).await {
            Ok(Ok(())) => {}
            Ok(Err(denied)) => return bad_request(&denied.to_string()),
            Err(_) => return (StatusCode::SERVICE_UNAVAILABLE, "the database is away, try again\n").into_response(),
        }
        info!(store = ?log.id(), %dialect, "connected");
        let Self { settings, connections, shutdown, .. } = self;
        let upgrade = upgrade.max_message_size(settings.max_frame_bytes).max_frame_size(settings.max_frame_bytes);
        match dialect {
            Dialect::Cf03 => {
                let secret = settings.admin_secret.clone();
                upgrade.on_upgrade(move |socket| connections.track_future(cf_0_3::serve(log, socket, secret, shutdown)))
            }
            _ => upgrade.on_upgrade(move |socket| connections.track_future(rpc::serve(log, socket, shutdown))),
        }
    }

    async fn http(self, log: StoreLog, request: Request) -> Response {
        if request.method() != Method::POST {
            let headers = [(header::ALLOW, "POST, OPTIONS")];
            return (StatusCode::METHOD_NOT_ALLOWED, headers, "this endpoint takes POST\n").into_response();
        }
        let body = axum::body::to_bytes(request.into_body(), self.settings.max_frame_bytes);
        match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => rpc::answer(log, body, &self.connections, self.shutdown).await,
            Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive\n").into_response(),
            Ok(Err(error)) => {
                let message = format!("{error}: a request has at most {} bytes\n", self.settings.max_frame_bytes);
                (StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
            }
        }
    }
}

const FOREIGN_ORIGIN: &str = "pages of this origin are not served: the operator can allow it with --cors-origins\n";

/// The sync payload of a URL: JSON, percent-encoded once more than the search params are.
fn decode_payload(encoded: &str) -> Result<Box<RawValue>, String> {
    let json = percent_decode_str(encoded).decode_utf8().map_err(|error| format!("malformed payload: {error}"))?;
    if json.len() > Context::PAYLOAD_BYTES {
        return Err(format!("malformed payload: it has more than {} bytes", Context::PAYLOAD_BYTES));
    }
    serde_json::from_str(&json).map_err(|error| format!("malformed payload: {error}"))
}

/// The headers of these names that the request has, names in lower case. What is not UTF-8 in them is replaced.
fn forwarded(names: &[HeaderName], headers: &HeaderMap) -> BTreeMap<String, String> {
    let value = |name: &HeaderName| {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        // Cookies are joined in their own way.
        let separator = if *name == header::COOKIE { "; " } else { ", " };
        (!values.is_empty()).then(|| (name.as_str().to_string(), values.join(separator)))
    };
    names.iter().filter_map(value).collect()
}

fn bad_request(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response()
}
