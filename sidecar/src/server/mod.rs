//! HTTP: which request goes to which protocol, and what a load balancer asks.

pub mod accept;
mod cf;
pub mod door;
mod electric;
mod observe;
mod probes;
mod relay;
pub mod s2;
mod tidy;
pub mod turn;

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http_body_util::LengthLimitError;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;

use crate::auth::{Authentication, Credentials, Refused, Secret};
use crate::budget::{self, Account, Budget, FREE};
use crate::config::Dialect;
use crate::hosts::Hosts;
use crate::log::{Context, Log, StoreId, StoreLog};
use crate::metrics::Limit;
use crate::origins::Origins;
use crate::protocols::electric::Upstream;
use crate::protocols::s2::api;
use crate::refusals::{Asked, Reason, Whom, refused};
use crate::relay::Relay;
use crate::shutdown::Ending;

/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may wait for memory.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(20);

/// What is taken for a body that does not say how large it is.
const UNANNOUNCED: u64 = 4 << 20;

/// What somebody may send who has no good token, to be told so in the form of the protocol.
const STRANGERS_BYTES: usize = 64 << 10;

/// What the handlers share.
pub struct Server {
    pub log: Log,
    pub settings: Arc<Settings>,
    /// Connections outlive their handlers; a shutdown waits for them here.
    pub connections: TaskTracker,
    pub ending: Ending,
    /// Between devices, if the peer relay is served.
    pub relay: Option<Relay>,
    pub metrics: PrometheusHandle,
    /// What clients of S2 have created here.
    pub created: s2::Created,
    /// Connections are taken.
    pub is_open: AtomicBool,
}

/// What an operator sets.
pub struct Settings {
    pub dialects: HashSet<Dialect>,
    pub hosts: Hosts,
    pub origins: Origins,
    pub authentication: Arc<Authentication>,
    /// The request headers that hooks and the authorize function get.
    pub forward_headers: Vec<HeaderName>,
    pub admin_secret: Option<Arc<Secret>>,
    /// Asked of clients of the shape API.
    pub electric_secret: Option<String>,
    /// What clients of Electric's protocols read from, if not from Postgres.
    pub electric: Option<Upstream>,
    /// The store in which the peer relay keeps events, with `{user}` for the user.
    pub relay_store: Option<String>,
    pub max_frame_bytes: usize,
    /// Memory for bodies.
    pub budget: Arc<Budget>,
}

const INFO: &str = concat!(
    "livestore-sidecar ",
    env!("CARGO_PKG_VERSION"),
    "\n
A LiveStore sync backend on Postgres. Endpoints:

  ws://<this host>/?storeId=<store>&transport=ws     @livestore/sync-cf 0.4 and later: makeWsSync({ url })
  http://<this host>/?storeId=<store>&transport=http @livestore/sync-cf 0.4 and later: makeHttpSync({ url })
  ws://<this host>/websocket?storeId=<store>         @livestore/sync-cf 0.3: makeCfSync({ url })
  http://<this host>/api/electric                    @livestore/sync-electric: makeSyncBackend({ endpoint })
  http://<this host>/v1/shape                        makeElectricUrl({ electricHost }), @electric-sql/client
  http://<this host>/api/s2                          @livestore/sync-s2: makeSyncBackend({ endpoint })
  http://<this host>/v1/streams                      s2-proxy-helpers: { lite: true, basinBase, accountBase }
  ws://<this host>/api/v1/livestore/sync             the peer relay
  /healthz                                           200 while the process lives
  /readyz                                            200 when it can serve, else 503 with the reason
  /metrics                                           for Prometheus
"
);

impl Server {
    /// All that is served to clients.
    pub fn router(self: Arc<Self>) -> Router {
        let server = self;
        let sync = Router::new()
            .merge(electric::router())
            .merge(s2::router())
            .merge(relay::router())
            .fallback(cf::any_path)
            .layer(CompressionLayer::new())
            .layer(server.settings.origins.cors())
            .layer(from_fn_with_state(Arc::clone(&server), for_clients));
        let routes = probes::router().fallback_service(sync.with_state(Arc::clone(&server))).with_state(server);
        // Around the routes as a whole: a path is what it is when it comes to them.
        Router::new().fallback_service(routes).layer(from_fn(around))
    }

    /// What is asked of this process alone, on an address of its own.
    pub fn probes(self: Arc<Self>) -> Router {
        probes::router().with_state(self).layer(map_response(async |response| for_our_pages(response)))
    }

    /// Whether a request is served at all.
    ///
    /// # Errors
    /// The answer to one that is not.
    fn admit(&self, dialect: Dialect, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        if !self.settings.dialects.contains(&dialect) {
            let message = format!("{dialect} is switched off on this server: --dialects switches it on");
            return Err((StatusCode::NOT_FOUND, message));
        }
        // What a page cannot send unless it is served: programs that name an origin all the same, as React Native does.
        let is_no_page = Credentials::have_bearer(headers);
        if !is_no_page && !self.settings.origins.allow(headers) {
            self.refused(
                Asked::Connect,
                Reason::Origin,
                dialect,
                "the origin of the page is not allowed: --cors-origins",
            );
            let message = "pages of this origin are not served: the operator can allow it with --cors-origins";
            return Err((StatusCode::FORBIDDEN, message.into()));
        }
        Ok(())
    }

    /// Tells the operator of a request that is refused before it is known who sends it.
    fn refused(&self, asked: Asked, reason: Reason, dialect: Dialect, text: &str) {
        let whom = Whom { dialect: dialect.name(), is_stranger: true, ..Whom::default() };
        refused(asked, reason, whom, text);
    }

    /// What hooks and the authorize function may know of a request.
    ///
    /// # Errors
    /// The payload is too large.
    fn context(
        &self,
        dialect: Dialect,
        store: &StoreId,
        payload: Option<&RawValue>,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Context, String> {
        observe::is_for(dialect, store);
        self.unnamed_context(dialect, payload, headers, query)
    }

    /// The same before it is known which store the request is about.
    ///
    /// # Errors
    /// The payload is too large.
    fn unnamed_context(
        &self,
        dialect: Dialect,
        payload: Option<&RawValue>,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Context, String> {
        if payload.is_some_and(|payload| payload.get().len() > Context::PAYLOAD_BYTES) {
            return Err(format!("malformed payload: it has more than {} bytes", Context::PAYLOAD_BYTES));
        }
        let mut forwarded = forwarded(&self.settings.forward_headers, headers);
        if !self.settings.origins.trust_cookies(headers) {
            forwarded.remove(header::COOKIE.as_str());
        }
        Ok(Context::new(dialect.name(), payload, &forwarded, self.credentials(headers, query)))
    }

    /// The tokens that a request brings beside its sync payload.
    fn credentials(&self, headers: &HeaderMap, query: Option<&str>) -> Credentials {
        Credentials::new(headers, query, self.settings.origins.trust_cookies(headers))
    }

    /// Whether a request without a sync payload, or whose payload is not read yet, comes from somebody with a good token: before
    /// anything is read or looked up for it.
    ///
    /// # Errors
    /// What to tell the client.
    async fn identify(&self, dialect: Dialect, parts: &Parts) -> Result<Account, String> {
        let credentials = self.credentials(&parts.headers, parts.uri.query());
        match self.settings.authentication.identify(&credentials).await {
            Ok(identity) if identity.claims.is_some() => Ok(self.settings.budget.subject(&identity.subject)),
            // What passes is waited for later.
            Ok(_) | Err(Refused::NoKeys | Refused::TooMany { .. }) => Ok(self.settings.budget.strangers()),
            Err(refused) => {
                let text = refused.to_string();
                self.refused(Asked::Connect, Reason::Token, dialect, &text);
                Err(text)
            }
        }
    }

    /// The log of a store, for a request that is a connection of its own.
    ///
    /// # Errors
    /// There can be no such store, or the payload is too large.
    fn store(
        &self,
        dialect: Dialect,
        store_id: &str,
        payload: Option<&RawValue>,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<StoreLog, String> {
        let store = StoreId::parse(store_id)?;
        let context = self.context(dialect, &store, payload, headers, query)?;
        Ok(self.log.store(store, context))
    }

    /// Reads a body within the bounds, once there is memory for it: as much as it says that it has. The memory is given back with
    /// the body.
    ///
    /// # Errors
    /// Which of the bounds it exceeds.
    async fn body(&self, body: Body, account: &Account) -> Result<Bytes, (StatusCode, String)> {
        self.body_of_at_most(body, account, self.settings.max_frame_bytes).await
    }

    async fn body_of_at_most(&self, body: Body, account: &Account, most: usize) -> Result<Bytes, (StatusCode, String)> {
        let hint = body.size_hint();
        let announced = usize::try_from(hint.upper().unwrap_or(hint.lower().max(UNANNOUNCED))).unwrap_or(usize::MAX);
        if hint.upper().is_some() && announced > most {
            return Err(too_large(most));
        }
        let share = match announced {
            0..=FREE => None,
            _ => match timeout(MEMORY_TIMEOUT, account.take(announced)).await {
                Ok(share) => share.map(Arc::new),
                Err(_) => {
                    return Err((StatusCode::SERVICE_UNAVAILABLE, "others send too much, try again later".into()));
                }
            },
        };
        // What says nothing of its size has as much as was taken for it.
        match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, most.min(announced))).await {
            Ok(Ok(body)) => Ok(budget::counted(body, share)),
            Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive".into())),
            Ok(Err(error)) if !error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
                Err((StatusCode::BAD_REQUEST, "the request broke off".into()))
            }
            Ok(Err(_)) => Err(too_large(most.min(announced))),
        }
    }
}

fn too_large(most: usize) -> (StatusCode, String) {
    Limit::FrameBytes.hit();
    (StatusCode::PAYLOAD_TOO_LARGE, format!("length limit exceeded: a request has at most {most} bytes"))
}

/// Wraps every request, whatever its path. One layer, because each layer boxes and copies the request inside it.
async fn around(request: Request, next: Next) -> Response {
    let response = observe::observe(tidy::tidy(request), next).await;
    for_our_pages(to_be_tried_again(response))
}

/// Refuses requests that no client of ours sends, whatever their protocol, and answers preflights as sync-cf does.
async fn for_clients(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    // Keeps out pages whose name resolves to this machine, where no token does.
    if !server.settings.hosts.serve(request.headers()) {
        let message = "this server answers to the names of its own machine only, as nobody has to prove here who they are: \
                       use localhost, or let the operator allow this name with --allowed-hosts";
        return refuse_any(request.headers(), StatusCode::MISDIRECTED_REQUEST, message);
    }
    // A few bytes that are compressed may stand for very many.
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "the body of a request must not be compressed";
        return refuse_any(request.headers(), StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_preflight {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// Keeps browsers from taking an answer for something else, and from handing it to pages that may not read it.
fn for_our_pages(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What other pages ask for by the rules of CORS is not concerned.
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Says when to come back to whoever is refused for something that passes: rates are of a second, the rest may take longer.
fn to_be_tried_again(mut response: Response) -> Response {
    let after = match response.status() {
        StatusCode::TOO_MANY_REQUESTS => "1",
        StatusCode::SERVICE_UNAVAILABLE => "10",
        _ => return response,
    };
    response.headers_mut().entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static(after));
    response
}

/// Refuses a request of which nobody knows the protocol, in a form that each client understands: that of S2 takes everything but
/// an event for an empty log, and asks again at once.
fn refuse_any(headers: &HeaderMap, status: StatusCode, message: &str) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return api::refuse_pull(status, message);
    }
    refuse((status, message.into()))
}

fn refuse((status, message): (StatusCode, String)) -> Response {
    let text = format!("{message}\n");
    (status, Extension(observe::Because(message)), text).into_response()
}

fn bad_request(message: &str) -> Response {
    refuse((StatusCode::BAD_REQUEST, message.into()))
}

/// To a request without the headers of a WebSocket.
fn upgrade_required() -> Response {
    let headers = [(header::UPGRADE, "websocket")];
    (StatusCode::UPGRADE_REQUIRED, headers, "this endpoint speaks WebSocket\n").into_response()
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
